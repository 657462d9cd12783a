"""Where every tensor of the target goes: its type and place, before a weight is read."""

from dataclasses import dataclass

import gguf
from gguf import GGMLQuantizationType

from convert.config import LlamaConfig
from convert.errors import QuantizationError
from convert.quantization import Quantization, tensor_nbytes, tensor_type
from convert.rope import frequency_factors
from convert.tensors import TensorSpec, llama_tensors

ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT
ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the target: its type and its bytes' place, counted from the data's start."""

    spec: TensorSpec
    type: GGMLQuantizationType
    offset: int
    nbytes: int


def plan_tensors(config: LlamaConfig, quantization: Quantization) -> tuple[PlannedTensor, ...]:
    """Every tensor's type and place; rope_freqs.weight, where there is one, comes last.

    Raises QuantizationError where a recipe isn't of this model, or a pattern is in no matrix' name.
    """
    planned, offset = [], 0
    specs = [*llama_tensors(config)]
    matrices = {spec.name for spec in specs if len(spec.shape) == 2}
    if odd := (quantization.recipe or {}).keys() - matrices:
        raise QuantizationError(
            f"the recipe is of another model: it has {min(odd)}, this one hasn't"
        )
    for one in quantization.overrides:
        if not any(map(one.pattern.search, matrices)):
            raise QuantizationError(
                f"{one.pattern.pattern!r} is in the name of no matrix; they are called "
                "blk.0.ffn_down.weight and the like, see `llamacli show --tensors`"
            )
    factors = frequency_factors(config)
    if factors is not None:
        specs.append(TensorSpec(ROPE_FACTORS, ROPE_FACTORS, factors.shape))
    for spec in specs:
        kind = tensor_type(quantization, spec, config)
        nbytes = tensor_nbytes(kind, spec.parameters)
        planned.append(PlannedTensor(spec, kind, offset, nbytes))
        offset += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return tuple(planned)
