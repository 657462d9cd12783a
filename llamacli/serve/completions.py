"""/v1/completions: a text in, what follows it out."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from llamacli.serve import openai
from llamacli.serve.answers import Answers, Whole
from llamacli.serve.ask import MAX_CHOICES, MAX_TOP, Ask, refuse
from llamacli.serve.faults import invalid, unsupported
from llamacli.serve.fields import Fields, shown
from llamacli.serve.logprobs import Said

MAX_PROMPTS = 64
DEFAULT_TOKENS = 16  # OpenAI's own


def _prompts(fields: Fields) -> Sequence[str | list[int]]:
    """A text, tokens, or a list of either."""
    value = fields.take("prompt")
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise invalid("prompt", f"is a text, tokens, or a list of them, not {shown(value)}")
    if all(type(token) is int for token in value):
        return [value]
    if len(value) > MAX_PROMPTS:
        raise invalid("prompt", f"has {len(value)} prompts; at most {MAX_PROMPTS} are answered")
    for i, prompt in enumerate(value):
        tokens = isinstance(prompt, list) and prompt and all(type(t) is int for t in prompt)
        if not (isinstance(prompt, str) or tokens):
            raise invalid(f"prompt.{i}", f"is a text or tokens, not {shown(prompt)}")
    return value


class CompletionAnswer:
    """A completion's objects, whole or as chunks."""

    done = "[DONE]"

    @staticmethod
    def read(fields: Fields) -> Ask:
        """Raises Fault with the field's path."""
        prompts = _prompts(fields)
        common = openai.read_common(fields)
        refuse(fields, {"echo": "", "suffix": ""})
        if (best := fields.whole("best_of", 1, MAX_CHOICES)) is not None and best != common["n"]:
            raise unsupported("best_of", " beyond n")
        logprobs = fields.whole("logprobs", 0, MAX_TOP)
        fields.end()
        common["max_tokens"] = common["max_tokens"] or DEFAULT_TOKENS
        return openai.check_shape(Ask(prompts=prompts, logprobs=logprobs, **common))

    def __init__(self, ask: Ask, answers: Answers) -> None:
        self.ask, self.answers = ask, answers
        self.head = openai.head("cmpl", "text_completion", answers.model.name)

    def whole(self, answers: list[Whole]) -> dict[str, Any]:
        choices = [
            self._choice(answer.index, answer.text, answer.logprobs, answer.result.finish_reason)
            for answer in answers
        ]
        told = openai.usage(self.answers.prompt_tokens, [answer.result for answer in answers])
        return {**self.head, "choices": choices, "usage": told}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Raises Fault in mid-stream."""
        results, empty = [], {"usage": None} if self.ask.include_usage else {}
        async for piece in self.answers.pieces():
            finish = None
            if piece.result is not None:
                results.append(piece.result)
                finish = piece.result.finish_reason
            if piece.text or finish:
                choice = self._choice(piece.index, piece.text, piece.logprobs, finish)
                yield {**self.head, "choices": [choice], **empty}
        if self.ask.include_usage:
            told = openai.usage(self.answers.prompt_tokens, results)
            yield {**self.head, "choices": [], "usage": told}

    def _choice(
        self, index: int, text: str, logprobs: Sequence[Said], finish: str | None
    ) -> dict[str, Any]:
        told = self._logprobs(logprobs) if self.ask.logprobs is not None else None
        return {"index": index, "text": text, "logprobs": told, "finish_reason": finish}

    def _logprobs(self, logprobs: Sequence[Said]) -> dict[str, Any]:
        """A character that several tokens make is the last one's."""
        text_of = self.answers.model.engine.vocabulary.text_of
        chosen = [one.chosen for one in logprobs]
        return {
            "tokens": [one.text for one in logprobs],
            "token_logprobs": [openai.bounded(one.logprob) for one in chosen],
            "top_logprobs": [
                {text_of([t]): openai.bounded(p) for t, p in one.top} for one in chosen
            ],
            "text_offset": [one.start for one in logprobs],
        }
