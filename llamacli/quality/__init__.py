"""How good a quantized file is, and what makes it better: importance matrices, comparisons.

To be read in this order: activations, imatrix, compare.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
