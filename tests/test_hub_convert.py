"""Converting from the Hub, end to end: the real program against a stand-in on local ports."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from convert import convert, fit, read_importance, write_gguf, write_importance
from convert.checkpoint import open_checkpoint
from convert.importance import Entry
from llamacli.errors import DoesNotFitError
from llamacli.hub.checkpoint import Needs, check_disk
from tests.standins.checkpoint import TEMPLATE, shape_config, write_checkpoint
from tests.standins.hub import TOKEN, Cut, Hub, HubRepo, read_repo, serve
from tests.standins.program import PROGRAM, run_program
from tests.standins.waiting import PATIENCE, wait_until
from tests.systems import needs_peak, needs_signals
from tests.test_cli import llamacli, one_line
from tests.test_mixtures import some_importances

REPO = "meta-llama/Tiny-3-Instruct"
NAME = "Tiny-3-Instruct"
PIECES = 1 + 8 * 9 + 2  # of one tensor each, they are so small


@pytest.fixture(scope="module")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PIECES of three files, a model card among the small ones."""
    folder = tmp_path_factory.mktemp("source") / NAME
    write_checkpoint(folder, shape_config("tiny", num_hidden_layers=8), shards=3)
    (folder / "README.md").write_text("---\nlicense: llama3\n---\n# Tiny\n")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(TEMPLATE + "{{ tools }}")
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.00.pth").write_bytes(b"not read")
    return folder


@pytest.fixture(scope="module")
def local(checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a conversion of the folder gives."""
    target = tmp_path_factory.mktemp("local") / "out.gguf"
    convert(checkpoint_folder, target, "Q4_K_M")
    return target.read_bytes()


@pytest.fixture
def hub(checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in with REPO in it; the program's settings lead there."""
    with serve() as running:
        running.repos[REPO] = read_repo(checkpoint_folder)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
            monkeypatch.delenv(name, raising=False)
        yield running


@pytest.fixture
def small(hub: Hub, tmp_path: Path) -> Path:
    """REPO with an eighth of the layers, for what tries each type on each matrix."""
    folder = tmp_path / "small" / NAME
    write_checkpoint(folder, shape_config("tiny", num_hidden_layers=1, vocab_size=544), shards=2)
    hub.repos[REPO] = read_repo(folder)
    return folder


def cached_names(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "hf").rglob("snapshots/*/*")}


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_streamed_is_byte_for_byte_what_a_local_conversion_gives(
    hub: Hub, local: bytes, store: Path, tmp_path: Path
) -> None:
    result = llamacli("convert", REPO, "--q4")
    target = store / f"{NAME}-Q4_K_M.gguf"
    assert result.stdout == f"{target}\n"
    assert target.read_bytes() == local
    needs = result.stderr.splitlines()[:3]
    assert f"{REPO} at {hub.repos[REPO].commit[:12]}: " in needs[0]
    assert "to fetch in 11 files" in needs[0]
    assert needs[1].startswith("llamacli: disk: ") and str(store) in needs[1]
    assert needs[2].startswith("llamacli: memory: ") and "this machine has" in needs[2]
    assert files_in(store) == {target.name}
    assert not [name for name in cached_names(tmp_path) if name.endswith(".safetensors")]


def test_a_mixture_for_a_size_reads_weights_on_the_hub_twice_and_gives_the_same(
    small: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is found by is a part of large matrices; these are read whole.

    As is done of files that are waited for, without the gradients, which take three reads.
    """
    limit = 500_000
    checkpoint = open_checkpoint(small)
    for file in {stored.file for stored in checkpoint.weights.values()}:
        monkeypatch.setattr(type(file), "waits", True)
    made = fit(checkpoint, limit, "x")
    write_gguf(open_checkpoint(small), tmp_path / "local.gguf", made.quantization)
    result = llamacli("convert", REPO, "--fit", "500kB")
    target = store / f"{NAME}-500kB.gguf"
    assert result.stdout == f"{target}\n"
    assert target.read_bytes() == (tmp_path / "local.gguf").read_bytes()
    assert target.stat().st_size <= limit
    assert "disk: 500.00 kB for" in result.stderr
    assert files_in(store) == {target.name}


def test_of_two_sets_of_weights_model_safetensors_is_taken(
    hub: Hub, local: bytes, store: Path, tmp_path: Path
) -> None:
    """As transformers does, which looks for it first; that there is another set is told."""
    other = tmp_path / "other"
    write_checkpoint(other, json.loads(hub.repos[REPO].files["config.json"]), seed=9)
    hub.repos[REPO].files["model.safetensors"] = (other / "model.safetensors").read_bytes()
    said = llamacli("convert", REPO, "--quant", "F32").stderr
    assert "model.safetensors is taken, as transformers does, and not model-00001-of-" in said
    tensors = {t.name: t.data for t in GGUFReader(store / f"{NAME}-F32.gguf").tensors}
    convert(other, tmp_path / "other.gguf", "F32")
    for tensor in GGUFReader(tmp_path / "other.gguf").tensors:
        assert np.array_equal(tensors[tensor.name], tensor.data)


def test_downloaded_stays_in_the_cache_and_serves_offline(
    hub: Hub, local: bytes, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llamacli("convert", REPO, "--download")
    target = store / f"{NAME}-Q4_K_M.gguf"
    assert target.read_bytes() == local
    assert len([name for name in cached_names(tmp_path) if name.endswith(".safetensors")]) == 3
    hub.requests.clear()
    assert "all of it is in the Hub's cache" in llamacli("convert", REPO, "--force").stderr
    assert not hub.cdn_requests()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    assert "the copy in the Hub's cache" in llamacli("convert", REPO, "--force").stderr
    assert target.read_bytes() == local and not hub.requests
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the port that discards
    assert "the copy in the Hub's cache" in llamacli("convert", REPO, "--force").stderr


def test_a_matrix_weighs_streamed_tensors_too(
    hub: Hub, checkpoint_folder: Path, store: Path, tmp_path: Path
) -> None:
    matrix = some_importances(open_checkpoint(checkpoint_folder))
    write_importance(tmp_path / "m.gguf", matrix)
    given = read_importance(tmp_path / "m.gguf")
    convert(checkpoint_folder, tmp_path / "out.gguf", "Q3_K_S", importance=given)
    llamacli("convert", REPO, "--quant", "Q3_K_S", "--imatrix", tmp_path / "m.gguf")
    streamed = store / f"{NAME}-Q3_K_S.gguf"
    assert streamed.read_bytes() == (tmp_path / "out.gguf").read_bytes()


def test_what_another_matrix_made_is_not_gone_on_with(
    hub: Hub, checkpoint_folder: Path, store: Path, tmp_path: Path
) -> None:
    matrix = some_importances(open_checkpoint(checkpoint_folder))
    doubled = {n: Entry(e.sums[::-1].copy(), e.count) for n, e in matrix.entries.items()}
    write_importance(tmp_path / "m.gguf", replace(matrix, entries=doubled))
    busy = Cut(status=503, headers=(("Retry-After", "9999"),))
    hub.cuts = lambda number, asked: busy if number > 40 else None
    command = ("convert", REPO, "--quant", "Q3_K_M", "--imatrix", tmp_path / "m.gguf")
    assert "goes on from what is done" in llamacli(*command, check=4).stderr
    write_importance(tmp_path / "m.gguf", matrix, force=True)
    hub.cuts = lambda number, asked: None
    assert "starting anew" in llamacli(*command).stderr
    given = read_importance(tmp_path / "m.gguf")
    convert(checkpoint_folder, tmp_path / "out.gguf", "Q3_K_M", importance=given)
    streamed = store / f"{NAME}-Q3_K_M.gguf"
    assert streamed.read_bytes() == (tmp_path / "out.gguf").read_bytes()


def test_a_mixture_for_a_size_is_gone_on_with(
    hub: Hub, small: Path, store: Path, tmp_path: Path
) -> None:
    """It is found again, the same one, so that the pieces that are there serve."""
    whole = tmp_path / "whole.gguf"
    llamacli("convert", REPO, "--fit", "500kB", "-o", whole)
    requests = len(hub.cdn_requests())
    busy = Cut(status=503, headers=(("Retry-After", "9999"),))
    last = 2 * requests - 8
    hub.cuts = lambda number, asked: busy if len(hub.cdn_requests()) > last else None
    target = store / f"{NAME}-500kB.gguf"
    assert (
        "goes on from what is done" in llamacli("convert", REPO, "--fit", "500kB", check=4).stderr
    )
    hub.cuts = lambda number, asked: None
    assert (
        "going on from what the last call has done"
        in llamacli("convert", REPO, "--fit", "500kB").stderr
    )
    assert target.read_bytes() == whole.read_bytes()


def test_offline_without_a_copy_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    llamacli("convert", REPO)  # leaves the small files alone in the cache
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in one_line(llamacli("convert", REPO, "--q8", check=4))


def test_broken_connections_and_expired_addresses_change_no_byte(
    hub: Hub, local: bytes, store: Path
) -> None:
    hub.expire_after = 40
    hub.cuts = lambda number, asked: Cut(after=2000) if number % 13 == 0 else None
    llamacli("convert", REPO)
    assert (store / f"{NAME}-Q4_K_M.gguf").read_bytes() == local


def test_the_token_reaches_the_hub_and_never_the_cdn(hub: Hub, local: bytes, store: Path) -> None:
    hub.repos[REPO].gated = True
    llamacli("convert", REPO, "--token", TOKEN)
    assert (store / f"{NAME}-Q4_K_M.gguf").read_bytes() == local
    asked = [headers for server, _, path, headers in hub.requests if "/resolve/" in path]
    assert asked and all(headers["authorization"] == f"Bearer {TOKEN}" for headers in asked)
    assert hub.cdn_requests()
    assert all("authorization" not in headers for _, _, _, headers in hub.cdn_requests())


def test_a_repo_that_was_renamed_is_followed(hub: Hub, local: bytes, store: Path) -> None:
    hub.renamed["former/" + NAME] = REPO
    llamacli("convert", "former/" + NAME, "--token", TOKEN)
    assert (store / f"{NAME}-Q4_K_M.gguf").read_bytes() == local


def start(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "llamacli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def stopped_midway(hub: Hub, store: Path) -> "Iterator[subprocess.Popen[str]]":
    """A conversion that has written some pieces, and gets no more until the block ends."""
    gate = threading.Event()

    def cut(number: int, asked: str) -> Cut | None:
        header = asked.startswith(("bytes=0-", "bytes=8-"))
        return Cut(after=0, gate=gate) if number > 40 and not header else None

    hub.cuts = cut
    child = start("convert", REPO)
    journal = store / f".{NAME}-Q4_K_M.gguf.journal"
    wait_until(lambda: journal.exists() and journal.read_text().count("\n") >= 10, child)
    yield child
    hub.cuts = lambda number, asked: None
    gate.set()
    child.communicate()


def test_a_killed_conversion_goes_on_from_the_pieces_done(
    hub: Hub, local: bytes, store: Path
) -> None:
    with stopped_midway(hub, store) as child:
        child.kill()
        child.wait()
    target = store / f"{NAME}-Q4_K_M.gguf"
    assert not target.exists()
    done = len((store / f".{target.name}.journal").read_text().splitlines()) - 1
    hub.requests.clear()
    result = llamacli("convert", REPO)
    assert "going on from what the last call has done" in result.stderr
    headers = 2 * 3  # of three files, the length and the header itself
    servers = [server for server, _, _, _ in hub.requests]
    own = servers[servers.index("hub") :]  # what came before was on its way from the killed one
    assert own.count("cdn") == PIECES - done + headers
    assert target.read_bytes() == local
    assert files_in(store) == {target.name}


def test_pieces_that_were_damaged_meanwhile_are_made_anew(
    hub: Hub, local: bytes, store: Path
) -> None:
    with stopped_midway(hub, store) as child:
        child.kill()
        child.wait()
    target = store / f"{NAME}-Q4_K_M.gguf"
    part, journal = store / f".{target.name}.partial", store / f".{target.name}.journal"
    offset, length, _ = json.loads(journal.read_text().splitlines()[3])
    with part.open("r+b") as file:
        file.seek(offset + length // 2)
        file.write(b"damage")
    with journal.open("a") as file:
        file.write('[12345, 10, "torn')
    llamacli("convert", REPO)
    assert target.read_bytes() == local


@needs_signals
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_the_pieces_and_says_so(
    hub: Hub, local: bytes, store: Path, number: int, code: int
) -> None:
    with stopped_midway(hub, store) as child:
        child.send_signal(number)
        _, said = child.communicate(timeout=PATIENCE)
    assert child.returncode == code
    assert "goes on from what is done" in said.splitlines()[-1]
    llamacli("convert", REPO)
    assert (store / f"{NAME}-Q4_K_M.gguf").read_bytes() == local


def test_a_source_that_fails_leaves_the_pieces(hub: Hub, local: bytes, store: Path) -> None:
    hub.cuts = lambda number, asked: Cut(status=403) if number > 40 else None
    result = llamacli("convert", REPO, check=4)
    last = result.stderr.splitlines()[-1]
    assert "HTTP 403" in last and last.endswith("the same command goes on from what is done")
    hub.cuts = lambda number, asked: None
    llamacli("convert", REPO)
    assert (store / f"{NAME}-Q4_K_M.gguf").read_bytes() == local


def test_a_source_changed_between_two_calls_is_begun_anew(
    hub: Hub, store: Path, checkpoint_folder: Path, tmp_path: Path
) -> None:
    with stopped_midway(hub, store) as child:
        child.kill()
        child.wait()
    changed = tmp_path / NAME
    shutil.copytree(checkpoint_folder, changed)
    write_checkpoint(changed, shape_config("tiny", num_hidden_layers=8), shards=3, seed=1)
    hub.repos[REPO] = read_repo(changed)
    assert "the source has changed" in llamacli("convert", REPO).stderr
    convert(changed, tmp_path / "changed.gguf", "Q4_K_M")
    target = store / f"{NAME}-Q4_K_M.gguf"
    assert target.read_bytes() == (tmp_path / "changed.gguf").read_bytes()


def test_a_source_changed_while_it_is_read_is_refused(hub: Hub, store: Path) -> None:
    def change(number: int, asked: str) -> None:
        if number == 40:
            for signature, (path, data) in list(hub.blobs.items()):
                hub.blobs[signature] = (path, bytes(data) + b"more")

    hub.cuts = change
    assert "changed at the source" in llamacli("convert", REPO, check=3).stderr
    assert files_in(store) == set()


def test_two_conversions_to_one_target_do_not_mix(hub: Hub, local: bytes, store: Path) -> None:
    with stopped_midway(hub, store):
        said = llamacli("convert", REPO, check=6).stderr
        assert "being written by another process" in said.splitlines()[-1]
    assert (store / f"{NAME}-Q4_K_M.gguf").read_bytes() == local


def test_a_short_name_leads_to_its_hub_id(
    hub: Hub, local: bytes, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models.toml").write_text(f'[tiny]\nsource = "{REPO}"\nquantization = "Q8_0"\n')
    monkeypatch.setenv("LLAMACLI_CONFIG", str(tmp_path))
    assert llamacli("convert", "tiny").stdout == f"{store / NAME}-Q8_0.gguf\n"
    llamacli("convert", "tiny", "--q4", "--revision", hub.repos[REPO].commit)
    assert (store / f"{NAME}-Q4_K_M.gguf").read_bytes() == local


def gated(hub: Hub) -> None:
    hub.repos[REPO].gated = True


def private(hub: Hub) -> None:
    hub.repos[REPO].private = True


def pickled(hub: Hub) -> None:
    kept = {n: d for n, d in hub.repos[REPO].files.items() if "safetensors" not in n}
    hub.repos[REPO] = HubRepo({**kept, "pytorch_model.bin": b"pickle"})


def converted_already(hub: Hub) -> None:
    hub.repos[REPO] = HubRepo({"README.md": b"hi", "x-Q4_K_M.gguf": b"GGUF"})


def without_config(hub: Hub) -> None:
    del hub.repos[REPO].files["config.json"]


def without_a_shard(hub: Hub) -> None:
    del hub.repos[REPO].files["model-00002-of-00003.safetensors"]


@pytest.mark.parametrize(
    ("fault", "arguments", "code", "words"),
    [
        (gated, [], 4, f"/{REPO}, then log in: hf auth login"),
        (gated, ["--token", "hf_no_rights"], 4, f"/{REPO}, with this account"),
        (gated, ["--token", "hf_wrong"], 4, "log in again (hf auth login)"),
        (private, [], 4, "or it is private"),
        (pickled, [], 3, "consolidated.00.pth; only safetensors"),
        (converted_already, [], 3, f"has GGUF files; `llamacli pull {REPO}` gets one"),
        (without_config, [], 3, "no config.json"),
        (without_a_shard, [], 3, "model-00002-of-00003.safetensors, which is missing"),
        (None, ["--token", "hf\x1b é"], 2, "other characters than an access token"),
        (None, ["--token", ""], 2, "other characters than an access token"),
        (None, ["--revision", "v9"], 4, "no such revision"),
        (None, ["--revision", "../main"], 4, "not the name of a branch"),
    ],
)
def test_each_fault_is_one_line_and_a_code(
    hub: Hub,
    store: Path,
    fault: Callable[[Hub], None] | None,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    if fault is not None:
        fault(hub)
    said = one_line(llamacli("convert", REPO, *arguments, check=code))
    assert words in said
    assert not store.exists() or files_in(store) == set()  # the Hub is asked first


def test_a_busy_hub_is_waited_for(hub: Hub, local: bytes, store: Path) -> None:
    hub.api_answers += [(429, {"Retry-After": "0"}, b""), (503, {"Retry-After": "0"}, b"")]
    llamacli("convert", REPO)
    assert (store / f"{NAME}-Q4_K_M.gguf").read_bytes() == local


def test_a_hub_that_is_busy_with_addresses_is_waited_for_within_reason(
    hub: Hub, local: bytes, store: Path
) -> None:
    hub.large_answers += [(503, {"Retry-After": "0"}), (429, {"Retry-After": "1"}), (500, {})]
    llamacli("convert", REPO)
    assert (store / f"{NAME}-Q4_K_M.gguf").read_bytes() == local
    hub.large_answers += [(429, {"Retry-After": "3600"})] * 3
    said = llamacli("convert", REPO, "--force", check=4).stderr.splitlines()[-1]
    assert "asks for a pause of 60 minutes" in said


def test_a_wrong_name_meets_the_nearest(hub: Hub) -> None:
    hub.repos["meta-llama/Other"] = HubRepo({})
    near = one_line(llamacli("convert", "meta-llama/Tiny-3-Instuct", check=4))
    assert f"did you mean {REPO} or" in near
    known = one_line(llamacli("convert", "meta-llama/Llama-3.2-1B-Instrukt", check=4))
    assert "meta-llama/Llama-3.2-1B-Instruct" in known


@pytest.mark.parametrize("name", ["a/b/c", "../x", "x--y/z", "-/a", "owner/.git", "a/b\n"])
def test_names_that_play_tricks_reach_no_server(hub: Hub, name: str) -> None:
    result = run_program([*PROGRAM, "convert", "--", name], text=True)
    assert result.returncode == 4 and len(result.stderr.splitlines()) == 1
    assert not hub.requests


def test_a_cache_that_can_not_be_written_is_told(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    assert "look at HF_HOME" in one_line(llamacli("convert", REPO, check=6))


def test_no_network_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert "can't be reached" in one_line(llamacli("convert", REPO, check=4))


def test_a_disk_too_small_is_told_with_what_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    needed = Needs(fetched=0, files=0, cached=0, target=3 * 10**9, running=0)
    with pytest.raises(DoesNotFitError, match=r"1\.00 GB free, and 3\.00 GB .* 2\.00 GB short"):
        check_disk(needed, tmp_path / "out.gguf")


def test_hub_options_go_with_the_hub(checkpoint_folder: Path) -> None:
    assert "go with a model on the Hub" in one_line(
        llamacli("convert", checkpoint_folder, "--download", check=2)
    )


@needs_peak
def test_memory_stays_bounded(hub: Hub, tmp_path: Path) -> None:
    """Peak resident memory of streaming 0.4 GB of weights, in a process of its own."""
    config = shape_config("8b", num_hidden_layers=1, vocab_size=1024, intermediate_size=8192)
    write_checkpoint(tmp_path / "wide", config, sparse=True)
    hub.repos["a/wide"] = read_repo(tmp_path / "wide")
    script = (
        "import sys; from llamacli.tune.measure import peak_resident; import llamacli.cli as c\n"
        "try: c.main(['convert', 'a/wide', '--q8'])\n"
        "except SystemExit: print(peak_resident())"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ
    )
    assert int(child.stdout.splitlines()[-1]) < 600 << 20
