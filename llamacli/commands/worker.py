"""llamacli worker: lend this machine's devices to llamacli on another one."""

import re
from typing import Annotated

import typer

from llamacli.commands import options
from llamacli.errors import UsageError
from llamacli.terminal import notice

UNITS = {"": 1, "M": 1 << 20, "G": 1 << 30}


def worker(
    *,
    host: Annotated[str, "The address to listen at."] = "127.0.0.1",
    port: Annotated[int, "The port; 0 takes one that is free."] = 50052,
    device: Annotated[
        str, "What to lend: cpu, metal, cuda, vulkan, or auto."
    ] = "auto",
    memory: Annotated[
        str | None,
        "<SIZE>", "Tell of at most so much memory: 8G, 900M."
    ] = None,
    threads: options.Threads = None,
    cache: Annotated[
        bool, "Keep weights on this disk, to be sent once alone."
    ] = False,
    listen_openly: Annotated[
        bool,
        "Listen at an address that others reach: no key, no "
                     "encryption."
    ] = False,
    ssh: Annotated[
        str | None,
        "<HOST>", "Start a worker on that machine, reached by a tunnel "
                     "from here, and end it afterwards."
    ] = None,
    remote_program: Annotated[
        str, "With --ssh: how llamacli is called there."
    ] = "llamacli",
    remote_port: Annotated[
        int, "With --ssh: the port on that machine's loopback."
    ] = 50052,
    until_eof: Annotated[
        bool, typer.Option("--until-eof", hidden=True, help="End when stdin does.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:  # fmt: skip
    """Lend this machine's devices to others that name it by --workers, until a signal comes.

    The protocol has neither key nor encryption: whoever reaches the port has the machine.
    """
    from llamacli import workers

    if not (0 <= port <= 65535 and 1 <= remote_port <= 65535):
        raise UsageError("ports are numbers up to 65535")
    nbytes = None if memory is None else _bytes(memory)
    tell = (lambda _: None) if quiet else notice
    if until_eof:
        workers.end_with_stdin()
    if ssh is not None:
        if host != "127.0.0.1" or listen_openly:
            raise UsageError("--ssh goes with no --host and no --listen-openly")
        address = workers.address_of(host, port)
        given = _given(device, memory, threads, cache=cache, quiet=quiet)
        workers.host_by_ssh(
            ssh,
            address,
            remote_port,
            remote_program,
            given,
            lambda: tell(f"{ssh} lends what it has: use it by --workers {address}"),
        )
        return
    from llamacli.home import home
    from llamacli.machine import load_library, physical_cores

    folder = home("workers") if cache else None
    if folder is not None:
        from llamacli.errors import writing

        with writing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    address = workers.address_of(host, port, openly=listen_openly)
    load_library()
    lent = workers.described(workers.lent_devices(device), nbytes)
    if listen_openly:
        notice("the port has neither key nor encryption: whoever reaches it has this machine")
    workers.host(
        address,
        lambda: tell(f"lends {lent} at {address}"),
        tell,
        kind=device,
        memory=nbytes,
        threads=threads or physical_cores(),
        cache=str(folder or ""),
    )


def _given(
    device: str, memory: str | None, threads: int | None, *, cache: bool, quiet: bool
) -> list[str]:
    """The options for the worker there."""
    given = ["--device", device]
    given += ["--memory", memory] if memory is not None else []
    given += ["--threads", str(threads)] if threads is not None else []
    return given + ["--cache"] * cache + ["--quiet"] * quiet


def _bytes(text: str) -> int:
    matched = re.fullmatch(r"(\d{1,15})([MG]?)(?:i?B)?", text.strip())
    if matched is None or not int(matched[1]):
        raise UsageError(f"--memory is {text!r}; give 8G, 900M or bytes")
    return int(matched[1]) * UNITS[matched[2]]
