"""How many tokens of prompts a step may read while others wait for their next token."""

from dataclasses import dataclass

LEAST = 16  # tokens; fewer cost a step nearly the same
GAP = 0.2  # seconds that a step may take while others wait, or twice a step without a prompt
SMOOTH = 0.2  # the weight of what was measured last


@dataclass
class Pace:
    """Measures steps: seconds for a token of a prompt, and for a step of answers alone.

    slice is a number of tokens that was asked for; None chooses it by the gap.
    """

    slice: int | None = None
    prompt_token: float | None = None
    answers: float | None = None

    def most(self) -> int:
        """Tokens of prompts for a step that others wait for."""
        if self.slice is not None:
            return self.slice
        if self.prompt_token is None:
            return 4 * LEAST
        gap = max(GAP, 2 * (self.answers or 0.0)) - (self.answers or 0.0)
        return max(LEAST, int(gap / self.prompt_token))

    def measured(self, prompt: int, answers: int, seconds: float) -> None:
        """A step with so many tokens of prompts and of answers took that long."""
        if not prompt:
            self.answers = _mean(self.answers, seconds)
        elif prompt >= LEAST:
            rest = seconds - (self.answers or 0.0) if answers else seconds
            self.prompt_token = _mean(self.prompt_token, max(rest, seconds / 8) / prompt)


def _mean(before: float | None, now: float) -> float:
    return now if before is None else before + SMOOTH * (now - before)
