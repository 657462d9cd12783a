"""The compiled quantizers give ggml's bytes, and ggml's own kernel is used where they would not."""

import hashlib
import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from convert import pipeline
from convert.kernels import INFINITY, choice, compiled, ggml_kernel, quantize
from convert.kernels.comparison import differences, importances, samples
from convert.kernels.ggml import Kernel, Values

if find_spec("numba") is None:
    pytest.skip("the extra llamacli[fast] is not installed", allow_module_level=True)

KINDS = pytest.mark.parametrize("kind", compiled.KINDS, ids=lambda kind: kind.name)
BLOCKS = 1024  # of 256 values


def run(
    kernel: Kernel,
    kind: GGMLQuantizationType,
    values: Values,
    weights: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    block, nbytes = GGML_QUANT_SIZES[kind]
    out = np.full(values.size // block * nbytes, 0xA5, np.uint8)
    kernel(values, out, weights)
    return out


@pytest.fixture(scope="module")
def kernels() -> dict[GGMLQuantizationType, Kernel]:
    """The compiled kernels as they are, unchecked; from where the program keeps its own."""
    key = json.dumps(choice._key(), sort_keys=True)
    folder = choice._user_cache() / hashlib.sha256(key.encode()).hexdigest()[:16]
    return {kind: compiled.compiled_kernel(kind, folder) for kind in compiled.KINDS}


@KINDS
def test_every_kind_of_values(
    kind: GGMLQuantizationType, kernels: dict[GGMLQuantizationType, Kernel]
) -> None:
    reference = ggml_kernel(kind)
    assert differences(kernels[kind], reference, choice.chunk_nbytes(kind), BLOCKS) == []


@KINDS
def test_natural_weights_do_not_need_ggml(
    kind: GGMLQuantizationType,
    kernels: dict[GGMLQuantizationType, Kernel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a super-block was left to ggml")

    monkeypatch.setattr(compiled, "quantize", refuse)
    kinds = dict(samples(64))
    for name in ("normal", "bfloat16", "uniform"):
        run(kernels[kind], kind, kinds[name])


@KINDS
@pytest.mark.parametrize("blocks", [1, 2, 3, 7, 8, 9, 31])
def test_any_number_of_blocks(
    kind: GGMLQuantizationType, blocks: int, kernels: dict[GGMLQuantizationType, Kernel]
) -> None:
    _, values = next(samples(blocks, seed=blocks))
    assert np.array_equal(run(kernels[kind], kind, values), run(ggml_kernel(kind), kind, values))


@KINDS
@pytest.mark.parametrize("columns", [32, 96, 256, 576, 768, 2304])
def test_rows_by_importance(
    kind: GGMLQuantizationType, columns: int, kernels: dict[GGMLQuantizationType, Kernel]
) -> None:
    if columns % GGML_QUANT_SIZES[kind][0]:
        with pytest.raises(ValueError, match="importances for"):
            out = np.empty(choice.chunk_nbytes(kind), np.uint8)
            kernels[kind](np.ones(256, np.float32), out, np.ones(columns, np.float32))
        return
    weights = importances(columns, seed=columns)
    for name, values in samples(-(-7 * columns // 256), seed=columns):
        rows = np.ascontiguousarray(values).reshape(-1)[: 7 * columns]
        bits = (rows.view(np.uint32) >> 16).astype(np.uint16)
        for source in (rows, bits):
            expected = run(ggml_kernel(kind), kind, source, weights)
            assert np.array_equal(run(kernels[kind], kind, source, weights), expected), name


@KINDS
@pytest.mark.parametrize("weight", [0.0, 1e-30, 1e30, float("inf")])
def test_importances_that_say_nothing(
    kind: GGMLQuantizationType, weight: float, kernels: dict[GGMLQuantizationType, Kernel]
) -> None:
    weights = np.full(512, weight, np.float32)
    values = next(samples(8))[1]
    expected = run(ggml_kernel(kind), kind, values, weights)
    assert np.array_equal(run(kernels[kind], kind, values, weights), expected)


@KINDS
def test_bfloat16_bits_are_read_as_they_are(
    kind: GGMLQuantizationType, kernels: dict[GGMLQuantizationType, Kernel]
) -> None:
    for name, values in samples(512, seed=5):
        bits = (np.ascontiguousarray(values).reshape(-1).view(np.uint32) >> 16).astype(np.uint16)
        wide = (bits.astype(np.uint32) << 16).view(np.float32)
        bits.flags.writeable = False
        expected = run(ggml_kernel(kind), kind, wide)
        assert np.array_equal(run(kernels[kind], kind, bits), expected), name
        assert np.array_equal(run(ggml_kernel(kind), kind, bits), expected), name


FLOATS = st.one_of(
    st.floats(width=32),
    st.floats(-1, 1, width=32),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-15, 65504.0, float("inf"), float("nan")]),
)


@KINDS
@settings(max_examples=150, deadline=None)
@given(values=arrays(np.float32, st.sampled_from([256, 768]), elements=FLOATS, fill=FLOATS))
def test_values_that_hypothesis_makes(
    kernels: dict[GGMLQuantizationType, Kernel],
    kind: GGMLQuantizationType,
    values: NDArray[np.float32],
) -> None:
    assert np.array_equal(run(kernels[kind], kind, values), run(ggml_kernel(kind), kind, values))


@KINDS
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_told(
    kind: GGMLQuantizationType, bad: float, kernels: dict[GGMLQuantizationType, Kernel]
) -> None:
    values = next(samples(20))[1].copy()
    out = np.empty(20 * choice.chunk_nbytes(kind), np.uint8)
    for kernel in (kernels[kind], ggml_kernel(kind)):
        largest = np.abs(values).max()
        assert kernel(values, out) == int(largest.view(np.uint32))
    values[3333] = bad
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    for kernel in (kernels[kind], ggml_kernel(kind)):
        assert kernel(values, out) >= INFINITY
        assert kernel(bits, out) >= INFINITY


@KINDS
def test_threads_share_a_kernel(
    kind: GGMLQuantizationType, kernels: dict[GGMLQuantizationType, Kernel]
) -> None:
    pieces = [next(samples(300, seed=seed))[1] for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda piece: run(kernels[kind], kind, piece), pieces))
    for piece, out in zip(pieces, together, strict=True):
        assert np.array_equal(out, run(ggml_kernel(kind), kind, piece))


def test_an_output_of_the_wrong_size_is_refused(
    kernels: dict[GGMLQuantizationType, Kernel],
) -> None:
    with pytest.raises(ValueError, match="144 bytes for 512 values"):
        kernels[GGMLQuantizationType.Q4_K](np.zeros(512, np.float32), np.zeros(144, np.uint8))


def test_half_precision_rounds_as_numpy_does() -> None:
    from convert.kernels.lanes import half

    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[:-1] + halves[1:]) / np.float32(2)
    near = np.concatenate([np.nextafter(ties, np.float32(side)) for side in (-1, 1e9)])
    values = np.concatenate([halves, ties, near])
    for sign in (1, -1):
        expected = (values * np.float32(sign)).astype(np.float16)
        got = [half(value) for value in values * np.float32(sign)]
        assert np.array_equal(np.array([bits for bits, _ in got], np.uint16), expected.view("u2"))
        assert np.array_equal(
            np.array([value for _, value in got], np.float32), expected.astype("f4")
        )


Q6_K = GGMLQuantizationType.Q6_K


def test_the_check_is_made_once(tmp_path: Path) -> None:
    told: list[str] = []
    for _ in range(2):
        choice.choose(Q6_K, notice=told.append, folder=tmp_path)
    assert len(told) == 1 and told[0].startswith("compiling the quantizers")
    stored = list(tmp_path.glob("Q6_K-*.json"))
    assert len(stored) == 1
    assert json.loads(stored[0].read_text())["differences"] == []


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"differences": 3}', b"\xff\xfe\x00"])
def test_a_damaged_result_is_ignored(tmp_path: Path, damage: bytes) -> None:
    choice.choose(Q6_K, folder=tmp_path)
    stored = next(tmp_path.glob("Q6_K-*.json"))
    stored.write_bytes(damage)
    choice.choose(Q6_K, folder=tmp_path)
    assert json.loads(stored.read_text())["differences"] == []


CHOOSE = """
import sys
from pathlib import Path
from gguf import GGMLQuantizationType
from convert.kernels.choice import choose
choose(GGMLQuantizationType.IQ4_NL, notice=print, folder=Path(sys.argv[1]))
"""


def test_no_two_compiled_functions_have_one_name() -> None:
    """By their names they are linked, even where two processes compiled them and numbered them
    alike: Q5_0's code was taken for Q4_0's.
    """

    def name(value: Any) -> str:
        function = getattr(value, "py_func", value)
        if not inspect.isfunction(function):
            return repr(function)
        return f"{function.__module__}.{function.__qualname__}"

    collected: dict[str, list[str]] = {}
    waiting = list(importlib.import_module("convert.kernels.by_type").BY_TYPE.values())
    while waiting:
        used = inspect.getclosurevars((one := waiting.pop()).py_func)
        contents = [one.py_func.__code__.co_code.hex(), *map(name, used.nonlocals.values())]
        if name(one) in collected:
            assert collected[name(one)] == contents, name(one)
            continue
        collected[name(one)] = contents
        values = [*used.nonlocals.values(), *used.globals.values()]
        modules = [value for value in values if inspect.ismodule(value)]
        values += [getattr(m, attribute, None) for m in modules for attribute in used.unbound]
        waiting += [value for value in values if hasattr(value, "py_func")]
    assert len(collected) > 30


def test_damaged_compiled_code_is_thrown_away(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", CHOOSE, str(tmp_path)]
    first = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    files = [*tmp_path.rglob("*.nbi"), *tmp_path.rglob("*.nbc")]
    assert len(files) == 2
    for path in files:
        path.write_bytes(path.read_bytes()[:200])
    again = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert first.stdout.startswith("compiling the quantizers") and first.stdout.count("\n") == 1
    assert again.stdout == first.stderr == again.stderr == ""


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told: list[str] = []
    choice.choose(Q6_K, notice=told.append, folder=tmp_path / "file" / "folder")
    assert len(told) == 1 and told[0].startswith("compiling the quantizers")


def test_other_types_have_ggmls_kernel() -> None:
    kind = GGMLQuantizationType.Q8_0
    values = next(samples(4))[1]
    expected = quantize(kind, values.reshape(1, -1)).reshape(-1)
    assert np.array_equal(run(choice.choose(kind), kind, values), expected)


def test_compiling_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each type of a mixture."""

    def compiling(
        kind: GGMLQuantizationType, *, searched: bool, notice: Callable[[str], None]
    ) -> Kernel:
        assert not searched
        notice("compiling")
        return ggml_kernel(kind)

    monkeypatch.setattr(pipeline, "choose", compiling)
    told: list[str] = []
    pipeline.kernels_for(compiled.KINDS, pipeline.SMALL, told.append)
    assert told == ["compiling"]


def fail(*_: object) -> None:
    raise RuntimeError("no such processor\nmore")


def test_without_numba_ggmls_kernel_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "compiled_kernel", fail)
    monkeypatch.setattr(choice, "available", lambda: False)
    told: list[str] = []
    values = next(samples(2))[1]
    ours = run(choice.choose(Q6_K, notice=told.append), Q6_K, values)
    assert np.array_equal(ours, run(ggml_kernel(Q6_K), Q6_K, values)) and told == []


def test_a_compiler_that_fails_is_told_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, not for each type of a mixture; the user would wait for ggml's kernels unaware."""
    monkeypatch.setattr(choice, "compiled_kernel", fail)
    monkeypatch.setattr(choice, "_user_cache", lambda: tmp_path)
    told: list[str] = []
    chosen = pipeline.kernels_for(compiled.KINDS, pipeline.SMALL, told.append)
    assert told[1:] == ["the faster quantizers can't be compiled: RuntimeError: no such processor"]
    assert list(tmp_path.iterdir()) == []
    values = next(samples(2))[1]
    assert np.array_equal(run(chosen[Q6_K], Q6_K, values), run(ggml_kernel(Q6_K), Q6_K, values))


def test_one_wrong_byte_and_ggmls_kernel_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: dict[GGMLQuantizationType, Kernel]
) -> None:
    def wrong(values: Values, out: NDArray[np.uint8], importances=None) -> int:
        largest = kernels[Q6_K](values, out, importances)
        out[100] ^= 1
        return largest

    monkeypatch.setattr(choice, "compiled_kernel", lambda *_: wrong)
    told: list[str] = []
    for _ in range(2):  # as found, and as kept
        chosen = choice.choose(Q6_K, notice=told.append, folder=tmp_path)
        values = next(samples(2))[1]
        assert np.array_equal(run(chosen, Q6_K, values), run(ggml_kernel(Q6_K), Q6_K, values))
    assert len(told) == 2 and "Q6_K isn't used: it differs (normal, " in told[1]


def test_each_is_used_where_it_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: dict[GGMLQuantizationType, Kernel]
) -> None:
    called: list[bool] = []

    def noted(values: Values, out: NDArray[np.uint8], weights=None) -> int:
        called.append(weights is not None)
        return kernels[Q6_K](values, out, weights)

    monkeypatch.setattr(choice, "compiled_kernel", lambda *_: noted)
    monkeypatch.setattr(
        choice, "speedup", lambda *_, by_importance=False: 3 if by_importance else 0.5
    )
    chosen = choice.choose(Q6_K, folder=tmp_path)
    called.clear()
    values = next(samples(2))[1]
    for weights in (None, importances(512)):
        expected = run(ggml_kernel(Q6_K), Q6_K, values, weights)
        assert np.array_equal(run(chosen, Q6_K, values, weights), expected)
    assert called == [True]


@pytest.mark.parametrize(("rate", "compiled"), [(0.9, False), (5.0, True)])
def test_the_faster_one_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float, compiled: bool
) -> None:
    called: list[int] = []

    def noted(values: Values, out: NDArray[np.uint8], weights=None) -> int:
        called.append(values.size)
        return ggml_kernel(Q6_K)(values, out, weights)

    monkeypatch.setattr(choice, "compiled_kernel", lambda *_: noted)
    monkeypatch.setattr(choice, "speedup", lambda *_, **__: rate)
    for _ in range(2):  # as found, and as kept
        chosen = choice.choose(Q6_K, folder=tmp_path)
        called.clear()
        run(chosen, Q6_K, next(samples(2))[1])
        assert called == [512] * compiled
