"""Tools that a model may call: their definitions, its calls in every form, and calls held to them.

To be read in this order: definitions, forms, reader, constraint.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
