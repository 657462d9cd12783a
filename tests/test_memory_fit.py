"""Memory, counted before loading: as llama.cpp allocates it, as the system sees it, and told."""

import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Type

from llamacli import machine
from llamacli.batch import BatchEngine
from llamacli.engine import largest_file
from llamacli.engine.context import PADDING, plan_context
from llamacli.engine.engine import Engine
from llamacli.engine.fit import DEFAULT_CONTEXT, SPARE, Fitting
from llamacli.engine.footprint import HOST, Footprint, buffer_bytes, footprint, layer_places
from llamacli.engine.settings import EngineSettings
from llamacli.errors import DoesNotFitError, UsageError
from llamacli.gguf.check import check_llama
from llamacli.gguf.file import padded, read_gguf
from llamacli.machine import resources
from llamacli.machine.devices import Device
from llamacli.machine.resources import FreeMemory, Processor, cgroup_free, this_processor
from tests.standins.program import CPU_ALONE
from tests.standins.sparse import Shape, write_sparse
from tests.standins.tiny import write_model
from tests.systems import PLATFORM

MIB = 1 << 20
PLENTY = 1 << 50
# A wide feed-forward, as many key-value heads as heads, a large vocabulary, 8B's proportions.
SHAPES = {
    "wide": Shape(inner=8192, blocks=3),
    "attention": Shape(width=2048, inner=2048, heads=32, kv_heads=32, blocks=3),
    "vocabulary": Shape(
        width=512, inner=1024, heads=8, kv_heads=2, blocks=3, vocabulary=65536, tied=True
    ),
    "8b": Shape(width=2048, inner=7168, heads=16, head_size=128, blocks=4),
    "repacked output": Shape(blocks=3, embedding=Type.Q4_K, tied=True),
    "bytes": Shape(matrices=Type.Q8_0, blocks=3),
}
LOGGED = re.compile(r"(\S+) +(model|KV|compute|output) buffer size = +([\d.]+) MiB")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sparse")
    return {name: write_sparse(folder / f"{name}.gguf", one) for name, one in SHAPES.items()}


def fitting(
    path: Path, resident: int = PLENTY, *gpus: Device, features: str = "AVX2 REPACK", **more: Any
) -> Fitting:
    file = read_gguf(path)
    processor = Processor(2, frozenset(features.split()))
    free = FreeMemory(resident, address_space=more.pop("address_space", None))
    return Fitting(file, check_llama(file), processor, gpus, free, **more)


def cuda(number: int, free: int) -> Device:
    return Device(f"CUDA{number}", "NVIDIA", "cuda", "gpu", free, free)


def counted(path: Path, settings: EngineSettings) -> Footprint:
    file = read_gguf(path)
    shape = check_llama(file)
    plan = plan_context(int(settings.context or 0), settings, None)
    return footprint(file, shape, settings, plan, this_processor().features)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    "settings",
    [
        EngineSettings(context=4096, threads=1, flash_attention="on"),
        EngineSettings(context=1000, threads=1, repack=False, kv_type="q8_0"),
        EngineSettings(context=2048, threads=1, flash_attention="off", ubatch=128),
        EngineSettings(context=512, threads=1, kv_type="q4_0", mmap=False, batch=64),
    ],
    ids=["default", "q8_0", "plain attention", "q4_0 without mmap"],
)
def test_sizes_are_those_that_llama_cpp_allocates(
    paths: dict[str, Path],
    name: str,
    settings: EngineSettings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llamacli.engine.engine.FIRST_ROOM", 4096)  # all of the context at once
    monkeypatch.setenv("LLAMACLI_DEBUG", "1")
    with Engine(paths[name], replace(settings, device="cpu")) as engine:
        assert engine.settings.repack == (settings.repack and "REPACK" in this_processor().features)
    told: dict[str, float] = {}
    for _, kind, size in LOGGED.findall(capsys.readouterr().err):
        told[kind] = told.get(kind, 0) + float(size) * MIB
    need = counted(paths[name], settings).host
    assert need.kv == pytest.approx(told["KV"], abs=0.01 * MIB)
    if not settings.mmap:
        assert need.weights == pytest.approx(told["model"], abs=0.02 * MIB)
    shape, plan = engine.shape, plan_context(engine.context_size, settings, None)
    compute, _ = buffer_bytes(shape, plan, flash=settings.flash_attention != "off")
    assert compute == pytest.approx(told["compute"], rel=0.15, abs=2 * MIB)


PEAK = """
import json, sys
from pathlib import Path
from llamacli.tune.measure import peak_resident
from llamacli.engine.engine import Engine
from llamacli.engine.settings import EngineSettings
import llamacli.engine.fit, llamacli.prompt.encode, llamacli.answer.generation, numpy
from llamacli.machine import find_devices
find_devices()  # loads llama.cpp, and a GPU's driver, which takes what isn't the model's
settings = EngineSettings(**json.loads(sys.argv[2]))
before = peak_resident()
with Engine(Path(sys.argv[1]), settings) as engine:
    for start in range(0, engine.context_size, 512):
        engine.prefill([1000] * min(start + 512, engine.context_size))
    print(peak_resident() - before)
"""


@pytest.mark.skipif(PLATFORM != "linux", reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("8b", {"flash_attention": "on"}),
        ("8b", {"flash_attention": "on", "mmap": False}),
        ("8b", {"flash_attention": "on", "repack": False}),
        ("8b", {"repack": False, "mmap": False, "kv_type": "q8_0"}),
        ("8b", {"repack": False, "flash_attention": "off"}),
        ("attention", {"flash_attention": "on"}),
        ("attention", {"flash_attention": "off"}),
        ("vocabulary", {"flash_attention": "on"}),
    ],
)
def test_peak_is_within_a_tenth(paths: dict[str, Path], name: str, changes: dict[str, Any]) -> None:
    """Of a new process that loads the model and fills a context."""
    given = {"context": 512, "threads": 2, "device": "cpu", **changes}
    real = subprocess.run(
        [sys.executable, "-c", PEAK, str(paths[name]), json.dumps(given)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    estimate = counted(paths[name], EngineSettings(**given)).peak
    assert estimate == pytest.approx(int(real.stdout), rel=0.1)


def test_attention_is_by_products_where_they_are_fast_and_have_room(
    paths: dict[str, Path],
) -> None:
    """On processors where that was measured, and with a quarter of what is free to spare."""

    def taken(settings: EngineSettings, free: int = 1 << 40, features: str = "AVX2 AVX512") -> str:
        made = fitting(paths["attention"], free, features=features)
        return made.fit(settings).flash_attention

    asked = EngineSettings(context=4096, threads=1)
    off = fitting(paths["attention"]).need(replace(asked, flash_attention="off")).host.total
    assert taken(asked) == taken(asked, int(1.4 * off)) == "off"
    assert taken(asked, int(1.25 * off)) == taken(asked, features="AVX2") == "auto"
    assert taken(replace(asked, context="auto")) == "off"
    assert taken(replace(asked, flash_attention="on")) == "on"
    assert taken(replace(asked, kv_type="q8_0")) == "auto"


def test_batches_context_is_counted_as_it_is_made(tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny.gguf")
    settings = EngineSettings(context=300, threads=1)
    with BatchEngine(path, settings, 4) as engine:
        library, context = engine.library, engine.context_pointer
        plan = plan_context(engine.context_size, engine.settings, 4)
        assert padded(plan.cells, PADDING) == library.llama_n_ctx(context)
        assert plan.sequences == library.llama_n_seq_max(context)
        assert plan.ubatch == library.llama_n_ubatch(context)
    one, four = fitting(path).need(settings), fitting(path, parallel=4).need(settings)
    assert four.host.kv > one.host.kv


@pytest.mark.parametrize("context", [None, 16384])
@pytest.mark.parametrize("spare", [1.2, 0.9, 0.6, 0.4])
def test_each_offered_change_fits(
    paths: dict[str, Path], context: int | None, spare: float
) -> None:
    """Free memory from a little more than all to far less: offers are for real or not made."""
    asked = EngineSettings(context=context)
    path = paths["attention"]
    all_of_it = fitting(path).need(replace(asked, context=context or DEFAULT_CONTEXT)).host.total
    tight = fitting(path, int(all_of_it * spare))
    if spare > 1:
        assert tight.fit(asked).context == (context or DEFAULT_CONTEXT)
        return
    with pytest.raises(DoesNotFitError, match=r"attention\.gguf doesn't fit") as caught:
        tight.fit(asked)
    offers = str(caught.value).partition("what would fit: ")[2].split(", or ")
    assert offers[0]
    for offer in offers:
        changes: dict[str, Any] = {}
        words = offer.split()
        for option, value in itertools.pairwise(words):
            if option == "-c":
                changes["context"] = int(value)
            if option == "--kv-type":
                changes["kv_type"] = value
        assert changes, offer
        assert tight.fit(replace(asked, **changes)).repack in (True, False)


def test_what_costs_least_is_offered_first(paths: dict[str, Path]) -> None:
    """An 8-bit cache before half of a context that was asked for; that before 4 bits."""
    path = paths["attention"]
    need = fitting(path).need(EngineSettings(context=16384)).host
    tight = fitting(path, need.total - need.kv * 4 // 10)
    with pytest.raises(DoesNotFitError) as caught:
        tight.fit(EngineSettings(context=16384))
    offers = str(caught.value).partition("what would fit: ")[2].split(", or ")
    assert [re.sub(r"\d{3,}", "N", o) for o in offers] == [
        "--kv-type q8_0",
        "-c N",
        "--kv-type q4_0",
    ]
    assert tight.fit(EngineSettings()).context == DEFAULT_CONTEXT


def test_other_weights_are_offered_last(paths: dict[str, Path]) -> None:
    need = fitting(paths["bytes"]).need(EngineSettings(context=512)).host
    tight = fitting(paths["bytes"], need.total - need.weights // 3)
    with pytest.raises(DoesNotFitError, match="what would fit: the same model as Q4_K_M"):
        tight.fit(EngineSettings(context=512))
    hopeless = fitting(paths["bytes"], MIB)
    with pytest.raises(DoesNotFitError, match="take a smaller model"):
        hopeless.fit(EngineSettings())


def test_auto_takes_the_largest_context(paths: dict[str, Path]) -> None:
    path = paths["attention"]
    roomy = fitting(path).fit(EngineSettings(context="auto"))
    assert roomy.context == SHAPES["attention"].context
    tight = fitting(path, 600 * MIB)
    chosen = tight.fit(EngineSettings(context="auto"))
    assert tight.fits(chosen, SPARE)
    assert isinstance(chosen.context, int)
    assert not tight.fits(replace(chosen, context=chosen.context + 256), SPARE)
    batch = fitting(path, 600 * MIB, parallel=8).fit(EngineSettings(context="auto"))
    assert isinstance(batch.context, int) and batch.context < chosen.context


def test_weights_are_not_repacked_where_only_so_they_fit(paths: dict[str, Path]) -> None:
    """The file stays mapped beside what was repacked, which `ulimit -v` counts."""
    path = paths["8b"]
    asked = EngineSettings(context=512)
    packed = fitting(path).need(asked)
    plain = fitting(path).need(replace(asked, repack=False))
    between = (plain.address_space + packed.address_space) // 2
    assert fitting(path, address_space=between).fit(asked).repack is False
    assert fitting(path, address_space=packed.address_space * 2).fit(asked).repack is True


def test_layers_go_to_gpus_as_llama_cpp_puts_them() -> None:
    """The last ones and the output, shared out by free memory; the first stay on the CPU."""
    assert layer_places(4, 0, [10]) == [HOST] * 5
    assert layer_places(4, 5, [10]) == [0] * 5
    assert layer_places(4, 99, [10]) == [0] * 5
    assert layer_places(4, 2, [10]) == [HOST, HOST, HOST, 0, 0]
    assert layer_places(5, 6, [20, 10]) == [0, 0, 0, 0, 1, 1]
    assert layer_places(4, 5, []) == [HOST] * 5


def test_as_many_layers_as_fit_go_to_the_gpu(paths: dict[str, Path]) -> None:
    path = paths["vocabulary"]
    whole = fitting(path, PLENTY, cuda(0, PLENTY))
    assert whole.fit(EngineSettings()).gpu_layers == SHAPES["vocabulary"].blocks + 1
    assert fitting(path).fit(EngineSettings()).gpu_layers == 0
    need = whole.need(whole.fit(EngineSettings())).gpus[0]
    small = fitting(path, PLENTY, cuda(0, need.total - MIB))
    chosen = small.fit(EngineSettings())
    assert isinstance(chosen.gpu_layers, int) and 0 < chosen.gpu_layers <= 4
    with pytest.raises(DoesNotFitError, match=rf"CUDA0 .*--gpu-layers {chosen.gpu_layers}"):
        small.fit(EngineSettings(gpu_layers=5))
    assert fitting(path, PLENTY, cuda(0, 1)).fit(EngineSettings()).gpu_layers == 0
    two = fitting(path, PLENTY, cuda(0, PLENTY), cuda(1, PLENTY))
    first, second = two.need(two.fit(EngineSettings())).gpus
    assert first.weights and second.weights and first.kv and second.kv
    one, other = two.need(EngineSettings(context=512, gpu_layers=1)).gpus
    assert one.weights and not other.weights and not one.kv


@pytest.mark.parametrize("cards", [1, 2])
def test_the_largest_file_is_what_the_gpus_hold(
    paths: dict[str, Path], cards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All layers lie there and the embedding here, as llama.cpp has them: a file that just fits is
    the largest one, and less memory on a card takes as much from the part that lies there."""
    file = read_gguf(paths["8b"])
    shape, weights = check_llama(file), sum(tensor.nbytes for tensor in file.tensors)
    settings = EngineSettings(context=512, gpu_layers=shape.blocks + 1, repack=False)
    gpus = [cuda(i, PLENTY) for i in range(cards)]
    shares = fitting(paths["8b"], PLENTY, *gpus).need(settings).gpus
    monkeypatch.setattr(machine, "free_memory", lambda: FreeMemory(PLENTY))

    def largest_bytes(free: float) -> int:
        recorded = [cuda(i, int(free / (1 - SPARE))) for i in range(cards)]
        cpu = Device("CPU", "AMD EPYC", "cpu", "cpu", 20 << 30, 24 << 30)
        monkeypatch.setattr(machine, "find_devices", lambda: [*recorded, cpu])
        return largest_file(file, shape, 512)[0]

    full = max(shares, key=lambda share: share.total)
    assert largest_bytes(full.total) == pytest.approx(weights, abs=4 * MIB)
    less = weights - largest_bytes(full.total - 64 * MIB)
    assert less * full.weights / weights == pytest.approx(64 * MIB, abs=4 * MIB)
    with pytest.raises(DoesNotFitError, match="doesn't hold 512 tokens of context"):
        largest_bytes(full.buffers)


def test_apples_memory_is_the_hosts(paths: dict[str, Path]) -> None:
    """Weights on Metal are the mapped file's pages, so both limits hold."""
    metal = Device("MTL0", "Apple M2", "metal", "gpu", PLENTY, PLENTY)
    need = fitting(paths["8b"], PLENTY, metal).need(
        EngineSettings(context=512, gpu_layers=5, flash_attention="on")
    )
    assert need.host.weights >= need.gpus[0].weights
    assert need.host.kv == need.gpus[0].kv
    with pytest.raises(DoesNotFitError):
        fitting(paths["8b"], need.host.total // 2, metal).fit(EngineSettings(context=512))


def test_contexts_and_types_the_model_cannot_have(tmp_path: Path, paths: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="the model knows 131072"):
        fitting(paths["8b"]).fit(EngineSettings(context=131073))
    with pytest.raises(UsageError, match="none is used"):
        fitting(paths["8b"]).fit(EngineSettings(gpu_layers=1))
    tiny = write_model(tmp_path / "tiny.gguf")  # heads of 16 values
    with pytest.raises(UsageError, match="leave it at f16"):
        fitting(tiny).fit(EngineSettings(kv_type="q8_0"))
    with pytest.raises(UsageError, match="flash attention"):
        EngineSettings(kv_type="q4_0", flash_attention="off")


def test_control_groups_limits(tmp_path: Path) -> None:
    """Versions 2 and 1: pages of files count as free; a group without a limit says nothing."""
    second, first, none = (tmp_path / name for name in ("v2", "v1", "none"))
    for folder in (second, first, none):
        folder.mkdir()
    (second / "memory.max").write_text("1000\n")
    (second / "memory.current").write_text("700\n")
    (second / "memory.stat").write_text("anon 100\nactive_file 200\ninactive_file 100\n")
    assert cgroup_free([second]) == 1000 - 700 + 300
    (first / "memory.limit_in_bytes").write_text("500\n")
    (first / "memory.usage_in_bytes").write_text("600\n")
    (first / "memory.stat").write_text("total_active_file 50\ntotal_inactive_file 0\n")
    assert cgroup_free([first, second]) == 0
    (none / "memory.max").write_text("max\n")
    assert cgroup_free([none, tmp_path / "missing"]) is None


def test_a_containers_processors_are_those_that_its_limit_is_worth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "allowed_processors", lambda: 8)
    monkeypatch.setattr(resources, "_own_groups", lambda _: [tmp_path, tmp_path / "missing"])
    for limit, usable in (("max", 8), ("250000", 2), ("50000", 1), ("1600000", 8)):
        (tmp_path / "cpu.max").write_text(f"{limit} 100000\n")
        assert max(resources.thread_counts()) == resources.usable_processors() == usable
        assert resources.physical_cores() <= usable


@pytest.mark.skipif(PLATFORM != "linux", reason="ulimit -v is Linux's")
@pytest.mark.skipif(not CPU_ALONE, reason="a GPU's driver maps more than any such limit")
@pytest.mark.parametrize("options", [[], ["--overcommit"]], ids=["before loading", "while loading"])
def test_too_small_a_limit_is_exit_code_5(
    paths: dict[str, Path], options: list[str], tmp_path: Path
) -> None:
    """With the check, and without it where an allocation fails."""
    path = paths["8b"]
    space = counted(path, EngineSettings(context=4096, threads=1, repack=False)).address_space
    run = [sys.executable, "-m", "llamacli", "run", "--raw", "-n", "1", "-c", "4096"]
    run += ["--threads", "1", "--device", "cpu", "-m", str(path), *options, "hi"]

    def limited(nbytes: int) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", 'ulimit -v "$0" && exec "$@"', str(nbytes >> 10), *run]
        return subprocess.run(command, capture_output=True, text=True)

    # The program takes some of it before the model does.
    result = limited(space * 3 // 4 if options else space)
    assert result.returncode == 5 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert ("ulimit -v" in result.stderr) == (not options)
    result = limited(space + 500 * MIB)
    assert result.returncode == 0, result.stderr
