"""What a model takes in memory, from its file's header alone: weights, KV cache, buffers.

The sizes follow llama.cpp's own rules of where a tensor goes (llama-model.cpp, ggml-cpu/repack.cpp)
and what its graph keeps at once; tests compare them with what llama.cpp allocates.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from llamacli.context import PADDING, ContextPlan
from llamacli.devices import Device
from llamacli.gguf_check import LlamaShape
from llamacli.gguf_file import TENSOR_TYPES, GGUFFile, TensorInfo
from llamacli.loading import KV_TYPES, EngineSettings

HOST = -1  # a place beside the numbers of GPUs
MIB = 1 << 20
# Of this program and llama.cpp beside what is counted, measured.
PROCESS = 8 * MIB
VOCABULARY = 320  # bytes a token
THREAD = 72 * MIB  # address space: a stack and glibc's arena
GPU_RESERVE = 256 * MIB  # kernels and cuBLAS's workspace, which a driver takes at the first use

# Types whose matrices llama.cpp copies into another order, by the processor's features, and the
# number that a matrix's rows must divide by.
REPACKED = (
    ({"AVX2"}, {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}, 8),
    ({"AVX512"}, {"Q2_K"}, 8),
    ({"AMX_INT8", "AVX512_VNNI"}, {"Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"}, 32),
    ({"NEON", "DOTPROD"}, {"Q4_K", "Q5_K", "Q6_K"}, 8),
    ({"NEON", "DOTPROD"}, {"Q4_0", "Q8_0", "IQ4_NL", "MXFP4"}, 4),
)


class Share(NamedTuple):
    """Bytes in one place."""

    weights: int = 0
    kv: int = 0
    buffers: int = 0

    @property
    def total(self) -> int:
        return sum(self)


@dataclass(frozen=True)
class Footprint:
    """Bytes that a model needs.

    host is what must stay in memory for the model to run at its speed: with mmap that counts the
    pages of the file that every token reads, not those of weights that were copied elsewhere.
    peak is the most that becomes resident beyond what the process has, the file's pages included;
    the system takes those back where memory is short. address_space counts every mapping.
    """

    host: Share
    gpus: tuple[Share, ...]
    peak: int
    address_space: int


def footprint(
    file: GGUFFile,
    shape: LlamaShape,
    settings: EngineSettings,
    plan: ContextPlan,
    features: frozenset[str],
    gpus: Sequence[Device] = (),
) -> Footprint:
    """settings' gpu_layers is a number; gpus are those that hold layers."""
    count = settings.gpu_layers if isinstance(settings.gpu_layers, int) and gpus else 0
    places = layer_places(shape.blocks, count, [gpu.free for gpu in gpus])
    placed = _place_weights(file, places)
    # With a GPU the plain weights go into memory that it can read, and none are repacked.
    repacks = settings.repack and not gpus
    copied = [t for t, place in placed if place == HOST and repacks and is_repacked(t, features)]
    plain = [t for t, place in placed if place == HOST and t not in copied]
    layer_kv = _kv_bytes(shape, settings.kv_type, plan.cells) // shape.blocks
    compute = compute_bytes(shape, plan, flash=settings.flash_attention != "off")
    shares = []
    for number in range(len(gpus)):
        weights = sum(t.nbytes for t, place in placed if place == number)
        # A long prompt's products with weights of the host are done there, one copied at a time.
        visiting = max((t.nbytes for t in plain if t.name.startswith("blk.")), default=0)
        buffers = compute + visiting + GPU_RESERVE
        shares.append(Share(weights, layer_kv * places[:-1].count(number), buffers))
    on_host = HOST in places
    vocabulary = PROCESS + VOCABULARY * shape.vocabulary
    logits = 4 * plan.sequences * shape.vocabulary
    work = _work_bytes(shape, plan, flash=settings.flash_attention != "off")
    buffers = logits + (compute + work if on_host else _input_bytes(shape, plan))
    shared = [s for s, gpu in zip(shares, gpus, strict=True) if gpu.shares_memory]
    copies = sum(t.nbytes for t in copied)
    kv = layer_kv * places[:-1].count(HOST) + sum(s.kv for s in shared)
    buffers += vocabulary + sum(s.buffers - GPU_RESERVE for s in shared)
    kept = {t.name: t for t, p in placed if p == HOST or gpus[p].shares_memory}
    hot = sum(t.nbytes for t in kept.values()) - copies
    data = sum(t.nbytes for t in file.tensors)
    if settings.mmap:
        pages = _span(plain) if copied else data
        loading, weights = data, copies + file.size
    else:
        pages, weights = hot, copies + hot
        # A matrix to be repacked is read whole first.
        loading = hot + max((t.nbytes for t in copied), default=0)
    threads = max(settings.threads or 1, settings.threads_batch or 1)
    mapped = weights + max(file.size, kv + buffers)  # the vocabulary is read from a mapped file
    return Footprint(
        host=Share(copies + hot, kv, buffers),
        gpus=tuple(shares),
        peak=copies + max(pages + kv + buffers, loading + vocabulary),
        address_space=mapped + THREAD * threads,
    )


def layer_places(blocks: int, count: int, free: Sequence[int]) -> list[int]:
    """Where each layer goes, and last the output: the last count of them to GPUs, else HOST.

    Several GPUs share them by their free bytes, in order, as llama.cpp's load_tensors does.
    """
    count = min(count, blocks + 1) if free else 0
    start = blocks + 1 - count
    splits = [part / (sum(free) or 1) for part in accumulate(free)]
    return [
        HOST if i < start else min(bisect_right(splits, (i - start) / count), len(free) - 1)
        for i in range(blocks + 1)
    ]


def is_repacked(tensor: TensorInfo, features: frozenset[str]) -> bool:
    """Whether llama.cpp copies this matrix into another order for its fastest kernels."""
    if "REPACK" not in features or len(tensor.shape) != 2 or tensor.name.startswith("token_embd"):
        return False
    return any(
        needed <= features and tensor.type.name in types and tensor.shape[1] % rows == 0
        for needed, types, rows in REPACKED
    )


def compute_bytes(shape: LlamaShape, plan: ContextPlan, *, flash: bool) -> int:
    """The most that llama.cpp's graph of a full micro-batch keeps at once.

    That is the attention mask and either the feed-forward's or the attention's float32 values.
    Without flash attention the attention's are as many as heads x cells a token.
    """
    tokens, cells = min(plan.ubatch, plan.cells), padded(plan.cells)
    width, inner = shape.embedding, shape.feed_forward
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    feed_forward = 3 * inner + (4 if inner > 2 * width else 3) * width  # as its allocator packs
    if flash:
        mask, attention = 2 * cells, 2 * (width + queries + keys)
    else:
        mask, attention = 4 * cells, 2 * width + 3 * queries + 2 * keys + shape.heads * cells
    logits = 4 * plan.outputs * shape.vocabulary
    return tokens * (mask + 4 * max(feed_forward, attention)) + logits


def padded(cells: int) -> int:
    """Cells as llama.cpp rounds them."""
    return -(-cells // PADDING) * PADDING


def _work_bytes(shape: LlamaShape, plan: ContextPlan, *, flash: bool) -> int:
    """A product's right side in the left's type, at most 16 bits a value: the attention's scores,
    where they are kept, or the feed-forward's values."""
    scores = 0 if flash else shape.heads * padded(plan.cells)
    most = max(shape.feed_forward, shape.heads * shape.head_size, scores)
    return 2 * min(plan.ubatch, plan.cells) * most


def _input_bytes(shape: LlamaShape, plan: ContextPlan) -> int:
    """What the host keeps of a graph whose layers are all on GPUs."""
    return plan.ubatch * (4 * shape.embedding + 4 * padded(plan.cells))


def _kv_bytes(shape: LlamaShape, kind: str, cells: int) -> int:
    packed = TENSOR_TYPES[KV_TYPES[kind]]
    row = shape.kv_heads * shape.head_size // packed.block * packed.nbytes
    return 2 * shape.blocks * row * padded(cells)


def _place_weights(file: GGUFFile, places: Sequence[int]) -> list[tuple[TensorInfo, int]]:
    """Each tensor and its place; the embedding is on the host, its second use as output a copy."""
    placed = []
    tied = all(tensor.name != "output.weight" for tensor in file.tensors)
    for tensor in file.tensors:
        block = tensor.name.split(".")[1] if tensor.name.startswith("blk.") else ""
        if block:
            placed.append((tensor, places[int(block)]))
            continue
        is_output = tensor.name.startswith("output")
        placed.append((tensor, places[-1] if is_output else HOST))
        if tied and tensor.name == "token_embd.weight" and places[-1] != HOST:
            placed.append((tensor, places[-1]))
    return placed


def _span(tensors: Sequence[TensorInfo]) -> int:
    """Bytes of the file from the first to the last of them: what stays mapped."""
    if not tensors:
        return 0
    return max(t.offset + t.nbytes for t in tensors) - min(t.offset for t in tensors)
