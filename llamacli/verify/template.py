"""The chat template: on sample conversations, the file's gives the checkpoint's text."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from convert import DEFAULT, TOOL_USE, Checkpoint
from llamacli.engine import common_prefix
from llamacli.errors import InvalidModelError
from llamacli.gguf import GGUFFile
from llamacli.prompt import render
from llamacli.show import find_templates
from llamacli.verify.rows import Row, judged, skipped
from llamacli.verify.vocabulary import expected_ids

ENOUGH = 3  # conversations that differ; a template that never ends takes 2 seconds for each
DATE = datetime(2024, 7, 26)
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


def template_row(file: GGUFFile, checkpoint: Checkpoint) -> Row:
    """Compare the templates, and where they differ what they render, sandboxed, or refuse."""
    wanted, found = checkpoint.chat_templates, find_templates(file)
    expected, stored = wanted.get(DEFAULT), found.get(DEFAULT)
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
    template = (sample.get("tools") and templates.get(TOOL_USE)) or templates[DEFAULT]
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
