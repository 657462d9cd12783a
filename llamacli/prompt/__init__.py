"""From what a user gives to the tokens that the model reads.

To be read in this order: messages, markers, environment, worker, encode, input, cache.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
