"""A fixed thousand of hostile files of all kinds; `make fuzz` reads ten thousand of each."""

import sys

import pytest

from tests.fuzz import worker
from tests.fuzz.harness import fuzz
from tests.fuzz.kinds import KINDS

THOUSAND = 1000 // len(KINDS) + 1
# Kinds of which a bad one is read but for what is bad, nearly always.
COSTS_A_PART = ("card", "session")


@pytest.mark.parametrize("kind", KINDS)
def test_every_mutant_ends_in_an_answer_or_a_named_error(kind: str) -> None:
    outcome = fuzz(kind, 0, THOUSAND)
    assert outcome.mutants == THOUSAND and not outcome.faults, outcome.faults
    refused = any(code != 0 for code in outcome.codes)
    assert 0 in outcome.codes
    assert refused or kind in COSTS_A_PART


@pytest.mark.parametrize(
    ("code", "said", "fault"),
    [
        (1, "llamacli: unexpected TypeError: what", "exit code 1"),
        (3, "", "without an error"),
        (3, "Traceback (most recent call last):\n", "without an error"),
        (3, "llamacli: a \x1b[31mred\x1b[0m name", "control characters"),
        (3, "llamacli: " + "x" * 20_000, "20010 characters"),
        (3, "llamacli: this is no model", ""),
        (0, "", ""),
    ],
)
def test_the_harness_sees_what_it_looks_for(
    monkeypatch: pytest.MonkeyPatch, code: int, said: str, fault: str
) -> None:
    def main(arguments: list[str]) -> None:
        sys.stderr.write(said)
        sys.exit(code)

    monkeypatch.setattr(worker.cli, "main", main)
    result = worker.run(["run"])
    assert result[0] == code and fault in result[1] and bool(fault) == bool(result[1])
