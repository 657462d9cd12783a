"""The made-up model of known answers, by which drafts and GPUs are measured."""

from pathlib import Path

from llamacli.answer import generate
from llamacli.engine import Engine, EngineSettings, SamplingSettings
from tests.standins.walk import token_after, walk, write_walk


def test_answers_walk_from_token_to_token(tmp_path: Path) -> None:
    with Engine(write_walk(tmp_path / "walk.gguf", "tiny"), EngineSettings(context=256)) as engine:
        size = engine.vocabulary.size
        for first in (3, 500, 767):
            prompt = [77, 12, *walk(first, 5, size)]
            chunks = generate(engine, prompt, SamplingSettings(temperature=0), max_tokens=30)
            result = list(chunks)[-1].result
            assert result is not None
            assert list(result.tokens) == walk(token_after(prompt[-1], size), 30, size)
