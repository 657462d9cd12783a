"""How many tokens of prompts a step may read while others wait for their next token."""

from dataclasses import dataclass

LEAST = 16  # tokens; fewer cost a step nearly the same
# Tokens of a batch from which on llama.cpp's attention on a CPU goes by tiles. 1,000 tokens into a
# small model's prompt a token costs a fifth then: 13 of them take as long as 64 would.
TILE = 64
GAP = 0.3  # seconds that a step may take while others wait, or twice a step without a prompt
# Answers may wait for their second token so many seconds, or as long as so many more tokens take.
TOGETHER, TOKENS = 1.5, 64
# What it should on a GPU: so many steps without a prompt, since a larger part of a prompt is hardly
# read any faster then (512 tokens take ten such steps); but seconds that nobody notices.
STEPS, SHORT = 5, 0.02
SMOOTH = 0.4  # the weight of what was measured last


@dataclass
class Pace:
    """Measures steps: seconds of one of answers alone, and for a token of a prompt in batches of
    less than TILE tokens (few) and of more (many), which are the same where there are no tiles.

    slice is a number of tokens that was asked for; None chooses it by the gap.
    """

    slice: int | None = None
    tiles: bool = True
    gpu: bool = False
    few: float | None = None
    many: float | None = None
    answers: float | None = None

    def most(self, beside: int = 0, pending: int = 0) -> int:
        """Of so many pending tokens of prompts, those for a step that so many answers wait for.

        What is worth a tile is read also where it takes two gaps, and so are an end that would be
        less than one and a whole prompt of two.
        """
        if self.slice is not None:
            return self.slice
        tile = max(LEAST, TILE - beside) if self.tiles else LEAST
        if self.many is None:
            return tile
        alone = self.answers or 0.0
        gap = max(GAP, 2 * alone) - alone
        if tile * self.many <= 2 * gap:
            wished = min(gap, max(SHORT, STEPS * alone) - alone) if self.gpu else gap
            most = max(tile, int(wished / self.many))
            rest = max(most + TILE, 2 * TILE + LEAST)
            ends = most < pending < rest and pending * self.many <= 2 * gap
            return pending if ends else most
        few = self.few if self.few is not None else self.many
        return min(tile, max(LEAST, int(gap / few)))

    def together(self, pending: int, waited: float | None, fits: bool) -> bool:
        """Whether so many tokens of prompts are to be read before answers that have their first
        token, and waited so many seconds, get the next: side by side from there on, they cost less
        than one ahead of another. Waited is None where there are none; then they may also be those
        that a batch has room for, whatever time they take."""
        if self.slice is not None or self.gpu:
            return False
        if waited is None and fits:
            return True
        most = max(TOGETHER, TOKENS * (self.answers or 0.0))
        return self.many is not None and self.many * pending + (waited or 0.0) <= most

    def measured(self, prompt: int, answers: int, seconds: float) -> None:
        """A step with so many tokens of prompts and of answers took that long."""
        if not prompt:
            self.answers = _mean(self.answers, seconds)
        elif prompt >= LEAST:
            rest = seconds - (self.answers or 0.0) if answers else seconds
            cost = max(rest, seconds / 8) / prompt
            if self.tiles and prompt + answers < TILE:
                self.few = _mean(self.few, cost)
            else:
                self.many = _mean(self.many, cost)


def _mean(before: float | None, now: float) -> float:
    return now if before is None else before + SMOOTH * (now - before)
