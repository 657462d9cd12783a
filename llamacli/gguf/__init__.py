"""GGUF files, checked before a byte of them reaches llama.cpp.

To be read in this order: contents, file, check, merge, adapter.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
