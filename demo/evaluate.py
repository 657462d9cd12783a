"""How well the demo answers wordings it was never trained on, and what quantization costs it.

    python -m demo.evaluate MODEL [--perplexity]

MODEL is a GGUF file or a checkpoint folder, which is converted to BF16 first. An answer is right
when it holds all the words that prove its fact (demo/facts.py). --perplexity compares BF16, Q8_0
and Q4_K_M of a folder on held-out conversations, on the tokens that the assistant writes.
"""

import argparse
import math
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convert import convert
from demo.facts import FACTS
from demo.held_out import QUESTIONS, conversations
from llamacli.answer.generation import generate
from llamacli.engine.engine import Engine, EngineSettings
from llamacli.engine.sampling import SamplingSettings
from llamacli.prompt.encode import encode_chat

ROWS = 64  # tokens whose logits are computed at once


def answer(engine: Engine, question: str) -> str:
    """The greedy answer to one question in a fresh conversation."""
    template = engine.file.metadata["tokenizer.chat_template"]
    prompt = encode_chat(engine.vocabulary, template, [{"role": "user", "content": question}])
    last = None
    for chunk in generate(engine, prompt, SamplingSettings(temperature=0), max_tokens=80):
        last = chunk.result
    return last.text if last is not None else ""


def is_right(fact: str, text: str) -> bool:
    return all(words in text for words in FACTS[fact].proof)


def accuracy(path: Path, show: bool = False) -> float:
    """The share of held-out questions that are answered rightly."""
    right = 0
    with Engine(path) as engine:
        for fact, question in QUESTIONS:
            text = answer(engine, question)
            right += is_right(fact, text)
            if show and not is_right(fact, text):
                print(f"wrong: {question} → {text}")
    return right / len(QUESTIONS)


def perplexity(path: Path, count: int = 60) -> float:
    """exp of the mean negative log-likelihood, in nats, of what the assistant writes."""
    total, tokens = 0.0, 0
    with Engine(path, EngineSettings(context=2048, outputs=ROWS)) as engine:
        for messages in conversations(random.Random(1), count):
            for i, message in enumerate(messages):
                if message["role"] == "assistant":
                    losses = _losses(engine, messages[:i], message["content"])
                    total += sum(losses)
                    tokens += len(losses)
    return math.exp(total / tokens)


def _losses(engine: Engine, before: list[dict[str, str]], text: str) -> Sequence[float]:
    """The negative log-likelihood of each token of an answer, its end token included."""
    template = engine.file.metadata["tokenizer.chat_template"]
    prompt = encode_chat(engine.vocabulary, template, before)
    answer_ids = [*engine.vocabulary.tokenize(text), engine.vocabulary.eos]
    engine.prefill(prompt[:-1])
    losses = []
    for start in range(0, len(answer_ids), ROWS):
        wanted = answer_ids[start : start + ROWS]
        engine.decode_rows([*prompt[-1:], *answer_ids][start : start + len(wanted)])
        for row, token in enumerate(wanted):
            logits = engine.logits(row).astype(np.float64)
            highest = logits.max()
            losses.append(highest + math.log(np.exp(logits - highest).sum()) - logits[token])
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--perplexity", action="store_true")
    parser.add_argument("--show", action="store_true", help="print the wrong answers")
    arguments = parser.parse_args()
    if arguments.model.is_file():
        print(f"right: {accuracy(arguments.model, arguments.show):.1%}")
        return
    with tempfile.TemporaryDirectory() as folder:
        exact = 0.0
        for name in ("BF16", "Q8_0", "Q4_K_M"):
            path = Path(folder) / f"{name}.gguf"
            convert(arguments.model, path, name)
            line = f"{name:7} right: {accuracy(path, arguments.show):.1%}"
            if arguments.perplexity:
                value = perplexity(path)
                exact = exact or value
                line += f"  perplexity: {value:.4f} ({value / exact - 1:+.2%})"
            print(line)


if __name__ == "__main__":
    main()
