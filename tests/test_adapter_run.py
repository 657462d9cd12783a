"""A base with a LoRA adapter beside it computes what the merged weights compute."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from convert import convert, open_adapter, read_config, write_adapter
from llamacli.batch import BatchEngine
from llamacli.engine import AdapterChoice, Engine, EngineSettings, restore, save, state_key
from llamacli.engine.context import plan_context
from llamacli.engine.footprint import adapter_buffer_bytes, buffer_bytes
from llamacli.engine.kv_state import Unusable
from llamacli.errors import DoesNotFitError, InvalidModelError, UsageError
from llamacli.gguf import check_adapter, read_gguf, stated_shape
from tests.standins import adapter as standin
from tests.standins.adapter import LINEAR
from tests.standins.checkpoint import shape_config, write_checkpoint
from tests.test_memory_fit import MIB, fitting

SMALL = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "vocab_size": 600}
CONFIG = shape_config("tiny", **SMALL, max_position_embeddings=1024, initializer_range=0.2)
TOKENS = [*range(40, 72)]
SETTINGS = EngineSettings(context=128, threads=1, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base as F32, F16 and Q8_0, and adapters for it."""
    place = tmp_path_factory.mktemp("adapters")
    write_checkpoint(place / "base", CONFIG, dtype="F32")
    for quant in ("F32", "F16", "Q8_0"):
        convert(place / "base", place / f"{quant}.gguf", quant)
    shape = read_config(place / "base")
    every = [*LINEAR, "embed_tokens", "lm_head"]
    made: dict[str, dict[str, Any]] = {
        "lora": {},
        "every": {"targets": every, "use_rslora": True, "seed": 2},
        "ranks": {"ranks": {"v_proj": 2}, "rank_pattern": {"v_proj": 2}, "seed": 3},
    }
    for name, options in made.items():
        source = standin.write_adapter(place / name, CONFIG, **options)
        write_adapter(open_adapter(source, shape), shape, place / f"{name}.gguf")
    return place


def logits(path: Path, *adapters: AdapterChoice) -> np.ndarray:
    with Engine(path, replace(SETTINGS, adapters=adapters)) as engine:
        engine.prefill(TOKENS)
        first = engine.logits().copy()
        engine.decode(77)
        return np.stack([first, engine.logits()])


def merged(folder: Path, name: str, scales: dict[str, float], times: float, quant: str) -> Path:
    target = folder / f"{name}-{times}-merged"
    if not target.exists():
        standin.merge(folder / "base", folder / name, target, scales, times=times)
    convert(target, folder / f"{target.name}-{quant}.gguf", quant, force=True)
    return folder / f"{target.name}-{quant}.gguf"


@pytest.mark.parametrize(
    ("name", "scales"),
    [("lora", {"": 2.0}), ("every", {"": 4.0}), ("ranks", {"v_proj": 4.0, "": 2.0})],
)
@pytest.mark.parametrize("times", [1.0, -0.5])
@pytest.mark.parametrize(("quant", "noise"), [("F32", 2e-3), ("F16", 2e-2)])
def test_logits_are_those_of_the_merged_weights(
    name: str, scales: dict[str, float], times: float, quant: str, noise: float, folder: Path
) -> None:
    base = folder / f"{quant}.gguf"
    beside = logits(base, AdapterChoice(folder / f"{name}.gguf", times))
    expected = logits(merged(folder, name, scales, times, quant))
    spread = expected.std()
    assert np.abs(beside - expected).max() < noise * spread
    assert np.abs(beside - logits(base)).max() > 0.1 * spread  # the adapter counts


def test_two_adapters_add_up_and_scale_zero_is_none(folder: Path, tmp_path: Path) -> None:
    one, other = (AdapterChoice(folder / f"{name}.gguf") for name in ("lora", "ranks"))
    base = folder / "F32.gguf"
    both = logits(base, one, other)
    standin.merge(folder / "base", folder / "lora", tmp_path / "first", {"": 2.0})
    scales = {"v_proj": 4.0, "": 2.0}
    standin.merge(tmp_path / "first", folder / "ranks", tmp_path / "second", scales)
    convert(tmp_path / "second", tmp_path / "second.gguf", "F32")
    expected = logits(tmp_path / "second.gguf")
    assert np.abs(both - expected).max() < 2e-3 * expected.std()
    assert np.array_equal(logits(base, replace(one, scale=0.0)), logits(base))


def test_adapters_change_while_the_model_is_loaded(folder: Path) -> None:
    choice = AdapterChoice(folder / "lora.gguf")
    with Engine(folder / "F32.gguf", replace(SETTINGS, adapters=(choice,))) as engine:
        engine.prefill(TOKENS)
        adapted = engine.logits().copy()
        engine.use_adapters((0.0,))
        engine.keep(0)
        engine.prefill(TOKENS)
        plain = engine.logits().copy()
        engine.use_adapters((1.0,))
        engine.keep(0)
        engine.prefill(TOKENS)
        assert np.array_equal(engine.logits(), adapted)
        engine.reconfigure(replace(engine.settings, context=256))  # a new context has them, too
        engine.prefill(TOKENS)
        assert np.allclose(engine.logits(), adapted, atol=1e-5)
    assert np.allclose(plain, logits(folder / "F32.gguf")[0], atol=1e-5)
    assert np.abs(plain - adapted).max() > 0.1


def test_a_saved_cache_never_crosses_adapters(folder: Path, tmp_path: Path) -> None:
    lora, ranks = (AdapterChoice(folder / f"{name}.gguf") for name in ("lora", "ranks"))
    choices = [(), (lora,), (replace(lora, scale=0.5),), (ranks,), (lora, ranks)]
    keys = []
    for number, adapters in enumerate(choices):
        with Engine(folder / "F32.gguf", replace(SETTINGS, adapters=adapters)) as engine:
            keys.append(state_key(engine))
            engine.prefill(TOKENS)
            save(engine, tmp_path / f"{number}.kv")
            for other in range(number):
                with pytest.raises(Unusable, match="other settings"):
                    restore(engine, tmp_path / f"{other}.kv")
            assert restore(engine, tmp_path / f"{number}.kv") == len(TOKENS)
    assert len(set(keys)) == len(keys)
    off = replace(SETTINGS, adapters=(replace(lora, scale=0.0),))
    with Engine(folder / "F32.gguf", off) as engine:
        assert state_key(engine) == keys[0]


Change = Callable[[gguf.GGUFWriter, dict[str, np.ndarray]], None]


def write_adapter_file(
    path: Path,
    *,
    keys: dict[str, Any] | None = None,
    change: Callable[[dict[str, np.ndarray]], None] = lambda _: None,
) -> Path:
    writer = gguf.GGUFWriter(None, "llama")
    given = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 8.0}
    given |= keys or {}
    writer.kv_data[0].pop("general.architecture")
    for key, value in {"general.architecture": "llama", **given}.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, tuple):
            writer.add_key_value(key, *value)
        elif value is not None:
            writer.add_float32(key, value)
    tensors = {
        "blk.0.attn_q.weight.lora_a": np.ones((4, 64), np.float32),
        "blk.0.attn_q.weight.lora_b": np.ones((64, 4), np.float32),
    }
    change(tensors)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


A, B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"
DOUBLE = (8.0, gguf.GGUFValueType.FLOAT64)


@pytest.mark.parametrize(
    ("keys", "change", "fault"),
    [
        ({"general.type": "model"}, None, "general.type is 'model', not 'adapter': it is a model"),
        ({"general.type": None}, None, "general.type is None"),
        ({"adapter.type": "control_vector"}, None, "adapter.type is 'control_vector'"),
        ({"general.architecture": "qwen2"}, None, "general.architecture is 'qwen2', not 'llama'"),
        ({"adapter.lora.alpha": DOUBLE}, None, "alpha is 8.0, not a float32"),
        ({"adapter.lora.alpha": "8"}, None, "alpha is '8', not a float32"),
        ({"adapter.lora.alpha": float("nan")}, None, "alpha is nan"),
        ({"adapter.alora.invocation_tokens": "x"}, None, "activated LoRA"),
        ({}, lambda t: t.clear(), "no tensors"),
        ({}, lambda t: t.pop(A), "lora_a is missing"),
        ({}, lambda t: t.pop(B), "lora_b is missing"),
        ({}, lambda t: t.update({A: t[A][:, :32]}), "expected"),
        ({}, lambda t: t.update({A: t[A][:2]}), "another model than F32.gguf"),
        ({}, lambda t: t.update({B: t[B][:, :2]}), "expected"),
        ({}, lambda t: t.update({B: t[B].T.copy()}), "expected"),
        ({}, lambda t: t.update({A: t[A][None]}), "expected"),
        ({}, lambda t: t.update({A: t[A].astype(np.float64)}), "unknown type 28"),
        ({}, lambda t: t.update({"output_norm.weight": t[A][0]}), "a whole tensor"),
        ({}, lambda t: t.update({"blk.0.attn_norm.weight.lora_a": t[A]}), "adapts blk.0.attn_norm"),
        ({}, lambda t: t.update({"blk.7.attn_q.weight.lora_a": t[A]}), "doesn't have"),
        ({}, lambda t: t.update({"x.lora_c": t[A]}), "no part of a pair"),
    ],
)
def test_bad_files_are_named_before_llama_cpp_sees_them(
    keys: dict[str, Any],
    change: Callable[[dict[str, np.ndarray]], None] | None,
    fault: str,
    folder: Path,
    tmp_path: Path,
) -> None:
    path = write_adapter_file(
        tmp_path / "a.gguf", keys=keys, change=change or (lambda tensors: None)
    )
    with pytest.raises(InvalidModelError, match=re.escape(fault)):
        check_adapter(read_gguf(path), read_gguf(folder / "F32.gguf"))
    with pytest.raises(InvalidModelError, match=re.escape(str(path))):
        Engine(folder / "F32.gguf", replace(SETTINGS, adapters=(AdapterChoice(path),)))


def test_a_tied_embedding_cannot_be_adapted(tmp_path: Path) -> None:
    """llama.cpp would multiply the output by the embedding's pair, and abort."""
    tied = {**CONFIG, "tie_word_embeddings": True}
    write_checkpoint(tmp_path / "base", tied)
    convert(tmp_path / "base", tmp_path / "base.gguf", "F16")

    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["token_embd.weight.lora_a"] = np.ones((600, 4), np.float32)
        tensors["token_embd.weight.lora_b"] = np.ones((64, 4), np.float32)

    path = write_adapter_file(tmp_path / "a.gguf", change=change)
    with pytest.raises(InvalidModelError, match=r"which is the output of base\.gguf too"):
        check_adapter(read_gguf(path), read_gguf(tmp_path / "base.gguf"))


def test_a_file_without_alpha_or_named_twice(folder: Path, tmp_path: Path) -> None:
    """Without the key llama.cpp takes the product as it is."""
    path = write_adapter_file(tmp_path / "a.gguf", keys={"adapter.lora.alpha": None})
    check_adapter(read_gguf(path), read_gguf(folder / "F32.gguf"))
    assert stated_shape(read_gguf(path)).alpha == 0.0
    twice = (AdapterChoice(path), AdapterChoice(path, 0.5))
    with pytest.raises(UsageError, match="named twice"):
        Engine(folder / "F32.gguf", replace(SETTINGS, adapters=twice))
    many = tuple(AdapterChoice(path) for _ in range(17))
    with pytest.raises(UsageError, match="17 adapters are too many"):
        Engine(folder / "F32.gguf", replace(SETTINGS, adapters=many))


BUFFER = re.compile(r"LoRA buffer size = +([\d.]+) MiB")
COMPUTE = re.compile(r"compute buffer size = +([\d.]+) MiB")


def test_the_memory_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pairs where llama.cpp puts them, and what their products take beside the others."""
    shape = shape_config(
        "tiny", hidden_size=512, intermediate_size=2048, head_dim=64, vocab_size=600,
        num_attention_heads=8, max_position_embeddings=1024,
    )  # fmt: skip
    write_checkpoint(tmp_path / "base", shape)
    convert(tmp_path / "base", tmp_path / "base.gguf", "Q8_0")
    config = read_config(tmp_path / "base")
    source = standin.write_adapter(tmp_path / "lora", shape, r=64, lora_alpha=64)
    write_adapter(open_adapter(source, config), config, tmp_path / "lora.gguf")
    file = read_gguf(tmp_path / "lora.gguf")
    plain = fitting(tmp_path / "base.gguf")
    adapted = fitting(tmp_path / "base.gguf", adapters=[file])
    settings = replace(SETTINGS, context=1024)
    before, after = plain.need(settings), adapted.need(settings)
    nbytes = sum(tensor.nbytes for tensor in file.tensors)
    assert after.host.weights - before.host.weights == nbytes
    assert after.peak - before.peak >= nbytes
    monkeypatch.setattr("llamacli.engine.engine.FIRST_ROOM", 4096)
    monkeypatch.setenv("LLAMACLI_DEBUG", "1")
    choice = AdapterChoice(file.path)
    with Engine(tmp_path / "base.gguf", replace(settings, adapters=(choice,))) as engine:
        engine.prefill([7] * 600)
    said = capsys.readouterr().err
    assert nbytes == pytest.approx(sum(map(float, BUFFER.findall(said))) * MIB, abs=0.05 * MIB)
    plan = plan_context(engine.context_size, settings, None)
    compute = buffer_bytes(engine.shape, plan, flash=engine.settings.flash_attention != "off")[0]
    compute += adapter_buffer_bytes(engine.shape, plan, [file])
    assert compute == pytest.approx(float(COMPUTE.findall(said)[-1]) * MIB, rel=0.15)
    small = fitting(tmp_path / "base.gguf", before.host.total + nbytes // 2, adapters=[file])
    with pytest.raises(DoesNotFitError):
        small.fit(replace(settings, kv_type="q4_0"))


def test_a_batch_has_them_too(folder: Path) -> None:
    choice = AdapterChoice(folder / "lora.gguf")
    settings = replace(SETTINGS, adapters=(choice,))
    with BatchEngine(folder / "F32.gguf", settings, 2) as engine:
        assert engine.scales == (1.0,) and len(engine.adapters) == 1
