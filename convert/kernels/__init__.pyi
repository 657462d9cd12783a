from .choice import choose
from .ggml import INFINITY, Kernel, as_float32, ggml_kernel, library_path, quantize
from .values import dequantize

__all__ = [
    "INFINITY",
    "Kernel",
    "as_float32",
    "choose",
    "dequantize",
    "ggml_kernel",
    "library_path",
    "quantize",
]
