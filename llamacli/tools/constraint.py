"""When a model calls and when it answers, and that its calls are of the tools that there are.

The choice falls at the answer's first token, by the probability of all tokens that open a call
against a threshold, not by the one that happens to be drawn. A call is then held to the names of
the tools and to their schemas; an answer goes on as without tools.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from llamacli.engine import Vocabulary, sample_among
from llamacli.errors import UsageError
from llamacli.shape import Constraint, Grammar, constrained, moved, read_schema
from llamacli.tools.definitions import Tool, chosen_tools
from llamacli.tools.forms import CALL_TAG, PYTHON_TAG

DEFAULT_THRESHOLD = 0.5
MOST_CALLS = 16  # in one answer
ANY_LENGTH = 1 << 20  # tokens
OPENING = re.compile(rb"\s*(?:\{(?:\"|$)|\[(?:\{|$)|<function|<tool_call|<\|python)")

Choice = Literal["none", "auto", "required"] | str


@dataclass
class ToolConstraint:
    """What generate takes as a constraint; free says that a token is drawn as without one.

    calls is None until the first token is chosen, then whether the answer is a call; probability
    is what all openings of a call had there.
    """

    held: Constraint
    openings: NDArray[np.int32]
    threshold: float | None  # None: it calls in any case
    calls: bool | None = None
    probability: float | None = None

    def copy(self) -> Self:
        """Another at the same place, for another answer."""
        return replace(self, held=self.held.copy())

    @property
    def free(self) -> bool:
        return self.calls is False

    @property
    def uncut(self) -> bool:
        return bool(self.calls)

    @property
    def done(self) -> bool:
        return not self.free and self.held.done

    @property
    def cut(self) -> bool:
        return not self.free and self.held.cut

    def choose(self, chain: Any, logits: NDArray[np.float32], left: int) -> int:
        """The next token, as Constraint's; not to be asked where free is set."""
        if self.calls is None:
            self.calls = self._calls(logits)
            if not self.calls:
                return self._answer(chain, logits)
        return self.held.choose(chain, logits, left)

    def valid(self, tokens: Sequence[int]) -> int:
        """How many of tokens, the first ones, may follow, as of a draft."""
        return self.held.valid(tokens) if self.calls else len(tokens)

    def _calls(self, logits: NDArray[np.float32]) -> bool:
        if self.threshold is None:
            return True
        shifted = np.exp(logits.astype(np.float64) - float(logits.max()))
        self.probability = float(shifted[self.openings].sum() / shifted.sum())
        return self.probability >= self.threshold

    def _answer(self, chain: Any, logits: NDArray[np.float32]) -> int:
        """The first token of a text, none that opens a call."""
        allowed = np.setdiff1d(np.arange(len(logits), dtype=np.int32), self.openings)
        library = self.held.vocabulary.library
        token = sample_among(library, chain, logits, allowed)
        library.llama_sampler_accept(chain, token)
        return token


def tool_constraint(
    vocabulary: Vocabulary,
    tools: Sequence[Tool],
    most: int,
    *,
    choice: Choice = "auto",
    parallel: bool = True,
    threshold: float | None = None,
) -> ToolConstraint | None:
    """What holds an answer of at most that many tokens to calls; None where it may not call.

    With auto it only answers where the shortest call doesn't fit. Raises UsageError for a choice
    that there isn't, and where a call is required that doesn't fit.
    """
    threshold = DEFAULT_THRESHOLD if threshold is None else threshold
    if not 0 <= threshold <= 1:
        raise UsageError(f"the threshold of tools is {threshold:g}; give a number from 0 to 1")
    if choice == "none":
        return None
    among = tools if choice in ("auto", "required") else chosen_tools(tools, choice)
    grammar = calls_grammar(among, parallel=parallel)
    try:
        held = constrained(vocabulary, grammar, most)
    except UsageError:
        if choice != "auto":
            raise
        held, threshold = constrained(vocabulary, grammar, ANY_LENGTH), math.inf  # it only answers
    return ToolConstraint(held, opening_tokens(vocabulary), threshold if choice == "auto" else None)


def calls_grammar(tools: Sequence[Tool], *, parallel: bool) -> Grammar:
    """One call as Llama 3.1 and later are told to write it, or a list of such where parallel."""
    calls: list[dict[str, Any]] = []
    definitions = {}
    for tool in tools:
        given = {word: value for word, value in tool.parameters.items() if word != "$id"}
        parameters = moved(given, f"#/$defs/{tool.name}")
        if parameters != given:  # it has references, which lead there
            definitions[tool.name] = parameters
            parameters = {"$ref": f"#/$defs/{tool.name}"}
        properties = {"name": {"const": tool.name}, "parameters": parameters}
        calls.append({"type": "object", "properties": properties, "required": [*properties],
                      "additionalProperties": False})  # fmt: skip
    one: dict[str, Any] = {"anyOf": calls} if len(calls) > 1 else calls[0]
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": MOST_CALLS}
    schema = {"anyOf": [one, many]} if parallel else one
    return read_schema(json.dumps({**schema, "$defs": definitions} if definitions else schema))


def opening_tokens(vocabulary: Vocabulary) -> NDArray[np.int32]:
    """The tokens by which an answer begins as a call, in any form of the family's."""
    special = vocabulary.special_tokens
    tags = [special[tag] for tag in (PYTHON_TAG, CALL_TAG) if tag in special]
    return np.array(vocabulary.matching(OPENING) + tags, np.int32)
