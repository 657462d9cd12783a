"""GGUF files of any size that take no disk: a whole header, and holes in place of weights."""

from pathlib import Path

from convert.checkpoint import Checkpoint, read_config
from convert.config import LlamaConfig
from convert.header import plan_tensors, write_header
from convert.quantization import named_quantization
from convert.small_files import optional_json, read_chat_templates, read_json
from convert.tensors import frequency_factors, llama_tensors
from convert.tokenizer import parse_tokenizer


def without_weights(folder: Path, config: LlamaConfig | None = None) -> Checkpoint:
    """A checkpoint from its small files alone: its weights have names and shapes, no bytes."""
    config = config or read_config(folder)
    tokenizer_config = optional_json(folder / "tokenizer_config.json")
    return Checkpoint(
        name=folder.resolve().name,
        folder=folder,
        config=config,
        tokenizer=parse_tokenizer(read_json(folder / "tokenizer.json")),
        tokenizer_config=tokenizer_config,
        generation_config=optional_json(folder / "generation_config.json"),
        chat_templates=read_chat_templates(folder, tokenizer_config),
        weights=dict.fromkeys(llama_tensors(config)),  # type: ignore[arg-type]
    )


def write_hollow(checkpoint: Checkpoint, path: Path, quant: str = "Q4_K_M") -> Path:
    """What a conversion writes, with zeros for weights; rope_freqs.weight has its values."""
    chosen = named_quantization(quant)
    tensors = plan_tensors(checkpoint.config, chosen)
    start = write_header(path, checkpoint, chosen, tensors)
    factors = frequency_factors(checkpoint.config)
    with path.open("r+b") as file:
        file.truncate(start + tensors[-1].offset + tensors[-1].nbytes)
        if factors is not None:
            file.seek(start + tensors[-1].offset)
            file.write(factors.tobytes())
    return path
