"""A batch that runs for long: memory stays flat, descriptors don't leak, answers stay right."""

import json
import subprocess
import sys
from mmap import PAGESIZE
from pathlib import Path

import pytest

from demo.facts import FACTS
from llamacli.models.opening import demo_model

QUESTIONS = [(question, fact.proof) for fact in FACTS.values() for question in fact.ask]
WARM = 800  # answers after which every cell of the KV cache was used several times


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="it reads /proc")
def test_a_batch_of_two_thousand_prompts(store: Path, tmp_path: Path) -> None:
    asked = [QUESTIONS[i % len(QUESTIONS)] for i in range(2000)]
    lines = tmp_path / "lines"
    lines.write_text("".join(json.dumps({"prompt": text}) + "\n" for text, _ in asked))
    command = [
        "batch",
        lines,
        "-m",
        demo_model(),
        "--temp",
        "0",
        "-n",
        "64",
        "-c",
        "512",
        "-p",
        "4",
    ]
    child = subprocess.Popen(
        [sys.executable, "-m", "llamacli", *map(str, command), "--threads", "1", "--quiet"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    resident, descriptors, wrong = [], [], []
    for (question, proof), line in zip(asked, child.stdout, strict=True):
        answer = json.loads(line)["text"]
        if not all(words in answer for words in proof):
            wrong.append((question, answer))
        if child.poll() is None:  # the last lines may outlive it
            statm = Path(f"/proc/{child.pid}/statm").read_text().split()
            resident.append(int(statm[1]) * PAGESIZE)
            descriptors.append(len([*Path(f"/proc/{child.pid}/fd").iterdir()]))
    assert child.wait() == 0
    assert len(wrong) < 40, wrong
    assert max(resident[WARM:]) - resident[WARM] < 8 << 20  # 7 kB an answer
    assert max(descriptors[WARM:]) <= max(descriptors[:WARM])
