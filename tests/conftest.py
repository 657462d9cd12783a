"""What the tests share. The real Llama 3 files lie beside the repository where they are at hand.

`make test` runs them in two workers more than there are cores, by pytest-xdist: the files that take
longest first, a file in one worker, but for those of SPLIT, TABLES and what needs compiled kernels.
Any part of them runs in one process, by pytest alone.
"""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import pytest
from filelock import FileLock

from convert import convert
from llamacli.engine import Vocabulary, load_vocabulary
from tests.standins.checkpoint import shape_config, write_checkpoint
from tests.standins.hollow import without_weights, write_hollow
from tests.standins.tiny import read_tokenizer, write_model

if TYPE_CHECKING:
    from tests.standins.server import Serving

# Several tests run at once: one thread a program, whatever it asks for, and none that spins.
os.environ.setdefault("LLAMACLI_THREADS", "1")
os.environ.setdefault("OMP_THREAD_LIMIT", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

pytest_plugins = ("tests.promises",)

# Files whose tests go to whichever worker is free; those of the same first parameter, which a
# fixture may be of, stay together.
SPLIT = ("test_quantized_bytes", "test_fuzz", "test_bad_days")

# Files whose tests need ggml's tables of the IQ types share a worker: a process makes them in 14 s.
TABLES = (
    *("test_mixtures", "test_verify", "test_verify_foreign", "test_fit", "test_bench_report"),
    "test_imatrix",
)

# Those that read Meta's vocabulary by transformers, which takes two seconds each time.
REFERRING = ("test_prompt", "test_tokens", "test_templates")

# Tests that need compiled kernels, which one process compiles for all.
COMPILED = ("test_fast_quantizer.py", "test_bytes_equal_llama_cpp[8b", "llama_cpp[1b tied")

# What takes longest begins first, so that nothing long is left for the end.
LONGEST = (
    *("test_fast_quantizer", *TABLES, *REFERRING, "test_quantized_bytes", "test_smollm2"),
    *("test_shape", "test_hub_convert", "test_pretokenizers", "test_bad_days", "test_fuzz"),
    *("test_serve_bodies", "test_workers", "test_demo", "test_serve_safety", "test_long_run"),
    *("test_mcp", "test_speculation", "test_whole_file", "test_systems", "test_memory_fit"),
    *("test_shell", "test_template", "test_repl", "test_vocabulary", "test_serve_chat"),
    *("test_hostile_files", "test_conversation", "test_pull", "test_registry"),
)

# The programs that the tests start write as they do for users, whose shells don't set this.
os.environ.pop("PYTHONUNBUFFERED", None)

# A shell has its background jobs ignore Ctrl-C, and nohup has its own ignore a hangup; so would the
# programs that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if (hangup := getattr(signal, "SIGHUP", None)) is not None:
    signal.signal(hangup, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "llamacli" / "demo"
SHARED = ROOT.parent / "shared"

Made = Callable[[str, Callable[[Path], Any]], Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        places = {stem: place for place, stem in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two more than cores: some tests wait for time to pass."""
    return (os.cpu_count() or 1) + 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            stem = Path(file).stem
            if stem in TABLES:
                return "tables"
            if stem in REFERRING:
                return "referring"
            if any(part in nodeid for part in COMPILED):
                return "compiled"
            return nodeid.partition("-")[0] if stem in SPLIT else file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """made(name, make): the path of what make(path) has written, once for all workers.

    Tests read it and leave it as it is.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # a worker's own folder is in that of all
    folder /= "made"
    folder.mkdir(exist_ok=True)

    def once(name: str, make: Callable[[Path], Any]) -> Path:
        path, done = folder / name, folder / f"{name}.done"
        with FileLock(folder / f"{name}.lock"):
            if not done.exists():
                make(path)
                done.touch()
        return path

    return once


@pytest.fixture(scope="session")
def llama3_files() -> Path:
    """The folder with the real tokenizer and configs of Llama 3; the test skips without it."""
    if not (SHARED / "llama3").is_dir():
        pytest.skip(f"the real Llama 3 files are not in {SHARED / 'llama3'}")
    return SHARED / "llama3"


@pytest.fixture(scope="session")
def real_models(llama3_files: Path, made: Made) -> Path:
    """Meta's three models, by name: folders with their small files, and hollow .gguf files."""

    def copy_and_convert(place: Path) -> None:
        for source in sorted(llama3_files.glob("Meta-*")):
            folder = place / source.name
            shutil.copytree(source, folder)
            shutil.copy(llama3_files / "tokenizer.json", folder)
            write_hollow(without_weights(folder), place / f"{source.name}.gguf")

    return made("real", copy_and_convert)


@pytest.fixture(scope="session")
def real(llama3_files: Path, made: Made) -> Vocabulary:
    """Meta's 128,256 tokens in llama.cpp."""

    def write(path: Path) -> None:
        raw = read_tokenizer(llama3_files / "tokenizer.json")
        write_model(path, tokenizer=raw, weights=False)

    return load_vocabulary(made("vocabulary.gguf", write))


@pytest.fixture(scope="session")
def reference(real_models: Path) -> Callable[[str], Any]:
    """reference(name): transformers' tokenizer of one of Meta's models."""
    transformers = pytest.importorskip("transformers")
    return cache(lambda name: transformers.AutoTokenizer.from_pretrained(real_models / name))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Make a checkpoint of the tiny shape: checkpoint(dtype=…, shards=…, **config changes)."""

    def make(*, dtype: str = "BF16", shards: int = 1, **changes: Any) -> Path:
        folder = tmp_path / "checkpoint"
        write_checkpoint(folder, shape_config("tiny", **changes), dtype=dtype, shards=shards)
        return folder

    return make


@pytest.fixture(scope="session", autouse=True)
def nobodys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers and programs of several tests read and write nothing of the user's, either."""
    folder = tmp_path_factory.mktemp("nobodys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMACLI_HOME", str(folder / "store"))
        patch.setenv("LLAMACLI_CONFIG", str(folder / "config"))
        yield


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model store of its own for every test, and no models.toml of the user's."""
    folder = tmp_path / "store"
    monkeypatch.setenv("LLAMACLI_HOME", str(folder))
    monkeypatch.setenv("LLAMACLI_CONFIG", str(tmp_path / "config"))
    runtime = tmp_path.with_name(f"{tmp_path.name}-run")  # where no server has its socket
    runtime.mkdir(mode=0o700, exist_ok=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    for name in ("LLAMACLI_WORKERS", "LLAMACLI_SPLIT", "LLAMACLI_WORKER_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def demo(made: Made) -> Path:
    """The demo's file, converted once for all tests."""
    return made("demo.gguf", lambda path: convert(DEMO, path, "Q8_0"))


@pytest.fixture(scope="module")
def server(demo: Path) -> "Iterator[Serving]":
    """A server of the demo, for a file's tests; files that ask of another one have their own."""
    from tests.standins.server import serving

    with serving("-m", demo) as started:
        yield started


@pytest.fixture
def reached(server: "Serving", monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is the user's own, whom programs ask by its socket."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(server.runtime))


@pytest.fixture(scope="session")
def endless(made: Made) -> Path:
    """A model that babbles until its context of 131,072 tokens is full."""

    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0].pop("llama.context_length", None)
        writer.add_context_length(131_072)
        texts = writer.kv_data[0]["tokenizer.ggml.tokens"].value
        control = [i for i, text in enumerate(texts) if text.startswith("<|")]
        writer.tensors[0]["output.weight"].tensor[control] = 0  # never the likeliest

    return made("endless.gguf", lambda path: write_model(path, change=change))
