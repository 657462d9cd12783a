"""From a Hugging Face Llama checkpoint to a GGUF file: a library that prints nothing.

To be read in this order: errors, small_files, config, system, signals, pool, safetensors, stored,
tensors, lora, added, pretokenizer, tokenizer, checkpoint, special, kernels, target, journal,
remote, mixture, quantization, recipe, metadata, header, importance, importance_file, choice,
adapter_config, adapter, adapter_file, pieces, tensor_writer, pipeline, measure, network, fisher,
sensitivity, sized.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
