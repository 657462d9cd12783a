"""llamacli pull: a GGUF file from the Hub into the store.

And what convert does alike: say what it takes, and tell what stays.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from llamacli import hub
from llamacli.commands import options
from llamacli.commands.printing import bytes_bar
from llamacli.errors import LlamacliError, named, writing
from llamacli.home import possible_name
from llamacli.models import target_folder
from llamacli.terminal import count, notice, send_path

Output = Annotated[Path | None, "-o", "The file to write; without it, one in the store."]
Revision = Annotated[str | None, "On the Hub: a branch, tag or commit.  [default: main]"]
Token = Annotated[
    str | None, "On the Hub: an access token.  [default: $HF_TOKEN, or the stored one]"
]


def tell_needs(repo: "hub.Repo", needed: "hub.Needs", target: Path) -> None:
    """What is going to be fetched, and what it takes, before it is."""
    import psutil

    where = f"{repo.id} at {repo.commit[:12]}"
    if needed.fetched:
        kept = (
            f", {count(needed.cached, 'B')} of it kept in the Hub's cache" if needed.cached else ""
        )
        files = "1 file" if needed.files == 1 else f"{needed.files} files"
        notice(f"{where}: {count(needed.fetched, 'B')} to fetch in {files}{kept}")
    elif repo.out_of_reach:
        notice(f"{where}: the copy in the Hub's cache, as the Hub itself is out of reach")
    else:
        notice(f"{where}: all of it is in the Hub's cache")
    free = shutil.disk_usage(target.parent).free
    notice(f"disk: {count(needed.target, 'B')} for {target}, where {count(free, 'B')} are free")
    memory = psutil.virtual_memory().total
    running, has = count(needed.running, "B"), count(memory, "B")
    short = "" if needed.running <= memory else ", which is too little to run it at speed"
    notice(f"memory: {running} to run it; this machine has {has}{short}")


@contextmanager
def kept_pieces(target: Path) -> Iterator[None]:
    """Where the block is cut short and has left pieces of target, its error or a line says so."""
    from convert import partial_path

    try:
        yield
    except BaseException as raised:
        if not partial_path(target).exists():
            raise
        error, going_on = named(raised), "the same command goes on from what is done"
        if isinstance(error, LlamacliError):
            error.hint = f"{error.hint}; {going_on}" if error.hint else going_on
            raise error from (raised if error is not raised else None)
        notice(f"{going_on} (kept in {partial_path(target)})")
        raise


def pull(
    source: Annotated[
        str, typer.Argument, "owner/repo:Q4_K_M, owner/repo/file.gguf, or owner/repo with one."
    ],
    output: Output = None,
    force: options.Force = False,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Fetch a GGUF file from the Hub and print its path; parts of a split one are put together.

    It is checked before it gets its name. What was cut short goes on from there.
    """
    from convert import check_target

    wanted = hub.parse_wanted(source)
    repo = hub.look_up(wanted.repo, revision, token)
    name, parts = hub.choose(repo, wanted)
    target = output or target_folder() / possible_name(name)
    with writing(target):
        check_target(target, force)

    def tell(needed: "hub.Needs") -> None:
        tell_needs(repo, needed, target)
        hub.check_disk(needed, target)

    with (
        kept_pieces(target),
        bytes_bar("MB") as show,
    ):
        hub.pull(repo, parts, target, tell=tell, force=force, progress=show, notice=notice)
    send_path(target)
