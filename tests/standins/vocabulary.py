"""A small vocabulary with Llama 3's 256 control tokens, and templates that look into messages.

All of it is ours, and made in a moment: what SECURITY.md promises is tested on every machine.
"""

from pathlib import Path
from typing import Any

from llamacli.engine import Vocabulary, load_vocabulary
from llamacli.prompt import LLAMA3_TEMPLATE
from tests.standins.tiny import VOCABULARY, made_up_tokenizer, write_model

NAMED = {
    0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id",
    7: "end_header_id", 8: "eom_id", 9: "eot_id", 10: "python_tag",
}  # fmt: skip


def control_tokens() -> list[str]:
    """The spellings of Llama 3.1 to 3.3's control tokens, in the order of their ids."""
    reserved = (f"reserved_special_token_{i}" for i in range(256))
    return [f"<|{NAMED.get(i) or next(reserved)}|>" for i in range(256)]


def small_tokenizer(spellings: list[str] | None = None) -> dict[str, Any]:
    """A tokenizer.json of 1,024 tokens whose last 256 have the given spellings, else Llama 3's."""
    raw = made_up_tokenizer(VOCABULARY)
    for entry, spelling in zip(raw["added_tokens"], spellings or control_tokens(), strict=False):
        entry["content"] = spelling
    return raw


def write_vocabulary(path: Path, **settings: Any) -> Path:
    """A GGUF file of it without weights; settings are write_model's."""
    return write_model(path, tokenizer=small_tokenizer(), weights=False, **settings)


def small_vocabulary(path: Path, **settings: Any) -> Vocabulary:
    return load_vocabulary(write_vocabulary(path, **settings))


def _turns(content: str) -> str:
    """A template of Llama 3's kind that does something to each message's content."""
    return (
        "{{ bos_token }}{% for message in messages %}{% set content = message['content'] %}"
        "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
        f"{content}<|eot_id|>"
        "{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    )


TEMPLATES = {
    "llama 3": LLAMA3_TEMPLATE,
    "as it is": _turns("{{ content }}"),
    "trim": _turns("{{ content | trim }}"),
    "split": _turns("{{ content.split('</think>')[-1].lstrip('\n') }}"),
    "join": _turns("{{ content.split('</think>') | join('') }}"),
    "join letters": _turns("{{ content | list | join }}"),
    "replace": _turns("{{ content | replace('X', '') }}{{ content.replace('\ufdd0', '') }}"),
    "reverse": _turns("{{ content | reverse }}{{ content[::-1] }}"),
    "case": _turns("{{ content | lower }}{{ content.upper().swapcase() }}"),
    "slices": _turns("{{ content[:3] }}{{ content[3:] }}{{ content[1:-1] }}"),
    "json": _turns("{{ content | tojson }}{{ {content: [content]} | tojson(ensure_ascii=True) }}"),
    "format": _turns("{{ '%s%s' % (content[:2], content[2:]) }}{{ '{}'.format(content) }}"),
    "blocks": _turns("{% set x %}<{{ content }}{% endset %}{{ x ~ '|>' ~ content }}"),
    "around": _turns("<|{{ content }}|>{{ '<|' + content + '|>' }}"),
    "macro": "{% macro shown(c) %}{{ c }}{% endmacro %}" + _turns("{{ shown(content) | safe }}"),
}
TOOL_TEMPLATE = """\
{{ bos_token }}{% for tool in tools or [] %}{{ tool | tojson }}
{% for key in tool.function %}{{ key }} {% endfor %}{% endfor %}<|eot_id|>
{%- for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>

{% for call in message.tool_calls or [] %}<|python_tag|>{{ call.function.name }}
{{ call.function.arguments | tojson }}<|eom_id|>{% endfor %}
{{ message.name }}{{ message.content }}<|eot_id|>{% endfor %}
"""
