"""From a Hugging Face Llama checkpoint to a GGUF file: a library that prints nothing.

To be read in this order: errors, config, small_files, system, weights, safetensors, tensors,
pretokenizer, added, tokenizer, checkpoint, special, rope, quantization, kernels, model_card,
metadata, plan, header, target, journal, fast_check, fast_kernels, fast_q4, fast_q6, fast, pieces,
pipeline, remote.
Its public face is in __init__.pyi; each name is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
