"""Devices: what is concluded of lists recorded elsewhere, and all that this machine really has."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llamacli.commands.devices import describe, lines
from llamacli.engine.context import EMBEDDING_THREADS, default_threads
from llamacli.engine.engine import Engine
from llamacli.engine.kv_state import restore, save
from llamacli.engine.settings import (
    KINDS,
    KV_TYPES,
    TUNABLE,
    Asked,
    EngineSettings,
    chosen_settings,
    defaults,
)
from llamacli.errors import UsageError
from llamacli.machine.devices import (
    Device,
    Machine,
    find_devices,
    rebuild_command,
    unused_hardware,
    use_devices,
)
from llamacli.machine.native import build_features
from llamacli.machine.resources import Processor, this_processor
from tests.standins.program import PROGRAM, run_program
from tests.standins.tiny import write_model

GIB = 1 << 30
CPU = Device("CPU", "AMD EPYC", "cpu", "cpu", 20 * GIB, 24 * GIB)
# Recorded: a Mac, a server with two cards, a laptop whose build knows CUDA and Vulkan.
MAC = [
    Device("MTL0", "Apple M2 Pro", "metal", "gpu", 20 * GIB, 21 * GIB),
    Device("BLAS", "Accelerate", "blas", "accelerator", 0, 0),
    Device("CPU", "Apple M2 Pro", "cpu", "cpu", 20 * GIB, 32 * GIB),
]
SERVER = [
    Device("CUDA0", "NVIDIA H100", "cuda", "gpu", 79 * GIB, 80 * GIB),
    Device("CUDA1", "NVIDIA H100", "cuda", "gpu", 40 * GIB, 80 * GIB),
    CPU,
]
LAPTOP = [
    Device("CUDA0", "NVIDIA RTX 4060", "cuda", "gpu", 7 * GIB, 8 * GIB),
    Device("Vulkan0", "NVIDIA RTX 4060", "vulkan", "gpu", 7 * GIB, 8 * GIB),
    Device("Vulkan1", "Intel Iris Xe", "vulkan", "integrated", 12 * GIB, 16 * GIB),
    CPU,
]
INTEGRATED = [Device("Vulkan0", "Intel Iris Xe", "vulkan", "integrated", 12 * GIB, 16 * GIB), CPU]


@pytest.mark.parametrize(
    ("devices", "wanted", "names"),
    [
        ([CPU], "auto", []),
        (MAC, "auto", ["MTL0"]),
        (MAC, "metal", ["MTL0"]),
        (MAC, "cpu", []),
        (SERVER, "auto", ["CUDA0", "CUDA1"]),
        (LAPTOP, "auto", ["CUDA0"]),
        (LAPTOP, "vulkan", ["Vulkan0"]),
        (INTEGRATED, "auto", ["Vulkan0"]),
        (INTEGRATED, "vulkan", ["Vulkan0"]),
    ],
)
def test_the_gpus_that_are_used(devices: list[Device], wanted: str, names: list[str]) -> None:
    """Each card once, one kind at a time, integrated ones only where there is no other."""
    assert [device.name for device in use_devices(devices, wanted)] == names


@pytest.mark.parametrize(("devices", "wanted"), [([CPU], "cuda"), (MAC, "cuda"), (SERVER, "metal")])
def test_a_kind_that_is_not_there_tells_how_to_build_it(devices: list[Device], wanted: str) -> None:
    with pytest.raises(UsageError, match=rf"(?i)(ACCEL={wanted}|-DGGML_{wanted}=on)"):
        use_devices(devices, wanted)


def test_hardware_that_the_build_cannot_use() -> None:
    card, mac = Machine(nvidia=True, renderer=True), Machine(apple_silicon=True)
    assert unused_hardware([CPU], Machine()) == []
    assert unused_hardware(SERVER, card) == []
    assert unused_hardware(MAC, mac) == []
    [(what, command)] = unused_hardware([CPU], card)
    assert "NVIDIA" in what and "-DGGML_CUDA=on" in command
    [(what, command)] = unused_hardware([CPU], mac)
    assert "Apple" in what and "-DGGML_METAL=on" in command
    [(what, command)] = unused_hardware([CPU], Machine(renderer=True))
    assert "-DGGML_VULKAN=on" in command


def test_the_command_is_for_how_it_was_installed() -> None:
    """make in a checkout; pip where it is; uv, which leaves pip out of environments."""
    source = Path(__file__).resolve().parents[1]
    assert rebuild_command("cuda", Machine(checkout=source)) == (
        f"make -C {source} install ACCEL=cuda"
    )
    for pip, program in ((True, f"{sys.executable} -m pip install"), (False, "uv pip install")):
        command = rebuild_command("vulkan", Machine(pip=pip))
        assert program in command and "--no-binary llama-cpp-python" in command
        assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0


@pytest.mark.parametrize("devices", [MAC, SERVER, LAPTOP, INTEGRATED])
def test_what_is_shown_of_recorded_devices(devices: list[Device]) -> None:
    description = describe(devices, Machine(nvidia=True))
    shown = lines(description)
    used = [device["name"] for device in description["devices"] if device["used"]]
    assert used == [device.name for device in use_devices(devices, "auto")]
    assert all(device.description in shown for device in devices)
    assert ("NVIDIA GPU is here" in shown) == all(device.kind != "cuda" for device in devices)


def test_control_characters_of_a_driver_stay_out_of_the_terminal() -> None:
    odd = replace(CPU, description="AMD\x1b[31m\nEPYC")
    assert "AMD\\x1b[31m\\nEPYC" in lines(describe([odd], Machine()))


def test_devices_of_this_machine() -> None:
    """The command tells ggml's devices, features and versions, on stdout alone."""
    run = [*PROGRAM, "devices"]
    result = run_program([*run, "--json"], text=True)
    told = json.loads(result.stdout)
    assert result.stderr == ""
    real = find_devices()
    assert [(d["name"], d["kind"], d["memory_total"]) for d in told["devices"]] == [
        (d.name, d.kind, d.total) for d in real
    ]
    assert told["built_for"] == build_features()
    assert 0 < told["devices"][-1]["memory_free"] <= told["devices"][-1]["memory_total"]
    shown = run_program(run, text=True).stdout
    assert all(device.name in shown for device in real)


KINDS_HERE = sorted({d.kind for d in find_devices() if d.kind in KINDS and d.role != "other"})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


LAYERS_HERE = [
    (kind, layers)
    for kind in KINDS_HERE
    for layers in (["auto", 0] if kind == "cpu" else ["auto", 0, 1, 2])
]


@pytest.mark.parametrize(("kind", "layers"), LAYERS_HERE)
def test_every_device_here_computes_the_same(path: Path, kind: str, layers: int | str) -> None:
    """Logits with some layers on it are the CPU's, but for rounding."""
    tokens = list(range(3, 80))
    with Engine(path, EngineSettings(context=256, device="cpu")) as engine:
        engine.prefill(tokens)
        expected = engine.logits().copy()
    settings = EngineSettings(context=256, device=kind, gpu_layers=layers)  # type: ignore[arg-type]
    with Engine(path, settings) as engine:
        engine.prefill(tokens)
        assert np.allclose(engine.logits(), expected, atol=0.05)
        on_gpu = sum(gpu.kind == kind for gpu in engine.gpus)
        assert (on_gpu > 0) == (kind != "cpu" and layers != 0)


@pytest.mark.parametrize(("kind", "layers"), LAYERS_HERE)
@pytest.mark.parametrize("flash", ["auto", "on", "off"])
def test_saved_states_come_back_on_every_device(
    path: Path, kind: str, layers: int | str, flash: str, tmp_path: Path
) -> None:
    settings = EngineSettings(
        context=256,
        device=kind,
        gpu_layers=layers,
        flash_attention=flash,  # type: ignore[arg-type]
    )
    with Engine(path, settings) as engine:
        engine.prefill(list(range(3, 60)))
        save(engine, tmp_path / "state")
        engine.prefill([9, 9])
        assert restore(engine, tmp_path / "state") == 57


@pytest.mark.skipif("cuda" in KINDS_HERE, reason="there is CUDA here")
def test_a_device_that_is_not_there_is_wrong_use(path: Path) -> None:
    run = [sys.executable, "-m", "llamacli", "run", "-m", str(path), "--device", "cuda", "hi"]
    result = subprocess.run(run, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    [line] = result.stderr.splitlines()
    assert "without CUDA" in line
    assert "GGML_CUDA=on" in line or "ACCEL=cuda" in line


AVX2, AVX512, NEON = (
    Processor(8, frozenset(f.split())) for f in ("AVX2", "AVX2 AVX512", "NEON DOTPROD")
)


def test_flags_win_over_tuned_settings_and_those_over_defaults() -> None:
    tuned = {"threads": 6, "threads_batch": 7, "repack": False, "ubatch": 256, "context": 1}
    plain = chosen_settings(Asked(), None, NEON)
    assert (plain.threads, plain.repack, plain.ubatch) == (None, True, 512)
    settled = chosen_settings(Asked(context="auto"), tuned, NEON)
    assert (settled.threads, settled.threads_batch, settled.repack) == (6, 7, False)
    assert settled.context == "auto" and "context" not in TUNABLE
    flagged = chosen_settings(Asked(threads=3, repack=True, kv_type="q8_0"), tuned, NEON)
    assert (flagged.threads, flagged.threads_batch, flagged.repack) == (3, 3, True)
    assert (flagged.kv_type, flagged.ubatch) == ("q8_0", 256)


def test_a_processor_that_only_looks_up_embeddings_wakes_few_threads() -> None:
    """All 32 blocks and the output are on GPUs; the output isn't; nothing is."""
    assert [default_threads(layers, 32, 16) for layers in (33, 32, 0)] == [
        EMBEDDING_THREADS,
        16,
        16,
    ]


def test_defaults_by_kind_of_processor() -> None:
    """With AVX-512, answers that are short go without repacked weights."""
    assert defaults(AVX512, "short") == {"repack": False}
    assert defaults(AVX512, "long") == {"repack": True}
    assert defaults(AVX2, "short") == defaults(AVX2, "long") == {"repack": False}
    assert defaults(NEON, "short") == defaults(NEON, "long") == {"repack": True}
    here = this_processor()
    assert here.cores >= 1
    assert here.features == {k for k, v in build_features()["CPU"].items() if v != "0"}


@pytest.mark.parametrize("change", [{"device": "gpu"}, {"gpu_layers": -1}, {"kv_type": "q5"}])
def test_settings_that_mean_nothing(change: dict[str, str | int]) -> None:
    with pytest.raises(UsageError):
        EngineSettings(**change)  # type: ignore[arg-type]


def test_every_kv_type_is_run(tmp_path: Path) -> None:
    """With heads of 64 values, as Llama 3.2 1B has; the state of each comes back."""
    from tests.standins.sparse import Shape, write_sparse

    path = write_sparse(tmp_path / "small.gguf", Shape(width=256, inner=512, heads=4, kv_heads=2))
    for kind in KV_TYPES:
        settings = EngineSettings(context=256, threads=1, kv_type=kind)
        with Engine(path, settings) as engine:
            engine.prefill(list(range(3, 40)))
            save(engine, tmp_path / kind)
            engine.prefill([9])
            assert restore(engine, tmp_path / kind) == 37
