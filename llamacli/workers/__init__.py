"""Other machines that hold a part of a model's layers, by llama.cpp's RPC backend.

To be read in this order: addresses, protocol, link, greeting, relay, connected, lend, hosting.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
