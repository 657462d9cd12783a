from .choice import INFINITY, as_float32, choose, ggml_kernel
from .comparison import Kernel
from .ggml import library_path, quantize

__all__ = [
    "INFINITY",
    "Kernel",
    "as_float32",
    "choose",
    "ggml_kernel",
    "library_path",
    "quantize",
]
