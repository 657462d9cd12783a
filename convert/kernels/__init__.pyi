from .choice import choose
from .ggml import INFINITY, Kernel, as_float32, ggml_kernel, library_path, quantize

__all__ = [
    "INFINITY",
    "Kernel",
    "as_float32",
    "choose",
    "ggml_kernel",
    "library_path",
    "quantize",
]
