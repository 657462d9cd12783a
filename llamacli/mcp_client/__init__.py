"""Servers of the Model Context Protocol (MCP): their tools, offered to a model and called.

To be read in this order: config, transport, connection, servers.
The package mcp is imported where a server is connected to, and nowhere else.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
