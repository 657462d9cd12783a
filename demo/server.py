"""The demo's tools as a server of the Model Context Protocol, over stdin and stdout.

llamacli chat -m demo --mcp '.venv/bin/python -m demo.server'
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from demo.tool import result

DEFINED = json.loads(Path(__file__).with_name("tools.json").read_text(encoding="utf-8"))
LLAMACLI = str(Path(sys.executable).with_name("llamacli"))


async def list_tools(context: Any, parameters: Any) -> types.ListToolsResult:  # noqa: ARG001
    functions = [tool["function"] for tool in DEFINED]
    return types.ListToolsResult(
        tools=[
            types.Tool(
                name=one["name"], description=one["description"], input_schema=one["parameters"]
            )
            for one in functions
        ]
    )


async def call_tool(
    context: Any,  # noqa: ARG001
    parameters: types.CallToolRequestParams,
) -> types.CallToolResult:
    arguments = parameters.arguments or {}
    given = await asyncio.to_thread(result, LLAMACLI, parameters.name, arguments)
    return types.CallToolResult(content=[types.TextContent(text=json.dumps(given))])


async def main() -> None:
    server = Server("llamacli", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(main())
