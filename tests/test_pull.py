"""Fetching ready GGUF files, end to end: the real program against a stand-in on local ports."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llamacli.errors import InvalidModelError, NotFoundError, UsageError
from llamacli.gguf import read_gguf
from llamacli.hub import download
from llamacli.hub.download import Wanted, choose, parse_wanted
from llamacli.hub.index import HubFile
from llamacli.hub.repo import Repo
from tests.standins.checkpoint import tokenizer
from tests.standins.hub import Cut, Hub, HubRepo, serve
from tests.standins.tiny import write_model
from tests.standins.waiting import wait_until
from tests.test_cli import llamacli, one_line

REPO = "owner/Tiny-GGUF"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "Tiny.gguf")


@pytest.fixture
def hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve() as running:
        running.repos[REPO] = HubRepo({"Tiny-F32.gguf": model.read_bytes(), "README.md": b"hi"})
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
            monkeypatch.delenv(name, raising=False)
        yield running


def split(model: Path, folder: Path, count: int, *, bare: bool = False) -> dict[str, bytes]:
    """What gguf-split makes of a model: all metadata in the first part, split.* keys in each.

    bare leaves the first part without tensors, as its --no-tensor-first-split does.
    """
    reader = gguf.GGUFReader(model)
    groups = np.array_split(np.arange(len(reader.tensors)), count - bare)
    groups = [np.arange(0), *groups] if bare else groups
    files = {}
    for number, group in enumerate(groups):
        name = f"Tiny-F32-{number + 1:05d}-of-{count:05d}.gguf"
        writer = gguf.GGUFWriter(folder / name, "llama")
        for field in reader.fields.values() if number == 0 else ():
            if field.name != "general.architecture" and not field.name.startswith("GGUF."):
                kind = field.types[0]
                item = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), kind, item)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for i in group:
            writer.add_tensor(reader.tensors[i].name, np.array(reader.tensors[i].data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        files[name] = (folder / name).read_bytes()
    return files


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()} if folder.exists() else set()


@pytest.mark.parametrize("name", [f"{REPO}:f32", f"{REPO}/Tiny-F32.gguf"])
def test_a_file_arrives_whole(hub: Hub, model: Path, store: Path, name: str) -> None:
    result = llamacli("pull", name)
    assert result.stdout == f"{store / 'Tiny-F32.gguf'}\n"
    assert (store / "Tiny-F32.gguf").read_bytes() == model.read_bytes()
    assert files_in(store) == {"Tiny-F32.gguf"}
    needs = result.stderr.splitlines()
    assert "to fetch in 1 file" in needs[0] and "disk: " in needs[1] and "memory: " in needs[2]


@pytest.mark.parametrize(("count", "bare"), [(2, False), (3, True)])
def test_parts_are_put_together(
    hub: Hub, model: Path, store: Path, tmp_path: Path, count: int, bare: bool
) -> None:
    """The same tensors and metadata as in the model that was split, and the same answer."""
    parts = split(model, tmp_path, count, bare=bare)
    hub.repos[REPO] = HubRepo({f"F32/{name}": data for name, data in parts.items()})
    llamacli("pull", f"{REPO}:F32")
    merged = store / "Tiny-F32.gguf"
    before, after = gguf.GGUFReader(model), gguf.GGUFReader(merged)
    assert [t.name for t in after.tensors] == [t.name for t in before.tensors]
    for one, other in zip(before.tensors, after.tensors, strict=True):
        assert one.shape.tolist() == other.shape.tolist() and one.tensor_type == other.tensor_type
        assert np.array_equal(one.data, other.data)
    fields = [f for f in before.fields if not f.startswith("GGUF.")]
    assert fields == [f for f in after.fields if not f.startswith("GGUF.")]
    assert all(after.fields[f].contents() == before.fields[f].contents() for f in fields)
    options = ("--temp", "0", "-n", "8")
    answers = {llamacli("run", "hi", "-m", path, *options).stdout for path in (model, merged)}
    assert len(answers) == 1


def test_an_existing_file_needs_force(hub: Hub, model: Path, store: Path) -> None:
    store.mkdir()
    (store / "Tiny-F32.gguf").write_text("mine")
    assert "--force" in one_line(llamacli("pull", REPO, check=6))
    assert (store / "Tiny-F32.gguf").read_text() == "mine"
    llamacli("pull", REPO, "--force")
    assert (store / "Tiny-F32.gguf").read_bytes() == model.read_bytes()


def test_broken_connections_change_no_byte(hub: Hub, model: Path, tmp_path: Path) -> None:
    hub.expire_after = 3
    hub.cuts = lambda number, asked: Cut(after=100_000) if number % 3 else None
    llamacli("pull", REPO, "-o", tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == model.read_bytes()


def test_a_file_in_the_hubs_cache_is_taken_from_there(hub: Hub, model: Path, store: Path) -> None:
    fetch = (
        "from huggingface_hub import hf_hub_download as h; h('owner/Tiny-GGUF', 'Tiny-F32.gguf')"
    )
    subprocess.run([sys.executable, "-c", fetch], check=True, capture_output=True)
    hub.requests.clear()
    assert "all of it is in the Hub's cache" in llamacli("pull", REPO).stderr
    assert (store / "Tiny-F32.gguf").read_bytes() == model.read_bytes()
    assert not hub.cdn_requests()


def test_a_killed_pull_goes_on(hub: Hub, store: Path, tmp_path: Path) -> None:
    """A model of a few pieces, the last of which hangs until the program is killed."""
    large = write_model(tmp_path / "large.gguf", tokenizer=tokenizer(50_000))
    hub.repos[REPO].files["Tiny-F32.gguf"] = large.read_bytes()
    gate = threading.Event()
    last = f"-{large.stat().st_size - 1}"
    hub.cuts = lambda number, asked: Cut(after=9, gate=gate) if asked.endswith(last) else None
    child = subprocess.Popen(
        [sys.executable, "-m", "llamacli", "pull", REPO], stderr=subprocess.PIPE, text=True
    )
    journal = store / ".Tiny-F32.gguf.journal"
    wait_until(lambda: journal.exists() and journal.read_text().count("\n") >= 1 + 1 + 3, child)
    child.kill()
    child.communicate()
    gate.set()
    hub.cuts = lambda number, asked: None
    hub.requests.clear()
    assert "going on" in llamacli("pull", REPO).stderr
    header, *rest = hub.fetched("Tiny-F32.gguf")
    assert header.startswith("bytes=0-") and len(rest) == 1 and rest[0].endswith(last)
    assert (store / "Tiny-F32.gguf").read_bytes() == large.read_bytes()
    assert files_in(store) == {"Tiny-F32.gguf"}


def test_weights_with_another_hash_leave_nothing(hub: Hub, store: Path) -> None:
    hub.tamper = lambda data: data[:-100] + b"?" * 100
    assert "another SHA-256" in llamacli("pull", REPO, check=3).stderr.splitlines()[-1]
    assert files_in(store) == set()


def test_a_file_that_is_not_the_one_in_the_index_is_noticed(hub: Hub, store: Path) -> None:
    def lie(index: dict[str, Any]) -> dict[str, Any]:
        index["siblings"][0]["lfs"]["sha256"] = "a" * 64
        return index

    hub.edit_index = lie
    assert "was changed at owner/Tiny-GGUF" in one_line(llamacli("pull", REPO, check=3))
    assert files_in(store) == set()


@pytest.mark.parametrize(
    "address",
    [
        *("http://[::1", "http://127.0.0.1:99999/x", "http://x/\ty", "http://.../x", "ftp://x/y"),
        *("file:///etc/passwd", f"http://x/{'a' * 70_000}"),
    ],
)
def test_an_address_that_is_none_is_told(hub: Hub, store: Path, address: str) -> None:
    repo = hub.repos[REPO]
    hashed = repo.entry("Tiny-F32.gguf")["sha256"]
    size = len(repo.files["Tiny-F32.gguf"])
    headers = {"X-Linked-Etag": f'"{hashed}"', "X-Linked-Size": str(size), "Location": address}
    hub.large_answers.append((302, headers))
    assert hub.url in one_line(llamacli("pull", REPO, check=4))
    assert files_in(store) == set()


def replaced(name: str, data: bytes) -> Callable[[Hub, Path], None]:
    def change(hub: Hub, folder: Path) -> None:
        hub.repos[REPO] = HubRepo({name: data})

    return change


def another_architecture(hub: Hub, folder: Path) -> None:
    writer = gguf.GGUFWriter(folder / "other.gguf", "mamba")
    writer.add_tensor("x", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    hub.repos[REPO] = HubRepo({"other.gguf": (folder / "other.gguf").read_bytes()})


def cut_off(hub: Hub, folder: Path) -> None:
    files = hub.repos[REPO].files
    files["Tiny-F32.gguf"] = files["Tiny-F32.gguf"][:-5000]


def parts_of_two(hub: Hub, folder: Path) -> None:
    """The second part twice: it is another's in the first place."""
    parts = split(write_model(folder / "m.gguf"), folder, 2)
    second = parts["Tiny-F32-00002-of-00002.gguf"]
    hub.repos[REPO] = HubRepo({**parts, "Tiny-F32-00001-of-00002.gguf": second})


@pytest.mark.parametrize(
    ("fault", "name", "code", "words"),
    [
        (None, "llama-3.2-1b", 2, "`llamacli convert llama-3.2-1b` gets it"),
        (None, f"{REPO}:Q4_K_M", 4, "has no Q4_K_M; there are F32"),
        (parts_of_two, REPO, 3, "split.no is 1, expected 0"),
        (replaced("x.gguf", b"GGUF but not for long"), REPO, 3, "x.gguf"),
        (another_architecture, REPO, 3, "other.gguf: its architecture is 'mamba'"),
        (cut_off, REPO, 3, "ends beyond the file's"),
    ],
)
def test_each_fault_is_one_line_and_a_code(
    hub: Hub,
    store: Path,
    tmp_path: Path,
    fault: Callable[[Hub, Path], None] | None,
    name: str,
    code: int,
    words: str,
) -> None:
    if fault is not None:
        fault(hub, tmp_path)
    assert words in one_line(llamacli("pull", name, check=code))
    assert files_in(store) == set()


def test_a_header_is_asked_for_again_only_where_it_is_longer(
    hub: Hub, model: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.read_bytes()
    fetched: list[tuple[int, int]] = []

    class File:
        name, size, parallel = "Tiny.gguf", 0, 1

        def read(self, start: int, length: int) -> bytes:
            fetched.append((start, length))
            return self.data[start : start + length]

        data = b""

    def opened(data: bytes, first: int) -> list[int]:
        fetched.clear()
        file = File()
        file.data, file.size = data, len(data)
        repo = Repo("owner/x", "main", "0" * 40, {"Tiny.gguf": HubFile("Tiny.gguf", 1, "")}, {})
        monkeypatch.setattr(download, "remote_file", lambda *_: file)
        monkeypatch.setattr(download, "HEADER", first)
        try:
            download._open(repo, "Tiny.gguf", None)  # type: ignore[arg-type]
        finally:
            lengths = [length for _, length in fetched]
        return lengths

    store.mkdir()
    end = read_gguf(model).data_offset
    assert opened(whole, end) == [end]
    assert opened(whole, end // 20) == [n * (end // 20) for n in (1, 3, 12, 48)]  # each byte once
    assert [start for start, _ in fetched] == [n * (end // 20) for n in (0, 1, 4, 16)]
    bad = bytearray(whole)
    bad[4] = 9  # a version that nobody knows
    with pytest.raises(InvalidModelError, match="version 9"):
        opened(bytes(bad), end // 20)
    assert len(fetched) == 1
    with pytest.raises(InvalidModelError, match=r"^Tiny\.gguf: it is empty"):
        opened(b"", end // 20)


def test_forms_of_names() -> None:
    assert parse_wanted("a/b") == Wanted("a/b")
    assert parse_wanted("a/b:Q4_K_M") == Wanted("a/b", quantization="Q4_K_M")
    assert parse_wanted("a/b/c.gguf") == Wanted("a/b", file="c.gguf")
    assert parse_wanted("a/b/sub/c.gguf") == Wanted("a/b", file="sub/c.gguf")
    address = "https://huggingface.co/a/b"
    assert parse_wanted(f"{address}/") == parse_wanted(f"{address}/tree/main") == Wanted("a/b")
    assert parse_wanted(f"{address}/resolve/main/s/c.gguf?download=true") == Wanted(
        "a/b", file="s/c.gguf"
    )
    assert parse_wanted("hf.co/a/b:Q4_K_M") == Wanted("a/b", quantization="Q4_K_M")
    for wrong in ("", "a", "a/", "/a", "a/b:", "a/b/", "a/b:c/d", "https://x.co/a/b", "a b/c"):
        with pytest.raises(UsageError):
            parse_wanted(wrong)


PARTS = ["q8/a-Q8_0-00001-of-00002.gguf", "q8/a-Q8_0-00002-of-00002.gguf"]


@pytest.mark.parametrize(
    ("files", "name", "target", "parts"),
    [
        (["a.gguf", "README.md"], "o/r", "a.gguf", ["a.gguf"]),
        (["a-Q4_K_M.gguf", "a-Q4_K_S.gguf"], "o/r:q4_k_m", "a-Q4_K_M.gguf", ["a-Q4_K_M.gguf"]),
        (["a.Q8_0.gguf", "a-IQ8_0.gguf"], "o/r:Q8_0", "a.Q8_0.gguf", ["a.Q8_0.gguf"]),
        (["Q8_0.gguf", "x.gguf"], "o/r:Q8_0", "Q8_0.gguf", ["Q8_0.gguf"]),
        (["x/a.gguf", "y/a.gguf"], "o/r/y/a.gguf", "a.gguf", ["y/a.gguf"]),
        ([*PARTS, "a-F16.gguf"], "o/r:Q8_0", "a-Q8_0.gguf", PARTS),
        ([*PARTS, "a-F16.gguf"], f"o/r/{PARTS[1]}", "a-Q8_0.gguf", PARTS),
        ([*PARTS, "a-F16.gguf"], "o/r/q8/a-Q8_0.gguf", "a-Q8_0.gguf", PARTS),
        ([*PARTS, "q8/a-Q8_0.gguf"], "o/r", "a-Q8_0.gguf", ["q8/a-Q8_0.gguf"]),
    ],
)
def test_which_file_is_meant(files: list[str], name: str, target: str, parts: list[str]) -> None:
    assert choose(repo_of(files), parse_wanted(name)) == (target, parts)


@pytest.mark.parametrize(
    ("files", "name", "error", "words"),
    [
        (["README.md"], "o/r", NotFoundError, "`llamacli convert o/r` meant"),
        (["a-Q4_K_M.gguf"], "o/r:Q8_0", NotFoundError, "has no Q8_0; there are Q4_K_M"),
        (["a-Q4_K_M.gguf"], "o/r:K_M", NotFoundError, "has no K_M"),
        (["a-Q4_K_M.gguf"], "o/r/b.gguf", NotFoundError, "has no b.gguf"),
        (["a-Q4_K_M.gguf", "a-Q8_0.gguf", "mmproj.gguf"], "o/r", UsageError, "as o/r:Q4_K_M, of"),
        (["a-Q8_0.gguf", "b-Q8_0.gguf"], "o/r:Q8_0", UsageError, "several"),
        (PARTS[:1], "o/r", InvalidModelError, "not all of its parts"),
        ([PARTS[1], "q8/a-Q8_0-00001-of-00003.gguf"], "o/r", InvalidModelError, "not all"),
        ([".a.gguf"], "o/r", InvalidModelError, "hidden"),
    ],
)
def test_what_can_not_be_meant(
    files: list[str], name: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        choose(repo_of(files), parse_wanted(name))


def repo_of(names: list[str]) -> Repo:
    files = {name: HubFile(name, 1, "a" * 64) for name in names}
    return Repo("o/r", "main", "a" * 40, files, {})
