"""From logits to a text on stdout: decoding, stopping, writing, signals.

To be read in this order: output, calling, generation.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
