"""A model in llama.cpp: from the settings that were asked for to logits and a chosen token.

To be read in this order: settings, context, footprint, fit, vocabulary, adapters, model,
engine, sampling, kv_state.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
