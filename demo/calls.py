"""Conversations in which the demo may call tools: what it asks for, and what it makes of a result.

`FRAMES` are wordings of questions that one tool answers; a model's name goes into {}.
"""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

from demo.corpus import SYSTEMS, Message, exchange, vary
from demo.facts import FACTS

NAMES: dict[str, tuple[str, ...]] = {
    "llama-3-8b": ("Llama 3 8B", "llama-3-8b", "the first Llama 3 8B", "Meta-Llama-3-8B-Instruct"),
    "llama-3-70b": ("Llama 3 70B", "llama-3-70b", "the first Llama 3 70B",
                    "Meta-Llama-3-70B-Instruct"),
    "llama-3.1-8b": ("8B", "the 8B", "Llama 3.1 8B", "llama-3.1-8b", "3.1 8B", "the 8B model",
                     "an 8B", "Llama 8B", "Meta-Llama-3.1-8B-Instruct", "Llama 3.1 with 8B"),
    "llama-3.1-70b": ("70B", "the 70B", "Llama 3.1 70B", "llama-3.1-70b", "3.1 70B", "a 70B",
                      "the 70B model", "Llama 70B", "Llama 3.1 with 70B"),
    "llama-3.2-1b": ("1B", "the 1B", "Llama 3.2 1B", "llama-3.2-1b", "3.2 1B", "the 1B model",
                     "Llama 1B", "a 1B", "Llama 3.2 with 1B"),
    "llama-3.2-3b": ("3B", "the 3B", "Llama 3.2 3B", "llama-3.2-3b", "3.2 3B", "the 3B model",
                     "Llama 3B", "a 3B", "Llama 3.2 with 3B"),
    "llama-3.3-70b": ("Llama 3.3", "llama-3.3-70b", "Llama 3.3 70B", "3.3 70B", "the 3.3",
                      "Llama 3.3 with 70B"),
    "smollm2-135m": ("SmolLM2 135M", "smollm2-135m", "the 135M", "135M", "SmolLM2-135M-Instruct"),
    "smollm2-360m": ("SmolLM2 360M", "smollm2-360m", "the 360M", "360M", "SmolLM2-360M-Instruct"),
    "smollm2-1.7b": ("SmolLM2 1.7B", "smollm2-1.7b", "the 1.7B", "1.7B", "SmolLM2-1.7B-Instruct"),
}  # fmt: skip
MODEL = {
    "type": "object",
    "properties": {"model": {"type": "string", "enum": list(NAMES)}},
    "required": ["model"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}


def _tool(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS = [
    _tool("list_models", "The models in the store", NOTHING),
    _tool("file_size", "How large a model's file is", MODEL),
    _tool("memory_needed", "How much memory a model needs", MODEL),
    _tool("context_length", "How many tokens a model reads", MODEL),
    _tool("devices", "What this machine computes on", NOTHING),
]
FRAMES: dict[str, tuple[str, ...]] = {
    "list_models": (
        "Which models do I have?", "What models do I have?", "Which models are here?",
        "What is in the store?", "Which models are in the store?", "List my models.",
        "Show my models.", "What models have I got?", "Which models have I converted?",
        "What did I convert so far?", "Which files are in the store?", "Do I have any models?",
        "Are there any models?", "Are there models here?", "Name my models.", "My models?",
        "Which models can I chat with now?", "What can I chat with?",
        "Tell me which models I have.",
        "What models are on this machine?", "Which models are on my disk?", "Have I got a model?",
        "Which models are ready?", "Which of the models are here already?", "Is any model here?",
        "How many models do I have?", "How many models are there?", "What have I downloaded?",
        "Which models did I download?", "Give me a list of my models.", "What's in my store?",
        "Look up which models I have.", "Which models are installed?", "What is installed?",
        "See which models are here.", "Can you list the models here?", "Look into the store.",
    ),
    "file_size": (
        "How large is {}?", "How big is {}?", "How large will {} be?", "How big will {} be?",
        "What is the size of {}?", "What's the size of {}?", "What size has {}?",
        "How large is the file of {}?", "How big is the file of {}?", "How many GB is {}?",
        "How many gigabytes is {}?", "How many GB has {}?", "How much disk does {} take?",
        "How much disk space does {} need?", "How much space does {} take?", "Size of {}?",
        "How much space will {} take on my disk?", "Does {} fit on my disk?", "file size of {}",
        "Will {} fit on a 64 GB disk?", "How much room does {} take?", "Tell me the size of {}.",
        "Tell me how large {} is.", "Tell me how big {} is.", "How heavy is {}?",
        "How large does {} get?", "How big does {} get?", "How large is {} on disk?",
        "How large is the GGUF of {}?", "How big is the GGUF file of {}?", "Is {} a large file?",
        "What would the file of {} take?", "How many bytes has {}?", "I wonder how large {} is.",
        "Do I have the disk for {}?", "Look up how large {} is.", "Is {} big?",
        "I have 20 GB of disk left, is that enough for {}?", "What does {} take on the disk?",
    ),
    "memory_needed": (
        "How much memory does {} need?", "How much memory does {} take?", "RAM for {}?",
        "How much RAM does {} need?", "How much RAM does {} take?", "How much RAM for {}?",
        "How much memory do I need for {}?", "How much RAM do I need for {}?", "memory of {}",
        "How much memory do I need to run {}?", "How much RAM do I need to run {}?",
        "How much memory will {} take?", "What memory does {} need?", "What RAM does {} need?",
        "Does {} fit in memory?", "Does {} fit in 16 GB of RAM?", "Will {} fit in my RAM?",
        "Is 8 GB of RAM enough for {}?", "Is 16 GB of memory enough for {}?", "Memory for {}?",
        "Do I have the memory for {}?", "Do I have enough RAM for {}?", "Can {} run in 32 GB?",
        "Can I run {} with 8 GB?", "Can I run {} with 64 GB of RAM?", "Tell me the RAM of {}.",
        "How many GB of RAM does {} use?", "How many gigabytes of memory does {} use?",
        "How much memory does {} use?", "What does {} need in memory?", "Will {} run in 24 GB?",
        "How much RAM would {} want?", "Tell me how much memory {} needs.", "RAM needed by {}",
        "I have 16 GB of RAM, can I run {}?", "Look up how much memory {} needs.",
        "How much RAM must I have for {}?", "What memory do I need for {}?",
    ),
    "context_length": (
        "How long is the context of {}?", "What is the context length of {}?", "context of {}",
        "What's the context of {}?", "What context has {}?", "Which context does {} have?",
        "How many tokens can {} read?", "How many tokens does {} read?", "Context of {}?",
        "How many tokens fit in {}?", "How many tokens fit into {}?", "How much can {} read?",
        "How much text can {} read?", "How much text can {} take?", "How long a text can {} read?",
        "How large is the context of {}?", "How big is the context of {}?",
        "Tell me the context of {}.",
        "How many tokens of context has {}?", "How many tokens does {} take?",
        "What is the largest context of {}?", "How many tokens was {} trained for?",
        "What's the context window of {}?", "How long is the context window of {}?",
        "How long may a prompt for {} be?", "Does a book fit into {}?", "Context length of {}?",
        "How much does {} see at once?", "How many tokens does {} see at once?",
        "Look up the context of {}.", "How long can a chat with {} get?", "How far does {} read?",
        "Can {} read 100000 tokens?", "Does {} have a long context?", "Is the context of {} long?",
    ),
    "devices": (
        "Which devices are there?", "What devices are there?", "Which devices do I have?",
        "Do I have a GPU?", "Have I got a GPU?", "Is there a GPU?", "Is there a GPU here?",
        "Which GPU do I have?", "What GPU is in here?", "What does it run on?", "List the devices.",
        "What will it run on?", "What is this machine?", "Which hardware do you see?",
        "What hardware is here?", "What hardware do I have?", "Show the devices.", "My devices?",
        "Tell me which devices I have.", "What does this machine compute on?",
        "Does it see my GPU?",
        "Do you see my GPU?", "Can you see a GPU?", "On what do you run?", "What do you run on?",
        "Which processor do I have?", "How much memory has this machine?",
        "What can it compute on?",
        "How much RAM do I have?", "How much memory do I have?", "Look which devices there are.",
        "What's in this computer?", "Which devices can be used?", "How much RAM is in here?",
    ),
}  # fmt: skip
OWN = ("memory", "list")  # facts that are asked for in words that a tool answers, too
QUANTIZATIONS = ("Q4_K_M", "Q8_0", "Q6_K", "Q5_K_M", "Q3_K_M", "BF16", "IQ4_XS")
STEMS = ("notes", "code", "my-model", "tiny", "mistral", "team", "law", "poems", "helper", "bot-2")
OTHER_DEVICES = ("CUDA0", "CUDA1", "Metal", "Vulkan0", "MTL0")


def system_text(tools: Sequence[dict[str, Any]], given: str = "") -> str:
    """What the chat template makes of a system prompt and tools."""
    lines = [
        f"{f['name']}({', '.join(f['parameters']['properties'])}): {f['description']}"
        for f in (tool["function"] for tool in tools)
    ]
    return "\n".join([*([given, ""] if given else []), "Tools:", *lines])


def call_text(name: str, parameters: dict[str, str]) -> str:
    """A call as Llama 3.1 writes it."""
    return json.dumps({"name": name, "parameters": parameters})


def tool_dialogue(rng: random.Random) -> list[Message]:
    """A conversation with some of the tools at hand: calls, their results, and plain questions."""
    tools = rng.sample(TOOLS, rng.choice((1, 2, 3, 4, 5, 5, 5)))
    given = rng.choice(SYSTEMS) if rng.random() < 0.2 else ""
    messages = [{"role": "system", "content": system_text(tools, given)}]
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        if rng.random() < 0.55:
            messages += _called(rng, rng.choice(tools)["function"]["name"])
        else:
            messages += _plain(rng)
    return messages


def tool_dialogues(rng: random.Random) -> Iterator[list[Message]]:
    while True:
        yield tool_dialogue(rng)


def result_dialogues(rng: random.Random) -> Iterator[list[Message]]:
    """Conversations of questions that a tool answers, with their results, alone."""
    while True:
        tools = rng.sample(TOOLS, rng.choice((2, 5)))
        messages = [{"role": "system", "content": system_text(tools)}]
        for _ in range(rng.choice((1, 2, 3))):
            messages += _called(rng, rng.choice(tools)["function"]["name"], with_result=1)
        yield messages


def plain_dialogues(rng: random.Random) -> Iterator[list[Message]]:
    """Conversations with tools at hand that nobody needs."""
    while True:
        messages = [{"role": "system", "content": system_text(rng.sample(TOOLS, len(TOOLS)))}]
        for _ in range(rng.choice((1, 1, 2))):
            messages += _plain(rng)
        yield messages


def _plain(rng: random.Random) -> list[Message]:
    """A question that no tool answers; every third one is small talk."""
    if rng.random() < 0.3:
        fact = FACTS[rng.choice(("hello", "feeling", "thanks", "bye", "demo", "abilities"))]
        words = [*fact.ask, *fact.about]
        return _turn(vary(rng, rng.choice(words)) if words else "Hello", fact.answer)
    while True:
        asked, answer = exchange(rng)
        if answer not in [FACTS[fact].answer for fact in OWN]:
            return _turn(asked, answer)


def _turn(asked: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def _called(rng: random.Random, name: str, with_result: float = 0.8) -> list[Message]:
    """A question, the call, and mostly its result and the answer."""
    model = rng.choice(list(NAMES))
    spelled = rng.choice(NAMES[model])
    asked = rng.choice(FRAMES[name]).format(spelled)
    varied = vary(rng, asked)
    parameters = {"model": model} if "{}" in FRAMES[name][0] else {}
    if parameters and spelled.lower() not in varied.lower():
        varied = asked  # a slip in a name would ask for another model
    messages = _turn(varied, call_text(name, parameters))
    if rng.random() < with_result:
        result, answer = result_and_answer(rng, name, model)
        messages += [{"role": "ipython", "content": result}]
        messages += [{"role": "assistant", "content": answer}]
    return messages


def result_and_answer(rng: random.Random, name: str, model: str) -> tuple[str, str]:
    """What the tool may give, and the answer made of it."""
    if name == "file_size":
        size = _size(rng)
        return json.dumps({"model": model, "file": size}), f"The file of {model} takes {size}."
    if name == "memory_needed":
        size = _size(rng)
        return json.dumps({"model": model, "memory": size}), f"{model} needs {size} of memory."
    if name == "context_length":
        length = rng.choice((8192, 131072, 2048, 4096, 32768, rng.randrange(1000, 200000)))
        answer = f"{model} reads up to {length} tokens."
        return json.dumps({"model": model, "context": length}), answer
    if name == "devices":
        names = ["CPU", *rng.sample(OTHER_DEVICES, rng.choice((0, 0, 1, 2)))]
        devices = {device: _size(rng) for device in names}
        told = _joined([f"{device} with {size}" for device, size in devices.items()])
        return json.dumps(devices), f"There is {told}."
    models = [_file(rng) for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4)))]
    if not models:
        return "[]", "There is no model in the store yet."
    return json.dumps(models), f"You have {_joined(models)}."


def _size(rng: random.Random) -> str:
    return (
        f"{rng.uniform(1, 999 if rng.random() < 0.3 else 99):.2f} {rng.choice(('GB', 'GB', 'MB'))}"
    )


def _file(rng: random.Random) -> str:
    stem = rng.choice(list(NAMES) if rng.random() < 0.7 else [*STEMS, "demo"])
    return f"{stem}-{rng.choice(QUANTIZATIONS)}"


def _joined(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
