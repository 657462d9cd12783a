"""Dialogues from the facts: many wordings of each question, one answer, one to many turns."""

import random
from collections.abc import Iterator

from demo.elsewhere import question as question_elsewhere
from demo.facts import FACTS
from demo.tasks import task

Message = dict[str, str]

DO = (
    "How do I {}?", "How can I {}?", "how to {}", "How do you {}?", "How would I {}?",
    "What do I type to {}?", "Which command do I use to {}?", "I want to {}.", "I'd like to {}.",
    "I need to {}.", "Show me how to {}.", "Tell me how to {}.", "What is the command to {}?",
    "Can you tell me how to {}?", "What is the way to {}?", "Is there a way to {}?", "Can I {}?",
    "Is it possible to {}?", "How does one {}?", "What must I do to {}?", "Explain how to {}.",
    "Help me {}.", "Could you show me how to {}?", "Where can I {}?", "{}", "How should I {}?",
    "How do I {} with llamacli?", "Can llamacli {}?", "I am trying to {}.", "Teach me how to {}.",
    "What are the steps to {}?", "I don't know how to {}.", "What is the right way to {}?",
    "What's the easiest way to {}?", "Any idea how to {}?", "I would like to {}.",
    "What do I need to {}?", "What's the command to {}?", "What would I type to {}?",
    "How could I {}?", "Is there a command to {}?", "What is needed to {}?", "Let me {}.",
    "How will I {}?", "Say, how do I {}?", "Which way can I {}?", "How do people {}?",
    "My aim is to {}.", "How do I manage to {}?", "What lets me {}?", "Would you {}?",
)  # fmt: skip
ABOUT = (
    "What is {}?", "What's {}?", "what is {}", "Explain {}.", "Tell me about {}.", "{}?", "{}",
    "What does {} mean?", "Can you explain {}?", "Describe {}.", "I don't understand {}.",
    "What do you know about {}?", "Tell me what {} is.", "What is meant by {}?",
    "Could you explain {} to me?", "How would you explain {}?", "Please explain {}.",
    "Give me a short explanation of {}.", "What can you say about {}?", "Define {}.",
    "I have a question about {}.", "Tell me more about {}.", "What is {} for?",
    "What is the purpose of {}?", "What's the meaning of {}?", "What would {} be?",
    "Why would I need {}?", "What kind of thing is {}?", "Say, what is {}?", "Do you know {}?",
    "Can you say what {} is?", "What's the use of {}?", "Who needs {}?", "Why {}?",
    "What is special about {}?", "How about {}?", "What exactly do you call {}?",
)  # fmt: skip
BEFORE = ("", "", "", "", "", "", "Please, ", "Hey, ", "Hi, ", "Hello, ", "Ok, ", "So, ", "And ",
          "Well, ", "Sorry, ", "Quick question: ", "One more thing: ", "Now ", "But ")  # fmt: skip
AFTER = ("", "", "", "", "", "", "", " please", " Thanks!", " thanks", " Thank you.", " now",
         " exactly?", " in llamacli?", " here?", " today?")  # fmt: skip
SMALL_WORDS = {"a", "an", "the", "do", "does", "is", "of", "to", "it", "can", "i", "my", "in", "me"}
SYSTEMS = (
    "You are a helpful assistant.", "You are llamacli's demo.", "Answer briefly.", "Be kind.",
    "You are a friendly assistant.", "Answer in one or two sentences.", "Be concise.",
    "You help people with llamacli.", "You are a careful assistant that answers in short.",
)  # fmt: skip


def dialogue(rng: random.Random, turns: int) -> list[Message]:
    """A conversation of that many questions and answers, sometimes with a system prompt."""
    messages = []
    if rng.random() < 0.25:
        messages.append({"role": "system", "content": rng.choice(SYSTEMS)})
    for _ in range(turns):
        asked, answer = exchange(rng)
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": answer})
    return messages


def dialogues(rng: random.Random) -> Iterator[list[Message]]:
    """Endless training conversations: most are short, some far longer than the first context."""
    while True:
        kind = rng.random()
        turns = 1 if kind < 0.45 else rng.randint(2, 6) if kind < 0.9 else rng.randint(7, 22)
        yield dialogue(rng, turns)


def exchange(rng: random.Random) -> tuple[str, str]:
    """One question and its answer."""
    kind = rng.random()
    if kind < 0.12:
        return vary(rng, question_elsewhere(rng)), FACTS["unknown"].answer
    if kind < 0.19:
        return task(rng)
    fact = FACTS[rng.choice([key for key in FACTS if key != "unknown"])]
    return vary(rng, wording(rng, fact.do, fact.about, fact.ask)), fact.answer


def wording(
    rng: random.Random, do: tuple[str, ...], about: tuple[str, ...], ask: tuple[str, ...]
) -> str:
    """One way to ask; actions and subjects go into frames, whole questions stay."""
    ways = [kind for kind, words in (("do", do), ("about", about), ("ask", ask)) if words]
    way = rng.choices(ways, [{"do": 3, "about": 2, "ask": 2}[way] for way in ways])[0]
    if way == "do":
        return rng.choice(DO).format(rng.choice(do))
    if way == "about":
        return rng.choice(ABOUT).format(rng.choice(about))
    return rng.choice(ask)


def vary(rng: random.Random, asked: str) -> str:
    """Small words around it, lower case, a missing mark or small word, now and then a slip."""
    before, after = rng.choice(BEFORE), rng.choice(AFTER)
    if before and asked[:2] != "I ":
        asked = asked[:1].lower() + asked[1:]
    if after and asked[-1:] in ".?!":
        mark = asked[-1]
        asked = asked[:-1] + (after if after[-1] in ".?!" else after + mark)
        if after[:2] == " T":
            asked = asked[: -len(after)] + mark + after
    asked = before + asked
    chance = rng.random()
    if chance < 0.25:
        asked = asked.lower()
    elif chance < 0.3:
        asked = asked.capitalize()
    if rng.random() < 0.2:
        asked = asked.rstrip("?.!")
    if rng.random() < 0.15:
        words = asked.split(" ")
        small = [i for i, word in enumerate(words) if word.lower() in SMALL_WORDS]
        if len(words) > 4 and small:
            del words[rng.choice(small)]
        asked = " ".join(words)
    if rng.random() < 0.06 and len(asked) > 12:
        at = rng.randrange(1, len(asked) - 2)
        asked = asked[:at] + asked[at + 1] + asked[at] + asked[at + 2 :]
    return asked
