"""Names of models, the files they mean, and opening one.

To be read in this order: store, registry, names, listing, opening.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
