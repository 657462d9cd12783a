"""The sizes of a llama.cpp context, planned in one place for loading and for counting memory."""

from dataclasses import dataclass
from typing import Any

from llamacli.engine.settings import FLASH_ATTENTION, KV_TYPES, EngineSettings
from llamacli.gguf import GGUFFile

PADDING = 256  # llama.cpp rounds the cells of a KV cache up to these
SEQUENCE_CELLS = 1024  # cells for each sequence beside the first
KEPT_SEQUENCES = 16  # beside those that are answered in: what finished ones leave for others


@dataclass(frozen=True)
class ContextPlan:
    """cells of KV cache for all sequences; batch and ubatch in tokens; outputs are rows of logits.

    One sequence may be as long as the context that was asked for.
    """

    cells: int
    sequences: int
    outputs: int
    batch: int
    ubatch: int


@dataclass(frozen=True)
class Context:
    """A llama_context, its memory (the KV cache), and how many tokens one sequence can have."""

    pointer: Any
    memory: Any
    room: int


def plan_context(context: int, settings: EngineSettings, parallel: int | None) -> ContextPlan:
    """For one conversation, or for that many sequences side by side and their common start."""
    batch, ubatch = settings.batch, min(settings.ubatch, settings.batch)
    if parallel is None:
        return ContextPlan(context, 1, settings.outputs, batch, ubatch)
    batch = max(ubatch, parallel)
    sequences = parallel + KEPT_SEQUENCES
    outputs = max(sequences, settings.outputs)
    return ContextPlan(shared_cells(context, parallel), sequences, outputs, batch, batch)


def shared_cells(context: int, parallel: int) -> int:
    """As many as one context has, and SEQUENCE_CELLS for each further sequence."""
    return min(context * parallel, context + SEQUENCE_CELLS * (parallel - 1))


def context_parameters(
    library: Any, plan: ContextPlan, settings: EngineSettings, file: GGUFFile, threads: int
) -> Any:
    """llama_context_params; threads are taken where settings name none."""
    params = library.llama_context_default_params()
    params.n_ctx = plan.cells
    params.n_seq_max = plan.sequences
    params.n_outputs_max = plan.outputs  # logits are only asked for after a sequence's last token
    params.n_batch = plan.batch
    params.n_ubatch = plan.ubatch
    params.kv_unified = plan.sequences > 1
    params.n_threads = settings.threads or threads
    params.n_threads_batch = settings.threads_batch or params.n_threads
    params.flash_attn_type = FLASH_ATTENTION[settings.flash_attention]
    params.type_k = params.type_v = KV_TYPES[settings.kv_type]
    params.no_perf = True
    # llama.cpp knows these keys but doesn't read them for the llama architecture.
    for key in ("yarn_beta_fast", "yarn_beta_slow"):
        value = file.metadata.get(f"llama.rope.scaling.{key}")
        if value is not None:
            setattr(params, key, float(value))
    return params
