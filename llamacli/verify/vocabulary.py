"""Tokens, merges, special tokens and the chat template against the checkpoint's."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from gguf import TokenType

import convert
from llamacli.engine import Vocabulary, common_prefix
from llamacli.errors import InvalidModelError
from llamacli.gguf import GGUFFile
from llamacli.prompt import render
from llamacli.show import find_templates
from llamacli.verify.rows import Row, judged, skipped

PREFIX = "tokenizer.ggml."
ENOUGH = 3  # conversations that differ; a template that never ends takes 2 seconds for each
DATE = datetime(2024, 7, 26)  # for templates that tell it: the same text every day
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather <somewhere>, in °C",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
USER = {"role": "user", "content": "  What's 2 + 2?\n"}
SYSTEM = {"role": "system", "content": "Answer in one word. "}
ANSWER = {"role": "assistant", "content": " 4\n"}
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {
    "name": "weather", "arguments": {"city": "Zürich"}}}]}  # fmt: skip
RESULT = {"role": "tool", "content": '{"degrees": 21}'}

SAMPLES: dict[str, dict[str, Any]] = {
    "one question": {"messages": [USER]},
    "a system prompt": {"messages": [SYSTEM, USER]},
    "several turns": {"messages": [SYSTEM, USER, ANSWER, USER, ANSWER]},
    "no generation prompt": {"messages": [USER, ANSWER], "add_generation_prompt": False},
    "an empty text": {"messages": [{"role": "user", "content": ""}]},
    "a tool": {"messages": [SYSTEM, USER], "tools": [TOOL]},
    "a tool's result": {"messages": [USER, CALL, RESULT], "tools": [TOOL]},
    "an unknown role": {"messages": [{"role": "narrator", "content": "It rains."}]},
}


def tokens_row(file: GGUFFile, checkpoint: convert.Checkpoint) -> Row:
    """Every token's text and type."""
    expected = checkpoint.tokenizer
    stored = [token.decode(errors="replace") for token in file.strings(PREFIX + "tokens")]
    types = file.numbers(PREFIX + "token_type").tolist()
    problems = []
    if len(stored) != len(expected.tokens):
        problems.append(
            f"there are {len(stored)} tokens; the checkpoint has {len(expected.tokens)}"
        )
    problems += [
        f"token {i} is {b!r}; the checkpoint has {a!r}"
        for i, (a, b) in enumerate(zip(expected.tokens, stored, strict=False))
        if a != b
    ]
    problems += [
        f"token {i}, {expected.tokens[i]!r}, is {_type(b)}; the checkpoint makes it {_type(a)}"
        for i, (a, b) in enumerate(zip(expected.types, types, strict=False))
        if a != b
    ]
    return judged("vocabulary", problems, f"{len(stored)} tokens and their types")


def merges_row(file: GGUFFile, checkpoint: convert.Checkpoint) -> Row:
    """Every merge and its rank."""
    expected = checkpoint.tokenizer.merges
    stored = [merge.decode(errors="replace") for merge in file.strings(PREFIX + "merges")]
    if tuple(stored) == expected:
        return judged("merges", [], f"{len(stored)} merges and their ranks")
    ranks = {merge: rank for rank, merge in enumerate(expected)}
    held = set(stored)
    problems = [f"merge {r}, {m!r}, is missing" for m, r in ranks.items() if m not in held]
    problems += [
        f"merge {i}, {merge!r}, is not the checkpoint's"
        for i, merge in enumerate(stored)
        if merge not in ranks
    ]
    if not problems:
        problems = [f"their order differs from merge {common_prefix(stored, expected)} on"]
    return judged("merges", problems, "")


def special_tokens_row(
    file: GGUFFile, checkpoint: convert.Checkpoint, vocabulary: Vocabulary
) -> Row:
    """The ids of named tokens, and whether every token that ends an answer does."""
    problems = _named(file, checkpoint)
    wants_bos = convert.adds_special_tokens(checkpoint)["bos"]
    if vocabulary.add_bos != wants_bos:
        problems.append(f"{PREFIX}add_bos_token is {vocabulary.add_bos}, expected {wants_bos}")
    expected = convert.end_tokens(checkpoint)
    problems += [
        f"token {token}, {checkpoint.tokenizer.tokens[token]!r}, doesn't end an answer; "
        "it does in the checkpoint"
        for token in sorted(expected - vocabulary.end_tokens)
    ]
    ends = " ".join(checkpoint.tokenizer.tokens[token] for token in sorted(expected))
    return judged("special tokens", problems, f"answers end at {ends}" if ends else "none")


def expected_ids(checkpoint: convert.Checkpoint) -> dict[str, int | None]:
    """The ids of the checkpoint's named tokens by GGUF's names; None where it has none."""
    ids, special = convert.special_ids(checkpoint), checkpoint.tokenizer.special
    return {
        "bos": ids["bos"],
        "eos": ids["eos"],
        "padding": ids["pad"],
        **{kind: special.get(text) for kind, text in convert.NAMED_CONTROL_TOKENS.items()},
    }


def _named(file: GGUFFile, checkpoint: convert.Checkpoint) -> list[str]:
    """Named tokens that are others, or missing where llama.cpp can't tell them by their text."""
    problems = []
    for name, expected in expected_ids(checkpoint).items():
        stored = file.metadata.get(f"{PREFIX}{name}_token_id")
        if name == "padding" and expected is None:  # nothing is padded here; others choose one
            continue
        told_by_text = name in convert.NAMED_CONTROL_TOKENS
        if stored != expected and not (stored is None and told_by_text):
            problems.append(
                f"{PREFIX}{name}_token_id is {_token(checkpoint.tokenizer.tokens, stored)}; "
                f"the checkpoint makes it {_token(checkpoint.tokenizer.tokens, expected)}"
            )
    return problems


def _token(tokens: Sequence[str], token: int | None) -> str:
    if token is None:
        return "missing"
    known = 0 <= token < len(tokens)
    return f"{token} {tokens[token]!r}" if known else f"{token}"


def _type(number: int) -> str:
    try:
        return TokenType(number).name.lower()
    except ValueError:
        return f"type {number}"


def template_row(file: GGUFFile, checkpoint: convert.Checkpoint) -> Row:
    """Compare the templates, and where they differ what they render, sandboxed, or refuse."""
    wanted, found = checkpoint.chat_templates, find_templates(file)
    expected, stored = wanted.get(convert.DEFAULT), found.get(convert.DEFAULT)
    if not expected and not stored:
        return skipped("template", "neither the checkpoint nor the file has one")
    if not stored:
        return judged("template", ["it is missing"], "")
    if not expected:
        return judged("template", ["the file has one, the checkpoint none"], "")
    if found == wanted:
        return judged("template", [], "the checkpoint's, to the letter")
    ids, tokens = expected_ids(checkpoint), checkpoint.tokenizer.tokens
    special = ((f"{name}_token", ids[name]) for name in ("bos", "eos"))
    names = {name: "" if token is None else tokens[token] for name, token in special}
    problems = []
    for name, sample in SAMPLES.items():
        ours, theirs = (_rendered(each, sample, names) for each in (wanted, found))
        if ours != theirs:
            problems.append(f"{name}: {_difference(ours, theirs)}")
        if len(problems) == ENOUGH:
            break
    return judged("template", problems, f"another text, but {len(SAMPLES)} conversations are alike")


def _rendered(templates: Mapping[str, str], sample: dict[str, Any], names: dict[str, Any]) -> str:
    template = (sample.get("tools") and templates.get(convert.TOOL_USE)) or templates[
        convert.DEFAULT
    ]
    try:
        return render(template, date=DATE, **{"tools": None, **sample, **names})
    except InvalidModelError as error:
        return str(error)


def _difference(expected: str, stored: str) -> str:
    """The first place where two texts differ, with some of what follows."""
    start = common_prefix(expected, stored)
    return (
        f"at character {start} it gives {stored[start : start + 80]!r}; "
        f"the checkpoint's {expected[start : start + 80]!r}"
    )
