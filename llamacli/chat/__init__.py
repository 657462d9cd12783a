"""A conversation whose KV cache stays, and how it is saved.

To be read in this order: conversation, served, turns, file, export, saved.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
