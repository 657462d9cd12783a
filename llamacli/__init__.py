"""llamacli: convert Llama 3 checkpoints to GGUF and talk to them on a laptop."""

__version__ = "0.1.0"
