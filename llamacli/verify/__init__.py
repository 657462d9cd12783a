"""Whether a GGUF file is a faithful copy of its checkpoint.

To be read in this order: rows, measure, tensors, metadata, vocabulary, tokenization, prediction,
report.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
