"""What a model takes in memory, from its file's header alone: weights, KV cache, buffers.

The sizes follow llama.cpp's own rules of where a tensor goes (llama-model.cpp, ggml-cpu/repack.cpp)
and what its graph keeps at once; tests compare them with what llama.cpp allocates.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

from llamacli.engine.context import PADDING, ContextPlan
from llamacli.engine.settings import KV_TYPES, EngineSettings
from llamacli.gguf import TENSOR_TYPES, GGUFFile, LlamaShape, TensorInfo, padded
from llamacli.machine import Device

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
    adapters: Sequence[GGUFFile] = (),
) -> Footprint:
    """settings' gpu_layers is a number; gpus are those that hold layers; adapters are LoRA files,
    whose pairs lie where their matrices do, or on the host where those are repacked."""
    count = settings.gpu_layers if isinstance(settings.gpu_layers, int) else 0
    places = layer_places(shape.blocks, count, parts(gpus, settings.split))
    # With a GPU the plain weights go into memory that it can read, and none are repacked.
    plain = not settings.repack or any(not gpu.machine for gpu in gpus)
    repackable = frozenset[str]() if plain else features
    weights = _place_weights(file, places, len(gpus), repackable)
    layer_kv = kv_nbytes(shape, settings.kv_type, plan.cells) // shape.blocks
    compute, work = buffer_bytes(shape, plan, flash=settings.flash_attention != "off")
    compute += adapter_buffer_bytes(shape, plan, adapters)
    adapted = _place_adapters(adapters, places, len(gpus))
    # A long prompt's products with weights of the host are done on a GPU, copied one at a time.
    visiting = max((t.nbytes for t in weights.plain if t.name.startswith("blk.")), default=0)
    extra = [0 if gpu.machine else visiting + GPU_RESERVE for gpu in gpus]
    shares = tuple(
        Share(_bytes(held) + adapted[i], layer_kv * places[:-1].count(i), compute + extra[i])
        for i, held in enumerate(weights.gpus)
    )
    vocabulary = PROCESS + VOCABULARY * shape.vocabulary
    logits = 4 * plan.sequences * shape.vocabulary
    kv = layer_kv * places[:-1].count(HOST)
    graph = compute + work
    if HOST not in places:  # its inputs alone
        graph = plan.ubatch * (4 * shape.embedding + 4 * padded(plan.cells, PADDING))
    buffers = vocabulary + logits + graph
    hot = {t.name: t for t in weights.plain}  # an embedding that is the output too is mapped once
    own = adapted[HOST]
    for i, (gpu, share, held) in enumerate(zip(gpus, shares, weights.gpus, strict=True)):
        if gpu.shares_memory:
            own += adapted[i]
            kv, buffers = kv + share.kv, buffers + share.buffers - GPU_RESERVE
            hot |= {t.name: t for t in held}
    copies, used = _bytes(weights.copied), _bytes(hot.values())
    if settings.mmap:
        pages = _span(weights.plain) if copies else _bytes(file.tensors)
        loading, space = _bytes(file.tensors), file.size
    else:  # a matrix to be repacked is read whole first
        loading = used + max((t.nbytes for t in weights.copied), default=0)
        pages = space = used
    threads = max(settings.threads or 1, settings.threads_batch or 1)
    space += max(file.size, kv + buffers)  # the vocabulary is read from a mapping of its own
    return Footprint(
        host=Share(copies + used + own, kv, buffers),
        gpus=shares,
        peak=copies + max(pages + kv + buffers + own, loading + vocabulary),
        address_space=copies + space + own + THREAD * threads,
    )


def layer_places(blocks: int, count: int, shares: Sequence[float]) -> list[int]:
    """Where each layer goes, and last the output: the last count of them to GPUs, else HOST.

    Several GPUs have them by their shares, in order, as llama.cpp's load_tensors does.
    """
    count = min(count, blocks + 1) if shares else 0
    start = blocks + 1 - count
    splits = [part / (sum(shares) or 1) for part in accumulate(shares)]
    return [
        HOST if i < start else min(bisect_right(splits, (i - start) / count), len(shares) - 1)
        for i in range(blocks + 1)
    ]


def parts(gpus: Sequence[Device], split: Sequence[float]) -> list[float]:
    """Each GPU's share of the layers: of its machine's part, by the bytes that are free.

    split has a part for this machine and each worker; without one all bytes count alike.
    """
    if not split:
        return [float(gpu.free) for gpu in gpus]
    machines = ["", *dict.fromkeys(gpu.machine for gpu in gpus if gpu.machine)]
    free = {name: sum(gpu.free for gpu in gpus if gpu.machine == name) for name in machines}
    part = dict(zip(machines, split, strict=True))
    return [part[gpu.machine] * gpu.free / (free[gpu.machine] or 1) for gpu in gpus]


def is_repacked(tensor: TensorInfo, features: frozenset[str]) -> bool:
    """Whether llama.cpp copies this matrix into another order for its fastest kernels."""
    return "REPACK" in features and any(
        needed <= features and tensor.type.name in types and tensor.shape[1] % rows == 0
        for needed, types, rows in REPACKED
    )


def buffer_bytes(shape: LlamaShape, plan: ContextPlan, *, flash: bool) -> tuple[int, int]:
    """The most that llama.cpp's graph of a full micro-batch keeps at once, and its work space.

    The graph keeps the attention mask and either the feed-forward's or the attention's float32
    values, with scores of heads x cells a token where there is no flash attention. The work space
    has a product's right side in the left's type, at most 16 bits a value.
    """
    tokens, cells = min(plan.ubatch, plan.cells), padded(plan.cells, PADDING)
    width, inner = shape.embedding, shape.feed_forward
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    scores = 0 if flash else shape.heads * cells
    feed_forward = 3 * inner + (4 if inner > 2 * width else 3) * width  # as its allocator packs
    attention = 2 * width + (2 if flash else 3) * queries + 2 * keys + scores
    mask = (2 if flash else 4) * cells
    logits = 4 * plan.outputs * shape.vocabulary
    work = 2 * max(inner, queries, scores)
    return tokens * (mask + 4 * max(feed_forward, attention)) + logits, tokens * work


def adapter_buffer_bytes(shape: LlamaShape, plan: ContextPlan, adapters: Sequence[GGUFFile]) -> int:
    """The most that a full micro-batch keeps of the pairs' products beside the matrices' own.

    A·x has rank values a token. B·A·x is as wide as the matrix's product, and takes the place that
    the next matrix's will; only that of the output, the last one, is beside all others.
    """
    sides = [t for file in adapters for t in file.tensors if t.name.endswith(".lora_b")]
    rank = max((tensor.shape[0] for tensor in sides), default=0)
    adapted = any(tensor.name.startswith("output.") for tensor in sides)
    logits = plan.outputs * shape.vocabulary if adapted else 0
    return 4 * (min(plan.ubatch, plan.cells) * rank + logits)


def _place_adapters(
    adapters: Sequence[GGUFFile], places: Sequence[int], gpus: int
) -> dict[int, int]:
    """Bytes in each place, HOST among them."""
    held = dict.fromkeys((HOST, *range(gpus)), 0)
    for tensor in (tensor for file in adapters for tensor in file.tensors):
        held[_place(tensor, places)] += tensor.nbytes
    return held


def _place(tensor: TensorInfo, places: Sequence[int]) -> int:
    """Where a tensor, or a pair's side, of the model goes: a layer's place or the output's."""
    first, _, rest = tensor.name.partition(".")
    if first == "token_embd":
        return HOST
    return places[int(rest.partition(".")[0])] if first == "blk" else places[-1]


def kv_nbytes(shape: LlamaShape, kind: str, cells: int) -> int:
    """Bytes of a KV cache of that type."""
    packed = TENSOR_TYPES[KV_TYPES[kind]]
    row = shape.kv_heads * shape.head_size // packed.block * packed.nbytes
    return 2 * shape.blocks * row * padded(cells, PADDING)


class _Weights(NamedTuple):
    """Tensors of the host, repacked or not, and of each GPU."""

    copied: list[TensorInfo]
    plain: list[TensorInfo]
    gpus: list[list[TensorInfo]]


def _place_weights(
    file: GGUFFile, places: Sequence[int], gpus: int, features: frozenset[str]
) -> _Weights:
    """Each tensor where its layer is; the embedding is on the host.

    Where the embedding is the output's matrix too, the output has a copy, unless both are alike.
    """
    weights = _Weights([], [], [[] for _ in range(gpus)])
    tied = all(tensor.name != "output.weight" for tensor in file.tensors)
    for tensor in file.tensors:
        is_embedding = tensor.name.startswith("token_embd.")
        place = places[-1] if is_embedding else _place(tensor, places)
        repacked = len(tensor.shape) == 2 and is_repacked(tensor, features)
        if is_embedding or (place == HOST and not repacked):
            weights.plain.append(tensor)
        if is_embedding and not tied:
            continue
        if place != HOST:
            weights.gpus[place].append(tensor)
        elif repacked:
            weights.copied.append(tensor)
    return weights


def as_q4_k_m(file: GGUFFile) -> GGUFFile:
    """The file as a Q4_K_M would be, nearly: matrices as Q4_K, the embedding and the output as
    Q6_K; vectors stay."""
    kinds = {kind.name: kind for kind in TENSOR_TYPES.values()}
    tensors, offset = [], file.data_offset
    for tensor in file.tensors:
        kind = tensor.type
        if len(tensor.shape) == 2 and tensor.shape[0] % 256 == 0:
            kind = kinds["Q4_K" if tensor.name.startswith("blk.") else "Q6_K"]
        nbytes = math.prod(tensor.shape) // kind.block * kind.nbytes
        tensors.append(replace(tensor, type=kind, offset=offset, nbytes=nbytes))
        offset += nbytes
    return replace(file, tensors=tuple(tensors), size=offset)


def scaled(file: GGUFFile, nbytes: int) -> GGUFFile:
    """The file as if its tensors took as many bytes together."""
    share = nbytes / file.weights_nbytes
    tensors = tuple(replace(one, nbytes=int(one.nbytes * share)) for one in file.tensors)
    return replace(file, tensors=tensors, size=file.data_offset + nbytes)


def _span(tensors: Sequence[TensorInfo]) -> int:
    """Bytes of the file from the first to the last of them: what stays mapped."""
    if not tensors:
        return 0
    return max(t.offset + t.nbytes for t in tensors) - min(t.offset for t in tensors)


def _bytes(tensors: Iterable[TensorInfo]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
