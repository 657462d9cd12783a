"""The tensors of a GGUF file or a checkpoint: what they are called and what they take."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert import LocalFile, read_header, shard_names
from llamacli.show.config import Source
from llamacli.terminal import columns


@dataclass(frozen=True)
class Tensor:
    """shape is row-major, as PyTorch has it, for GGUF files too; nbytes is the size in the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    nbytes: int

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)


def find_tensors(source: Source) -> tuple[Tensor, ...]:
    """In the file's order; a checkpoint's are read from its shards' headers."""
    if not isinstance(source, Path):
        return tuple(Tensor(t.name, t.shape[::-1], t.type.name, t.nbytes) for t in source.tensors)
    return tuple(
        Tensor(name, stored.shape, stored.dtype, stored.nbytes)
        for shard in shard_names(source)
        for name, stored in read_header(LocalFile(source / shard)).items()
    )


def as_json(tensors: tuple[Tensor, ...]) -> list[dict[str, Any]]:
    """share is that of the file's tensor data, from 0 to 1."""
    total = sum(tensor.nbytes for tensor in tensors) or 1
    return [
        {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "type": tensor.type,
            "bytes": tensor.nbytes,
            "share": tensor.nbytes / total,
        }
        for tensor in tensors
    ]


def table(tensors: tuple[Tensor, ...]) -> str:
    """A line a tensor, and one for them all."""
    rows = [
        (
            row["name"],
            "x".join(map(str, row["shape"])),
            row["type"],
            str(row["bytes"]),
            f"{row['share']:.2%}",
        )
        for row in as_json(tensors)
    ]
    total = sum(tensor.nbytes for tensor in tensors)
    last = (f"{len(tensors)} tensors", "", "", str(total), f"{1:.2%}")
    return columns([("name", "shape", "type", "bytes", "share"), *rows, last], "lllrr")
