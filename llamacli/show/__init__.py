"""What `show` and `tokens` tell of a model.

To be read in this order: config, metadata, tensors, rope, structure, card, vocabulary.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
