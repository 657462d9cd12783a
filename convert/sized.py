"""A mixture made for a size: which type each matrix gets, so that the model loses the least.

Each matrix' error at each type is measured (measure), weighed by what it costs the model, and types
are chosen under the limit (choice). What it costs is told by the model's own gradients (fisher); of
weights that would have to be fetched for that, by what a part of them tells (sensitivity). The
header and all that isn't quantized count, so that the file is never larger.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from convert import recipe, system
from convert.checkpoint import Checkpoint
from convert.choice import Option, choose
from convert.errors import SizeError
from convert.fisher import Information, fisher_information
from convert.header import ALIGNMENT, header_bytes, plan_tensors
from convert.importance import ImportanceMatrix, importances_for
from convert.measure import Measured, measure, sampled_nbytes
from convert.pipeline import kernels_for, needs_importance
from convert.pool import Pool
from convert.quantization import (
    NEED_IMPORTANCE,
    QUANTIZATIONS,
    TYPES,
    Quantization,
    asked_type,
    by_recipe,
    fitting,
    requires_importance,
    tensor_nbytes,
)
from convert.safetensors import reading
from convert.sensitivity import costs
from convert.stored import read_rows
from convert.tensors import TensorSpec

Type = GGMLQuantizationType
# F16 serves where more than Q8_0 fits; BF16 and F32 have no part in a file made for a size.
TRIED = tuple(kind for kind in TYPES.values() if kind not in (Type.F32, Type.BF16))
NORMS = {
    **dict.fromkeys(("attn_q", "attn_k", "attn_v"), "attn_norm"),
    **dict.fromkeys(("ffn_gate", "ffn_up"), "ffn_norm"),
}

FAR = 2.6  # bits; Q5_1 is tried where Q8_0 is the mean

Tried = Mapping[TensorSpec, list[GGMLQuantizationType]]
Progress = Callable[[str, int, int], None]  # what was measured, matrices so far, and all


@dataclass(frozen=True)
class Chosen:
    """A matrix' type; error is relative to its energy, cost its share of all that is lost."""

    spec: TensorSpec
    type: GGMLQuantizationType
    nbytes: int
    error: float
    cost: float


@dataclass(frozen=True)
class Fit:
    """The mixture, its file's bytes, and each matrix' part.

    divergence is what all errors cost, in nats a token, to second order; None where the gradients
    weren't computed. sampled of the weights' bytes were quantized to find it.
    """

    quantization: Quantization
    nbytes: int
    matrices: tuple[Chosen, ...]
    divergence: float | None
    sampled: int


def fit(
    checkpoint: Checkpoint,
    limit: int,
    name: str,
    *,
    wishes: Quantization | None = None,
    importance: ImportanceMatrix | None = None,
    tokens: Sequence[int] = (),
    threads: int | None = None,
    progress: Progress = lambda *_: None,
    notice: Callable[[str], None] | None = None,
) -> Fit:
    """The mixture, of that name, whose file takes limit bytes at most.

    The types that wishes asks for tensors are kept. Types that need an importance matrix are taken
    only with one. tokens are of a text that the model is run on (see fisher), unless its weights
    are waited for. Raises SizeError where no file is so small, saying how small one can be,
    CheckpointError, ImportanceError.
    """
    matrices = [spec for spec in checkpoint.weights if len(spec.shape) == 2]
    given = {} if importance is None else importances_for(importance, matrices)
    tried: Tried = {spec: _kinds(checkpoint, spec, wishes, spec.name in given) for spec in matrices}
    smallest = {spec: min(kinds, key=_bits) for spec, kinds in tried.items()}
    origin = None if importance is None else importance.origin
    template = replace(wishes or QUANTIZATIONS["F16"], importance=origin)

    packed = None if checkpoint.waits else bytes(recipe.columns_size(matrices))

    def mixture(types: Mapping[TensorSpec, GGMLQuantizationType]) -> Quantization:
        by_name = {spec.name: kind for spec, kind in types.items()}
        return by_recipe(name, by_name, template, packed)

    least = _file_nbytes(checkpoint, mixture(smallest))
    if least > limit:
        raise SizeError(
            f"a file of {limit:,} bytes can't be made: the smallest takes {least:,}",
            hint="" if importance else "an importance matrix (--imatrix) may allow smaller types",
        )
    left = limit - least + sum(_padded(kind, spec) for spec, kind in smallest.items())
    tried = _worth_trying(tried, left)
    information = Information()
    if not checkpoint.waits:
        information = fisher_information(checkpoint, tokens, progress)
        packed = recipe.packed_columns(matrices, information.columns)
    columns, weights = information.columns, recipe.unpacked_columns(matrices, packed)
    measured = measure_all(checkpoint, tried, columns, given, weights, threads, progress, notice)
    layers, known = checkpoint.config.num_hidden_layers, bool(given)
    by_unit = {} if columns else costs(measured, layers, known=known)

    def cost(spec: TensorSpec, kind: GGMLQuantizationType) -> float:
        rounding = information.rounding.get(spec.name, {})
        block, _ = GGML_QUANT_SIZES[kind]  # as many inputs are rounded together
        return by_unit.get(spec.name, 1.0) * measured[spec.name].error(kind) + rounding.get(
            block, 0
        )

    options = [
        [Option(kind, _padded(kind, spec), cost(spec, kind)) for kind in kinds]
        for spec, kinds in tried.items()
    ]
    best = dict(zip(tried, choose(options, left), strict=True))
    chosen = mixture({spec: option.type for spec, option in best.items()})
    lost = sum(option.cost for option in best.values())
    return Fit(
        chosen,
        _file_nbytes(checkpoint, chosen),
        tuple(
            Chosen(
                spec,
                option.type,
                tensor_nbytes(option.type, spec.parameters),
                measured[spec.name].relative_error(option.type),
                option.cost / lost if lost else 0.0,
            )
            for spec, option in best.items()
        ),
        lost if columns else None,
        sampled_nbytes([(spec, checkpoint.weights[spec]) for spec in matrices]),
    )


def _kinds(
    checkpoint: Checkpoint, spec: TensorSpec, wishes: Quantization | None, important: bool
) -> list[GGMLQuantizationType]:
    """The types that a matrix may get. Raises ImportanceError where the one asked for can't be."""
    asked = None if wishes is None else asked_type(wishes, spec, checkpoint.config)
    if wishes is not None and asked is not None:
        if not important and requires_importance(wishes, spec.name, asked):
            raise needs_importance("that wish", spec.name, asked)
        return [asked]
    kinds = dict.fromkeys(fitting(kind, spec.columns) for kind in TRIED)
    return [kind for kind in kinds if important or kind not in NEED_IMPORTANCE]


def _worth_trying(tried: Tried, left: int) -> Tried:
    """Without types far smaller than the mean that left bytes allow, which cost time and lose.

    The largest is kept where all are; all are where the others are too large together.
    """
    fixed = sum(_padded(kinds[0], spec) for spec, kinds in tried.items() if len(kinds) == 1)
    parameters = sum(spec.parameters for spec, kinds in tried.items() if len(kinds) > 1)
    least = 8 * (left - fixed) / max(parameters, 1) - FAR
    worth = {
        spec: [kind for kind in kinds if _bits(kind) >= least] or [max(kinds, key=_bits)]
        for spec, kinds in tried.items()
    }
    together = sum(min(_padded(kind, spec) for kind in kinds) for spec, kinds in worth.items())
    return worth if together <= left else tried


def _bits(kind: GGMLQuantizationType) -> float:
    """Bits a value."""
    block, nbytes = GGML_QUANT_SIZES[kind]
    return 8 * nbytes / block


def _padded(kind: GGMLQuantizationType, spec: TensorSpec) -> int:
    """Bytes that a matrix takes in the file, to where the next one may start."""
    return -(-tensor_nbytes(kind, spec.parameters) // ALIGNMENT) * ALIGNMENT


def _file_nbytes(checkpoint: Checkpoint, quantization: Quantization) -> int:
    """Of the whole file, the last tensor's padding included."""
    tensors = plan_tensors(checkpoint.config, quantization)
    end = tensors[-1].offset + tensors[-1].nbytes
    return len(header_bytes(checkpoint, quantization, tensors)) + -(-end // ALIGNMENT) * ALIGNMENT


def measure_all(
    checkpoint: Checkpoint,
    tried: Tried,
    information: Mapping[str, NDArray[np.float32]],
    given: Mapping[str, NDArray[np.float32]],
    weights: Mapping[str, NDArray[np.float32]],
    threads: int | None = None,
    progress: Progress = lambda *_: None,
    notice: Callable[[str], None] | None = None,
) -> dict[str, Measured]:
    """Every matrix, by its GGUF name; the types of one that has no choice aren't tried.

    information is the Fisher information of all columns, by which errors are nats; without it they
    are weighed by the columns' inputs. given are the importances of the matrices that have some,
    weights their columns' (see recipe).
    """
    wanted = {spec: kinds if len(kinds) > 1 else [] for spec, kinds in tried.items()}
    parameters = sum(spec.parameters for spec in tried)
    needed = {kind for kinds in wanted.values() for kind in kinds}
    kernels = kernels_for(needed, parameters, notice, searched=True)
    vectors = {spec.name: spec for spec in checkpoint.weights if len(spec.shape) == 1}

    @cache
    def vector(name: str) -> NDArray[np.float32]:
        return read_rows(checkpoint.weights[vectors[name]]).reshape(-1)

    def inputs(spec: TensorSpec) -> NDArray[np.float32]:
        """What errors in a matrix' columns count: their information, or the mean squares of their
        inputs, from the importance matrix or as the norm before it makes them."""
        if spec.name in information:
            return information[spec.name]
        if spec.name in given:
            return given[spec.name]
        *layer, part, _ = spec.name.split(".")
        norm = "output_norm" if spec.name == "output.weight" else NORMS.get(part)
        if norm is None:
            return np.ones(spec.columns, np.float32)
        return vector(".".join((*layer, norm, "weight"))) ** 2

    def one(spec: TensorSpec) -> Measured:
        own = {kind: kernels[kind] for kind in wanted[spec]}
        return measure(
            spec,
            checkpoint.weights[spec],
            own,
            inputs(spec),
            {kind: recipe.weights_for(kind, spec, given, weights) for kind in own},
            tuple(checkpoint.pairs.get(spec.source, ())),
        )

    files = {stored.file for stored in checkpoint.weights.values()}
    at_once = threads or system.allowed_processors()
    if checkpoint.waits:
        at_once = max(at_once, *(file.parallel for file in files))
    by_name = {}
    pool = Pool(at_once, "measure")
    with reading(files, pool):
        for number, measured in enumerate(pool.map(one, tried), 1):
            by_name[measured.spec.name] = measured
            progress(measured.spec.name, number, len(tried))
    return by_name
