"""What this machine has: llama.cpp's library, cores, GPUs, free memory.

To be read in this order: native, devices, resources.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
