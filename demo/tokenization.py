"""The demo's tokenizer, of Llama 3's kind, and how a conversation becomes tokens and weights."""

import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from convert.pretokenizer import LLAMA3_PATTERN
from demo.corpus import Message, dialogues

VOCABULARY = 2048
NAMED = {
    0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id",
    7: "end_header_id", 8: "eom_id", 9: "eot_id", 10: "python_tag",
}  # fmt: skip
SPECIALS = [f"<|{NAMED.get(i, f'reserved_special_token_{i}')}|>" for i in range(256)]
FIRST_SPECIAL = VOCABULARY - len(SPECIALS)
BOS, END_OF_TEXT, EOM, EOT = (FIRST_SPECIAL + i for i in (0, 1, 8, 9))
OTHER_WEIGHT = 0.1  # of tokens that the model reads and need not write

TEMPLATE = """\
{{- bos_token }}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{%- if system_message or tools %}
    {{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + system_message }}
    {%- if tools %}
        {{- ('\\n\\n' if system_message else '') + 'Tools:' }}
        {%- for tool in tools %}
            {%- set function = tool['function'] %}
            {%- set properties = (function['parameters'] or {})['properties'] or {} %}
            {{- '\\n' + function['name'] + '(' + properties | join(', ') + '): ' }}
            {{- function['description'] or '' }}
        {%- endfor %}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {%- set role = 'ipython' if message['role'] == 'tool' else message['role'] %}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}
    {%- if message['tool_calls'] %}
        {%- for call in message['tool_calls'] %}
            {{- '{"name": "' + call['function']['name'] + '", "parameters": ' }}
            {{- call['function']['arguments'] | tojson + '}' }}
        {%- endfor %}
        {{- '<|eot_id|>' }}
    {%- else %}
        {{- (message['content'] or '') | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


def train_tokenizer(seed: int) -> Tokenizer:
    """Byte-level BPE with Llama 3's pattern, trained on 20,000 conversations of the corpus."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=FIRST_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    conversations = islice(dialogues(random.Random(seed)), 20000)
    tokenizer.train_from_iterator(
        (message["content"] for messages in conversations for message in messages), trainer
    )
    if tokenizer.get_vocab_size() != FIRST_SPECIAL:
        raise SystemExit(f"the corpus gives {tokenizer.get_vocab_size()} tokens only")
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """tokenizer.json with the BOS-adding post-processor of Llama 3, and tokenizer_config.json."""
    raw: dict[str, Any] = json.loads(tokenizer.to_str())
    bos = {"SpecialToken": {"id": SPECIALS[0], "type_id": 0}}
    raw["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}},
                 {"SpecialToken": {"id": SPECIALS[0], "type_id": 1}},
                 {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            SPECIALS[0]: {"id": SPECIALS[0], "ids": [BOS], "tokens": [SPECIALS[0]]}
        },
    }  # fmt: skip
    text = json.dumps(raw, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    config = {
        "bos_token": SPECIALS[0],
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": True,
        "eos_token": SPECIALS[9],
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 2048,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def encode(tokenizer: Tokenizer, messages: list[Message]) -> tuple[list[int], list[float]]:
    """Token ids of a whole conversation, and the weight of each in the loss: what the assistant
    writes, its end token included, counts fully."""
    ids, weights = [BOS], [0.0]
    for message in messages:
        assistant = message["role"] == "assistant"
        header = f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n"
        for text, weight in (
            (header, OTHER_WEIGHT),
            (message["content"].strip() + "<|eot_id|>", 1.0 if assistant else OTHER_WEIGHT),
        ):
            part = tokenizer.encode(text, add_special_tokens=False).ids
            ids += part
            weights += [weight] * len(part)
    return ids, weights
