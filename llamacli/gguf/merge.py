"""Parts of a split GGUF file as the one file that they make: its header, and where data goes.

llama.cpp's gguf-split gives each part a header; the first has the metadata, all have the keys
split.no, split.count and split.tensors.count.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llamacli.gguf.contents import GGUFFile
from llamacli.gguf.file import DEFAULT_ALIGNMENT

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURE = "general.architecture"  # which the writer adds by itself


def check_part(number: int, parts: Sequence[GGUFFile]) -> None:
    """Refuse a part that doesn't belong where it is. Raises InvalidModelError."""
    part, total = parts[number], sum(len(one.tensors) for one in parts)
    place = {"split.no": number, "split.count": len(parts), "split.tensors.count": total}
    for key, value in place.items():
        if part.metadata.get(key) != value:
            part.fail(f"{key} is {part.metadata.get(key)!r}, expected {value}")
    if part.alignment != DEFAULT_ALIGNMENT:
        part.fail(f"its data is aligned to {part.alignment} bytes, not to {DEFAULT_ALIGNMENT}")
    end = max((t.offset + t.nbytes for t in part.tensors), default=part.data_offset)
    if padded(part.size) != padded(end) and part.size > part.data_offset:
        part.fail(f"{part.size - end} bytes follow its last tensor")


def merged_header(parts: Sequence[GGUFFile]) -> bytes:
    """The header of the whole file, padded: the first part's metadata, and every part's tensors."""
    import gguf
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="llamacli-") as folder:
        path = Path(folder) / "header.gguf"
        writer = gguf.GGUFWriter(path, str(parts[0].metadata.get(ARCHITECTURE)))
        try:
            _copy_metadata(writer, parts[0].path)
        except (ValueError, TypeError, LookupError) as error:  # kinds that the gguf package lacks
            parts[0].fail(f"its metadata can't be merged: {error}")
        for part in parts:
            for tensor in part.tensors:
                kind = gguf.GGMLQuantizationType[tensor.type.name]
                shape, dtype = tensor.shape[::-1], np.dtype(np.float32)
                writer.add_tensor_info(tensor.name, shape, dtype, tensor.nbytes, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        header = path.read_bytes()
    return header.ljust(padded(len(header)), b"\0")


def padded(size: int) -> int:
    return -(-size // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def _copy_metadata(writer: "GGUFWriter", path: Path) -> None:
    """All keys but those of the split, values and types as they were."""
    import gguf

    for field in gguf.GGUFReader(path).fields.values():
        skipped = field.name == ARCHITECTURE or field.name.startswith(("GGUF.", "split."))
        if not skipped:
            kind = field.types[0]
            item = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, item)
