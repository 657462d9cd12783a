from .choice import choose as choose
from .ggml import (
    INFINITY as INFINITY,
    LARGEST_F16 as LARGEST_F16,
    Kernel as Kernel,
    ggml_kernel as ggml_kernel,
    library_path as library_path,
    quantize as quantize,
)
from .searched import SEARCHED as SEARCHED, searched_kernel as searched_kernel
from .values import dequantize as dequantize
