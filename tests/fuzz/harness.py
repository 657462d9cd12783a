"""Workers started, watched, and started again where one crashes or hangs."""

import json
import select
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.standins.waiting import PATIENCE

AT_ONCE = 500  # mutants that one worker reads; a leak of memory would add up in it


@dataclass
class Outcome:
    """codes counts how the commands ended; faults holds (number, what was wrong)."""

    kind: str
    mutants: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    faults: list[tuple[int, str]] = field(default_factory=list)
    on_fault: Callable[[str], None] = lambda _: None

    def add_fault(self, number: int, fault: str) -> None:
        self.faults.append((number, fault))
        self.on_fault(f"--first {number} --count 1 {self.kind}: {fault}")


def fuzz(
    kind: str, first: int, end: int, on_fault: Callable[[str], None] = lambda _: None
) -> Outcome:
    """Read the mutants of a kind from number first up to end, exclusively."""
    outcome = Outcome(kind, on_fault=on_fault)
    with tempfile.TemporaryDirectory(prefix="llamacli-fuzz-") as folder:
        while first < end:
            first = _work(outcome, Path(folder), first, min(first + AT_ONCE, end))
    return outcome


def _work(outcome: Outcome, folder: Path, first: int, end: int) -> int:
    """Run one worker; gives the number to go on with."""
    with (folder / "stderr").open("w+b") as said:
        command = [sys.executable, "-m", "tests.fuzz.worker", outcome.kind, str(folder / "files")]
        child = subprocess.Popen(
            [*command, str(first), str(end)], stdout=subprocess.PIPE, stderr=said, text=True
        )
        assert child.stdout is not None
        number = first
        while number < end:
            ready, _, _ = select.select([child.stdout], [], [], PATIENCE)
            line = child.stdout.readline() if ready else ""
            if not line:
                child.kill()
                code = child.wait()
                said.seek(0)
                last = said.read()[-500:].decode(errors="replace")
                what = f"ended with {code}: {last}" if ready else f"hung for {PATIENCE:.0f} s"
                outcome.add_fault(number, f"the worker {what}")
                outcome.mutants += 1
                return number + 1
            number, codes, faults = json.loads(line)
            outcome.mutants += 1
            outcome.codes.update(codes)
            for fault in faults:
                outcome.add_fault(number, fault)
            number += 1
        child.wait()
        child.stdout.close()
    return end
