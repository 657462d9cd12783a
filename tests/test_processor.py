"""The processor and llama.cpp's library: a build whose code for AMX would end the process is run
without it, and what a backend tells at its loading isn't heard."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from llamacli.machine import native, resources


@pytest.mark.parametrize(
    ("comments", "whole"),
    [
        (["GCC: (Debian 12.2.0-14+deb12u1) 12.2.0"], False),
        (["GCC: (GNU) 10.5.0"], False),
        (["GCC: (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0"], False),
        (["GCC: (Ubuntu 11.5.0-1) 11.5.0"], True),
        (["GCC: (Ubuntu 13.2.0-23ubuntu4) 13.2.0"], False),
        (["GCC: (GNU) 13.3.0"], True),
        (["GCC: (Debian 14.2.0-19) 14.2.0"], True),
        (["clang version 18.1.3"], True),
        (["GCC: (GNU) 12.2.0", "clang version 18.1.3"], False),
        ([], False),
    ],
)
def test_compilers_that_leave_tiles_unconfigured(comments: list[str], whole: bool) -> None:
    assert resources.configures_tiles(comments) == whole


@pytest.mark.parametrize("version", ["12.2.0", "14.2.0"])
def test_such_a_build_repacks_nothing(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"CPU": {"AVX2": "1", "AMX_INT8": "1", "REPACK": "1", "SVE": "0"}}
    monkeypatch.setattr(resources, "build_features", lambda: told)
    monkeypatch.setattr(resources, "library_comments", lambda: [f"GCC: (GNU) {version}"])
    expected = {"AVX2"} if version < "14" else {"AVX2", "AMX_INT8", "REPACK"}
    assert resources.this_processor().features == expected


class Library:
    """llama.cpp as a CUDA build is: its backends tell what they found when they are loaded."""

    def __init__(self) -> None:
        self.log: Callable[[int, bytes, Any], None] | None = None
        self.loaded = False

    def llama_log_callback(self, log: Callable[[int, bytes, Any], None]) -> Any:
        return log

    def llama_log_set(self, log: Callable[[int, bytes, Any], None], _: Any) -> None:
        self.log = log

    def llama_backend_init(self) -> None:
        text = b"ggml_cuda_init: found 1 CUDA devices\n"
        self.loaded = True
        if self.log is None:
            sys.stderr.write(text.decode())
        else:
            self.log(2, text, None)


@pytest.mark.parametrize("debug", ["", "1"])
def test_the_log_is_silenced_before_backends_are_loaded(
    debug: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLAMACLI_DEBUG", debug)
    library = Library()
    monkeypatch.setattr(native, "_import_low_level", lambda: library)
    native._library.cache_clear()
    try:
        assert native.load_library() is library and library.loaded
    finally:
        native._library.cache_clear()
    assert ("ggml_cuda_init" in capsys.readouterr().err) == bool(debug)
