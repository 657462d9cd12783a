"""Measuring what serves a model best on this machine, and remembering it.

To be read in this order: measure, profiles, stages, search.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
