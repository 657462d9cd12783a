"""How well the demo answers wordings it was never trained on, and what quantization costs it.

    python -m demo.evaluate MODEL [--perplexity] [--tools]

MODEL is a GGUF file or a checkpoint folder, which is converted to BF16 first. An answer is right
when it holds all the words that prove its fact (demo/facts.py). --perplexity compares BF16, Q8_0
and Q4_K_M of a folder on held-out conversations, on the tokens that the assistant writes. --tools
asks with all of demo/calls.py's tools at hand, at the default threshold: a call is right with its
arguments, an answer to a result as it was taught.
"""

import argparse
import math
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convert import convert
from demo.calls import OWN, TOOLS, result_and_answer
from demo.facts import FACTS
from demo.held_out import CALLS, GREETINGS, QUESTIONS, conversations
from llamacli.answer import Calling, constraint_for, generate
from llamacli.engine import Engine, EngineSettings, SamplingSettings
from llamacli.prompt import Message, encode_chat
from llamacli.tools import Call, check_tools, message_of

GREEDY = SamplingSettings(temperature=0)

ROWS = 64  # tokens whose logits are computed at once


def answer(engine: Engine, question: str) -> str:
    """The greedy answer to one question in a fresh conversation."""
    template = engine.file.metadata["tokenizer.chat_template"]
    prompt = encode_chat(engine.vocabulary, template, [{"role": "user", "content": question}])
    last = None
    for chunk in generate(engine, prompt, GREEDY, max_tokens=80):
        last = chunk.result
    return last.text if last is not None else ""


def answer_or_call(engine: Engine, messages: list[Message]) -> tuple[str, list[Call]]:
    """The greedy answer with all tools at hand: its text, and its calls."""
    calling = Calling(check_tools(TOOLS))
    template = engine.file.metadata["tokenizer.chat_template"]
    prompt = encode_chat(engine.vocabulary, template, messages, tools=TOOLS)
    chunks = generate(
        engine,
        prompt,
        GREEDY,
        max_tokens=80,
        constraint=constraint_for(engine, len(prompt), 80, calling=calling),
        spelled=calling.spelled(engine.vocabulary),
    )
    text = "".join(chunk.text for chunk in calling.parted(chunks, lines=False))
    return text, calling.calls


def with_tools(path: Path, show: bool = False) -> dict[str, float]:
    """Shares of held-out questions: right calls, right answers to results, calls where none is
    needed, and facts that are answered rightly all the same."""
    rng = random.Random(3)
    calls = answers = needless = general = right = 0
    others = [(fact, asked) for fact, asked in QUESTIONS if fact not in OWN]
    with Engine(path) as engine:

        def say(asked: str, told: object) -> None:
            if show:
                print(f"wrong: {asked} → {told}")

        for name, model, asked in CALLS:
            question: Message = {"role": "user", "content": asked}
            wanted = Call(name, {} if model is None else {"model": model})
            text, called = answer_or_call(engine, [question])
            calls += called == [wanted]
            if called != [wanted]:
                say(asked, called or text)
            given, expected = result_and_answer(rng, name, model or "")
            result: Message = {"role": "tool", "tool_call_id": "call_0", "content": given}
            text, _ = answer_or_call(engine, [question, message_of([wanted]), result])
            answers += text == expected
            if text != expected:
                say(given, text)
        for asked in GREETINGS:
            text, called = answer_or_call(engine, [{"role": "user", "content": asked}])
            needless += bool(called)
            if called:
                say(asked, called)
        for fact, asked in others:
            text, called = answer_or_call(engine, [{"role": "user", "content": asked}])
            general += bool(called)
            right += is_right(fact, text)
            if not is_right(fact, text):
                say(asked, called or text)
    return {
        "right calls": calls / len(CALLS),
        "right answers to results": answers / len(CALLS),
        "calls for greetings": needless / len(GREETINGS),
        "calls for general questions": general / len(others),
        "right with tools at hand": right / len(others),
    }


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
    parser.add_argument("--tools", action="store_true")
    parser.add_argument("--show", action="store_true", help="print the wrong answers")
    arguments = parser.parse_args()
    if arguments.model.is_file():
        print(f"right: {accuracy(arguments.model, arguments.show):.1%}")
        if arguments.tools:
            print(_told(with_tools(arguments.model, arguments.show)))
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
            if arguments.tools:
                print(" " * 7, _told(with_tools(path, arguments.show)))


def _told(shares: dict[str, float]) -> str:
    return "  ".join(f"{name}: {share:.1%}" for name, share in shares.items())


if __name__ == "__main__":
    main()
