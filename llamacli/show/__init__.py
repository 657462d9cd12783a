"""Looking inside models: pure functions from a GGUF file or a checkpoint's folder to what to print.

Nothing here reads weights; of a checkpoint, config.json alone is enough for most of it.
"""
