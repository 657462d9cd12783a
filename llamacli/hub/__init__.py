"""Checkpoints and GGUF files on the Hugging Face Hub.

To be read in this order: index, repo, checkpoint, download.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
