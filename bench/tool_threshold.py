"""How likely a model calls a tool for greetings, and for questions that need one.

python -m bench.tool_threshold MODEL
"""

import argparse
from pathlib import Path
from typing import Any

from llamacli.answer import Calling, constraint_for, generate
from llamacli.engine import Engine, EngineSettings, SamplingSettings
from llamacli.prompt import encode_turns
from llamacli.tools import ToolConstraint, check_tools

GREETINGS = ("hi", "Hello!", "Good morning", "How are you?", "Thanks a lot", "Who are you?")
QUESTIONS = (
    "What is the weather in Paris?",
    "Is it raining in Oslo right now?",
    "How late is it in Tokyo?",
    "What time is it in New York?",
)
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


def tool(name: str, description: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS = check_tools([tool("weather", "The weather of a city"), tool("time", "A city's time")])


def probability(engine: Engine, text: str) -> float:
    """What all openings of a call have together."""
    given = [one.given for one in TOOLS]
    tokens = encode_turns(engine, [{"role": "user", "content": text}], tools=given)
    constraint = constraint_for(engine, len(tokens), 64, calling=Calling(TOOLS))
    assert isinstance(constraint, ToolConstraint)
    settings = SamplingSettings(temperature=0.0)
    next(generate(engine, tokens, settings, max_tokens=64, constraint=constraint))
    return constraint.probability or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    with Engine(parser.parse_args().model, EngineSettings()) as engine:
        greetings = [probability(engine, text) for text in GREETINGS]
        questions = [probability(engine, text) for text in QUESTIONS]
    print("| threshold | greetings that call | questions that call |\n|--:|--:|--:|")
    for threshold in THRESHOLDS:
        calls = [sum(p >= threshold for p in chances) for chances in (greetings, questions)]
        print(f"| {threshold} | {calls[0]} of {len(greetings)} | {calls[1]} of {len(questions)} |")


if __name__ == "__main__":
    main()
