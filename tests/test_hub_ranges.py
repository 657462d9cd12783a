"""Weights read over HTTP by byte range: what breaks goes on, what changes is noticed."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from convert import CheckpointError, SourceError, remote as reading
from convert.remote import Broken, Location, RemoteFile, pause
from tests.standins.hub import Cut, Hub, serve
from tests.standins.waiting import PATIENCE

DATA = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as running:
        yield running


@pytest.fixture
def remote(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RemoteFile]]:
    """Make a RemoteFile for DATA; located counts how often its address was asked for."""
    monkeypatch.setattr(reading, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(reading, "LONGEST_PAUSE", 0.002)
    with httpx2.Client(timeout=None, follow_redirects=True) as client:

        def make(size: int = len(DATA)) -> RemoteFile:
            def locate() -> Location:
                signature = str(len(hub.blobs))
                hub.blobs[signature] = ("weights", DATA)
                return Location(f"{hub.cdn_url}/blob?name=weights&signature={signature}", {})

            return RemoteFile("weights", size, "hash", locate, client)

        yield make


Make = Callable[..., RemoteFile]


def test_any_range_by_many_threads(remote: Make) -> None:
    file = remote()
    ranges = [(i * 4099, 10_000 + i) for i in range(100)] + [(len(DATA) - 1, 1), (0, len(DATA))]
    with ThreadPoolExecutor(16) as pool:
        for (offset, length), read in zip(
            ranges, pool.map(lambda r: file.read(*r), ranges), strict=True
        ):
            assert read == DATA[offset : offset + length]


def test_one_connection_serves_many_ranges(hub: Hub, remote: Make) -> None:
    file = remote()
    for offset in range(0, 500_000, 50_000):
        assert file.read(offset, 50_000) == DATA[offset : offset + 50_000]
    assert len({headers["(port)"] for _, _, _, headers in hub.cdn_requests()}) == 1


def test_goes_on_at_the_byte_where_it_broke(hub: Hub, remote: Make) -> None:
    hub.cuts = lambda number, asked: Cut(after=1000) if number < 4 else None
    assert remote().read(500, 9000) == DATA[500:9500]
    firsts = ["bytes=500-9499", "bytes=1500-9499", "bytes=2500-9499", "bytes=3500-9499"]
    assert hub.fetched("weights") == firsts


def test_breaks_that_bring_bytes_are_borne_without_end(hub: Hub, remote: Make) -> None:
    hub.cuts = lambda number, asked: Cut(after=100) if number <= 30 else None
    assert remote().read(0, 5000) == DATA[:5000]


def test_gives_up_where_nothing_comes(hub: Hub, remote: Make) -> None:
    hub.cuts = lambda number, asked: Cut(after=0)
    with pytest.raises(SourceError, match="in 8 tries"):
        remote().read(0, 5000)
    assert hub.served == reading.FAILURES


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_server_that_is_busy_is_asked_again(hub: Hub, remote: Make, status: int) -> None:
    hub.cuts = lambda number, asked: Cut(status=status) if number < 3 else None
    assert remote().read(0, 5000) == DATA[:5000]


def test_an_address_that_expires_is_asked_for_anew(hub: Hub, remote: Make) -> None:
    hub.expire_after = 2
    file = remote()
    for offset in range(0, 50_000, 10_000):
        assert file.read(offset, 10_000) == DATA[offset : offset + 10_000]
    assert len(hub.blobs) == 3


def test_a_refusal_for_good_ends_soon(hub: Hub, remote: Make) -> None:
    hub.expire_after = 0
    with pytest.raises(SourceError, match="HTTP 403"):
        remote().read(0, 10)
    assert hub.served == reading.REFUSALS + 1


def test_retry_after_is_waited_for(hub: Hub, remote: Make) -> None:
    waits: list[float] = []
    wait = (("Retry-After", "7"),)
    hub.cuts = lambda number, asked: Cut(status=429, headers=wait) if number == 1 else None
    file = remote()
    file._cancelled.wait = lambda seconds: waits.append(seconds) or False  # type: ignore[assignment]
    assert file.read(0, 10) == DATA[:10]
    assert waits == [7.0]


def test_too_long_a_retry_after_is_told(hub: Hub, remote: Make) -> None:
    hub.cuts = lambda number, asked: Cut(status=429, headers=(("Retry-After", "3600"),))
    with pytest.raises(SourceError, match="60 minutes"):
        remote().read(0, 10)


@pytest.mark.parametrize("address", ["http://.../", "http://[::1", "ftp://x/", "http://a:b/"])
def test_a_redirect_to_no_address_is_an_answer_that_failed(
    hub: Hub, remote: Make, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "FAILURES", 3)
    hub.cuts = lambda number, _: Cut(status=302, headers=(("Location", address),))
    with pytest.raises(SourceError, match="can't be read, in 3 tries"):
        remote().read(0, 10)


def test_a_file_of_another_size_is_noticed(remote: Make) -> None:
    with pytest.raises(CheckpointError, match="changed at the source"):
        remote(size=len(DATA) + 1).read(0, 10)
    with pytest.raises(CheckpointError, match="changed at the source"):
        remote(size=2 * len(DATA)).read(len(DATA) + 5, 10)


def test_an_answer_of_absurd_numbers_is_of_another_file(hub: Hub, remote: Make) -> None:
    absurd = (("Content-Range", f"bytes 0-9/{'9' * 5000}"),)
    hub.cuts = lambda number, asked: Cut(status=206, headers=absurd)
    with pytest.raises(CheckpointError, match="changed at the source"):
        remote().read(0, 10)


def test_a_file_with_another_etag_is_noticed(hub: Hub, remote: Make) -> None:
    file = remote()
    file.read(0, 10)
    hub.blobs["0"] = ("weights", DATA[::-1])
    with pytest.raises(CheckpointError, match="changed at the source"):
        file.read(10, 10)


def test_slow_drips_arrive(hub: Hub, remote: Make) -> None:
    hub.cuts = lambda number, asked: Cut(drip=True)
    assert remote().read(100, 3000) == DATA[100:3100]


def test_a_connection_that_has_all_but_stopped_is_left(
    remote: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer in single bytes, watched by a patience that is over at once, or never."""
    trickle: Any = SimpleNamespace(iter_raw=lambda: iter([b"x"] * 10))
    monkeypatch.setattr(reading, "STALL", -1.0)
    monkeypatch.setattr(reading, "LEAST", 100)
    with pytest.raises(Broken, match="all but stopped"):
        list(remote()._watched(trickle, 10))
    monkeypatch.setattr(reading, "LEAST", 1)
    assert list(remote()._watched(trickle, 10)) == [b"x"] * 10


def test_cancel_ends_a_read_that_waits(hub: Hub, remote: Make) -> None:
    begun, gate = threading.Event(), threading.Event()

    def cut(number: int, asked: str) -> Cut:
        begun.set()
        return Cut(after=10, gate=gate)

    hub.cuts = cut
    file = remote()
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(file.read, 0, 5000)
        assert begun.wait(PATIENCE)
        file.cancel()
        with pytest.raises(SourceError, match="stopped"):
            read.result(timeout=PATIENCE)
    gate.set()
    with pytest.raises(SourceError, match="stopped"):
        file.read(0, 10)


def test_pauses_grow_differ_and_end_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FIRST_PAUSE", 1.0)
    monkeypatch.setattr(reading, "LONGEST_PAUSE", 8.0)
    tried = [[pause(failures) for _ in range(50)] for failures in range(1, 8)]
    for failures, pauses in enumerate(tried, 1):
        longest = min(2 ** (failures - 1), 8)
        assert all(longest / 2 <= seconds <= longest for seconds in pauses)
        assert len(set(pauses)) > 1
