"""Parts of a split GGUF file as the one file that they make: its header, and where data goes.

llama.cpp's gguf-split gives each part a header; the first has the metadata, all have the keys
split.no, split.count and split.tensors.count.
"""

from collections.abc import Sequence
from struct import pack

from llamacli.gguf.contents import TENSOR_TYPES, GGUFFile, TensorInfo
from llamacli.gguf.file import DEFAULT_ALIGNMENT, padded


def joined_header(parts: Sequence[GGUFFile]) -> bytes:
    """The header of the whole file, padded: the first part's metadata, and every part's tensors.

    One that isn't split has its own. Raises InvalidModelError for parts that don't belong together.
    """
    first = parts[0]
    if len(parts) == 1:
        return first.begun
    _check_parts(parts)
    pairs = [first.begun[span] for key, span in first.spans.items() if not key.startswith("split.")]
    tensors = [tensor for part in parts for tensor in part.tensors]
    records, offset = [], 0
    for tensor in tensors:
        records.append(_record(tensor, offset))
        offset += padded(tensor.nbytes)
    start = pack("<4sIQQ", b"GGUF", first.version, len(tensors), len(pairs))
    header = b"".join((start, *pairs, *records))
    return header.ljust(padded(len(header)), b"\0")


def _check_parts(parts: Sequence[GGUFFile]) -> None:
    """Refuse a part that doesn't belong where it is."""
    total = sum(len(part.tensors) for part in parts)
    for number, part in enumerate(parts):
        place = {"split.no": number, "split.count": len(parts), "split.tensors.count": total}
        for key, value in place.items():
            if part.metadata.get(key) != value:
                part.fail(f"{key} is {part.metadata.get(key)!r}, expected {value}")
        if part.alignment != DEFAULT_ALIGNMENT:
            part.fail(f"its data is aligned to {part.alignment} bytes, not to {DEFAULT_ALIGNMENT}")
        end = max((t.offset + t.nbytes for t in part.tensors), default=part.data_offset)
        if padded(part.size) != padded(end) and part.size > part.data_offset:
            part.fail(f"{part.size - end} bytes follow its last tensor")


def _record(tensor: TensorInfo, offset: int) -> bytes:
    """A tensor's record, whose data is at offset after the header."""
    name, dimensions = tensor.name.encode(), len(tensor.shape)
    kind = next(number for number, known in TENSOR_TYPES.items() if known == tensor.type)
    return (
        pack("<Q", len(name))
        + name
        + pack(f"<I{dimensions}QIQ", dimensions, *tensor.shape, kind, offset)
    )
