"""One pass from safetensors to GGUF: each weight is read once, quantized and written."""

import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypedDict, Unpack

from gguf import GGMLQuantizationType

from convert import system
from convert.checkpoint import Checkpoint, open_checkpoint
from convert.errors import ImportanceError
from convert.header import PlannedTensor, header_bytes, plan_tensors
from convert.importance import ImportanceMatrix, importances_for
from convert.journal import digest, resumable_file, space_taken
from convert.kernels import Kernel, choose, ggml_kernel, searched_kernel
from convert.quantization import Quantization, named_quantization, requires_importance
from convert.recipe import unpacked_columns, weights_for
from convert.target import allocate, check_space, check_target, whole_file, write_all
from convert.tensor_writer import Importances, Progress, TensorWriter

SMALL = 50_000_000  # parameters that ggml's kernel has quantized before a faster one is loaded

Check = Callable[[bytes, int], object]


class Options(TypedDict, total=False):
    """What convert takes of write_gguf's."""

    threads: int | None
    progress: Callable[[Progress], None] | None
    notice: Callable[[str], None] | None
    importance: ImportanceMatrix | None


@dataclass(frozen=True)
class Report:
    """What a conversion did. kernel_seconds is the time in kernels, summed over threads."""

    path: Path
    quantization: str
    tensors: tuple[PlannedTensor, ...]
    source_nbytes: int
    target_nbytes: int
    seconds: float
    kernel_seconds: float


def convert(
    source: Path | str,
    target: Path | str,
    quant: str | Quantization,
    *,
    force: bool = False,
    **options: Unpack[Options],
) -> Report:
    """Convert a Hugging Face Llama checkpoint folder into one GGUF file.

    quant is a name of convert.quantization.QUANTIZATIONS, in any case, or one with types of its
    own; the rest is write_gguf's. Raises ConvertError subclasses; target appears only whole.
    """
    chosen = named_quantization(quant) if isinstance(quant, str) else quant
    check_target(Path(target), force)
    checkpoint = open_checkpoint(Path(source))
    return write_gguf(checkpoint, Path(target), chosen, force=force, **options)


def write_gguf(
    checkpoint: Checkpoint,
    target: Path,
    chosen: Quantization,
    *,
    threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    notice: Callable[[str], None] | None = None,
    check: Check | None = None,
    force: bool = False,
    origin: str | None = None,
    importance: ImportanceMatrix | None = None,
) -> Report:
    """The same for a checkpoint that is open already, its files here or elsewhere.

    threads defaults to the processors this process may use. notice gets a line when something takes
    its time before the first progress, and the checkpoint's notes. check gets the header and the
    file's size before the first weight is read, and may raise. importance weighs the errors of
    quantization.
    Where origin names its source and version, a conversion that is cut short keeps what it has
    written, and the next one goes on from there.
    """
    started = time.monotonic()
    if importance is not None:
        chosen = replace(chosen, importance=importance.origin)
    tensors = plan_tensors(checkpoint.config, chosen)
    importances = _importances(chosen, tensors, importance)
    check_target(target, force)
    there = 0 if origin is None else space_taken(target)
    check_space(target, sum(tensor.nbytes for tensor in tensors) - there)
    if notice is not None:
        for note in checkpoint.notes:
            notice(note)
    header = header_bytes(checkpoint, chosen, tensors)
    size = len(header) + tensors[-1].offset + tensors[-1].nbytes
    if check is not None:
        check(header, size)
    parameters = sum(tensor.spec.parameters for tensor in tensors)
    kernels = kernels_for(
        {tensor.type for tensor in tensors}, parameters, notice, searched=chosen.searched
    )
    with ExitStack() as stack:
        if origin is None:
            part, journal = stack.enter_context(whole_file(target, force)), None
        else:
            made_of = {
                "origin": origin,
                "header": digest(header),
                "files": {s.file.name: s.file.identity for s in checkpoint.weights.values()},
                "importances": digest(b"".join(map(bytes, importances.values()))),
                "merged": digest(checkpoint.merged_identity.encode()),
            }
            part, journal = stack.enter_context(resumable_file(target, force, made_of))
            if notice is not None and journal.renewed:
                notice("the source has changed since the last call; starting anew")
            elif notice is not None and journal.pieces:
                notice("going on from what the last call has done, checked by its hashes")
        file = stack.enter_context(open(part, "r+b", buffering=0))
        allocate(file.fileno(), target, size)
        write_all(file.fileno(), header, 0)
        job = TensorWriter(
            checkpoint,
            tensors,
            kernels,
            importances,
            file.fileno(),
            len(header),
            journal,
            progress,
        )
        kernel_seconds = job.run(threads or system.allowed_processors())
    return Report(
        path=target,
        quantization=chosen.name,
        tensors=tensors,
        source_nbytes=checkpoint.source_nbytes,
        target_nbytes=size,
        seconds=time.monotonic() - started,
        kernel_seconds=kernel_seconds,
    )


def _importances(
    chosen: Quantization, tensors: tuple[PlannedTensor, ...], matrix: ImportanceMatrix | None
) -> Importances:
    """Those of each tensor. Raises ImportanceError where one is unfit for its type without."""
    specs = [tensor.spec for tensor in tensors]
    if matrix is not None:
        given = importances_for(matrix, specs)
    else:
        given = {}
        for tensor in tensors:
            if requires_importance(chosen, tensor.spec.name, tensor.type):
                raise needs_importance(chosen.name, tensor.spec.name, tensor.type)
    if not chosen.searched:
        return given
    matrices = [spec for spec in specs if len(spec.shape) == 2]
    columns, kinds = unpacked_columns(matrices, chosen.columns), {t.spec: t.type for t in tensors}
    return {spec.name: weights_for(kinds[spec], spec, given, columns) for spec in matrices}


def needs_importance(mixture: str, name: str, kind: GGMLQuantizationType) -> ImportanceError:
    """What to raise where a tensor is unfit in that type without an importance matrix."""
    fault = f"{mixture} makes garbage of {name} ({kind.name}) without an importance matrix"
    return ImportanceError(fault, hint="give one with --imatrix")


def kernels_for(
    kinds: Collection[GGMLQuantizationType],
    parameters: int,
    notice: Callable[[str], None] | None,
    *,
    searched: bool = False,
) -> dict[GGMLQuantizationType, Kernel]:
    """The fastest kernel for each type that gives ggml's bytes; ggml's own for few parameters.

    Where searched, types that are searched further than by ggml are.
    """
    if parameters < SMALL:
        slow = searched_kernel if searched else ggml_kernel
        return {kind: slow(kind) for kind in kinds}

    once = cache(notice or (lambda _: None))  # not for each type of a mixture
    return {kind: choose(kind, searched=searched, notice=once) for kind in sorted(kinds)}
