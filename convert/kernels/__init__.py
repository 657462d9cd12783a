"""Quantization kernels: ggml's, and compiled ones that give the same bytes several times faster.

To be read in this order: ggml, values, unbiased, searched, vectors, lanes, minimums, scales, q2_k,
q4_k, q3_k, q6_k, q4_0, q8_0, iq4, by_type, compiled, comparison, choice.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
