"""llamacli pull: a GGUF file from the Hub into the store."""

from typing import Annotated

import typer

from llamacli import hub
from llamacli.commands import fetching, options
from llamacli.commands.printing import bytes_bar
from llamacli.errors import writing
from llamacli.home import possible_name
from llamacli.models import target_folder
from llamacli.terminal import notice, send_path


def pull(
    source: Annotated[
        str, typer.Argument, "owner/repo:Q4_K_M, owner/repo/file.gguf, or owner/repo with one."
    ],
    output: fetching.Output = None,
    force: options.Force = False,
    revision: fetching.Revision = None,
    token: fetching.Token = None,
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
        fetching.tell_needs(repo, needed, target)
        hub.check_disk(needed, target)

    with (
        fetching.kept_pieces(target),
        bytes_bar("MB") as show,
    ):
        hub.pull(repo, parts, target, tell=tell, force=force, progress=show, notice=notice)
    send_path(target)
