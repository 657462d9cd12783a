"""A GGUF file written again with something in it changed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

Tensors = dict[str, tuple[np.ndarray, GGMLQuantizationType]]


def rewrite(
    source: Path,
    target: Path,
    *,
    keys: Mapping[str, Any] | None = None,
    tensors: Callable[[Tensors], None] = lambda _: None,
) -> Path:
    """Copy source to target. keys gives metadata new values; None drops a key, and a function is
    given the old value. tensors may change data (bytes of quantized types) and types in place."""
    reader = gguf.GGUFReader(source)
    changes = dict(keys or {})
    writer = gguf.GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = field.contents()
        if name in changes:
            change = changes.pop(name)
            value = change(value) if callable(change) else change
        if value is None:
            continue
        kind = field.types[0]
        writer.add_key_value(name, value, kind, field.types[-1] if len(field.types) > 1 else None)
    for name, value in changes.items():
        kinds = {str: GGUFValueType.STRING, int: GGUFValueType.UINT32, bool: GGUFValueType.BOOL}
        writer.add_key_value(name, value, kinds[type(value)])
    held: Tensors = {t.name: (np.array(t.data), t.tensor_type) for t in reader.tensors}
    tensors(held)
    for name, (data, kind) in held.items():
        writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
