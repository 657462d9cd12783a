"""Do what the demo calls, by llamacli itself, and tell the conversation so far.

llamacli run --tools demo/tools.json QUESTION | python -m demo.tool LLAMACLI QUESTION
"""

import json
import subprocess
import sys
from typing import Any

from llamacli.prompt import Message
from llamacli.terminal import count
from llamacli.tools import Call, message_of


def result(llamacli: str, name: str, arguments: dict[str, str]) -> Any:
    """What one of the tools in demo/tools.json gives."""
    if name == "list_models":
        return [model["name"] for model in _asked(llamacli, "list")]
    if name == "devices":
        devices = _asked(llamacli, "devices")["devices"]
        return {device["name"]: count(device["memory_total"], "B") for device in devices}
    model = arguments["model"]
    known = next(one for one in _asked(llamacli, "list", "--known") if one["name"] == model)
    told = {
        "file_size": {"file": count(known["gguf_bytes"], "B")},
        "memory_needed": {"memory": count(known["memory_bytes"], "B")},
        "context_length": {"context": known["context"]},
    }
    return {"model": model, **told[name]}


def _asked(llamacli: str, *command: str) -> Any:
    return json.loads(
        subprocess.check_output([llamacli, *command, "--json"], stdin=subprocess.DEVNULL)
    )


def main() -> None:
    llamacli, question = sys.argv[1:]
    calls = [Call(**json.loads(line)) for line in sys.stdin]
    asked = message_of(calls)
    messages: list[Message] = [{"role": "user", "content": question}, asked]
    for call, told in zip(calls, asked["tool_calls"], strict=True):
        given = json.dumps(result(llamacli, call.name, call.arguments))
        messages.append({"role": "tool", "tool_call_id": told["id"], "content": given})
    print(json.dumps(messages, indent=1))


if __name__ == "__main__":
    main()
