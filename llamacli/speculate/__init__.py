"""Several tokens an evaluation: drafts that the model checks at once, and only where that pays.

To be read in this order: costs, drafts, lookahead, drafting.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
