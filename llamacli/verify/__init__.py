"""Is a GGUF file a faithful copy of a checkpoint? A module a kind of row in the answer.

Reading order: rows, metadata, vocabulary, tokenization, template, dequantize, limits, tensors,
diagnosis, text, report.
"""
