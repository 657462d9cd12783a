"""The processor: a build whose code for AMX would end the process is run without it."""

import pytest

from llamacli.machine import cores

MARK = "llamacli: tile configurations are whole"


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
        (["GCC: (Debian 12.2.0-14) 12.2.0", MARK], True),
        ([], False),
    ],
)
def test_compilers_that_leave_tiles_unconfigured(comments: list[str], whole: bool) -> None:
    assert cores.configures_tiles(comments) == whole


@pytest.mark.parametrize("mended", [False, True])
def test_such_a_build_repacks_nothing(mended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"CPU": {"AVX2": "1", "AMX_INT8": "1", "REPACK": "1", "SVE": "0"}}
    monkeypatch.setattr(cores, "build_features", lambda: told)
    comments = ["GCC: (GNU) 12.2.0", *([MARK] if mended else [])]
    monkeypatch.setattr(cores, "library_comments", lambda: comments)
    expected = {"AVX2", "AMX_INT8", "REPACK"} if mended else {"AVX2"}
    assert cores.this_processor().features == expected
