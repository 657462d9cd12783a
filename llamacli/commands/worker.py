"""llamacli worker: lend this machine's devices to llamacli on another one."""

from typing import Annotated

import typer

from llamacli.commands import options
from llamacli.errors import UsageError, writing
from llamacli.home import home
from llamacli.terminal import notice


def worker(
    *,
    host: options.Host = "127.0.0.1",
    port: options.Port = 50052,
    device: Annotated[str, "What to lend: cpu, metal, cuda, vulkan, or auto."] = "auto",
    memory: Annotated[str | None, "<SIZE>", "Tell of at most so much memory: 8G, 900M."] = None,
    threads: options.Threads = None,
    cache: Annotated[bool, "Keep weights on this disk, to be sent once alone."] = False,
    listen_openly: Annotated[
        bool, "Listen at an address that others reach: no key, no encryption."
    ] = False,
    ssh: Annotated[
        str | None,
        "<HOST>",
        "Start a worker on that machine, reached by a tunnel from here, and end it afterwards.",
    ] = None,
    remote_program: Annotated[str, "With --ssh: how llamacli is called there."] = "llamacli",
    remote_port: Annotated[
        int, (1, 65535), "With --ssh: the port on that machine's loopback."
    ] = 50052,
    until_eof: Annotated[
        bool, typer.Option("--until-eof", hidden=True, help="End when stdin does.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Lend this machine's devices to others that name it by --workers, until a signal comes.

    The protocol has neither key nor encryption: whoever reaches the port has the machine.
    """
    from llamacli import workers

    nbytes = None if memory is None else options.parse_size(memory, "--memory")
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
    from llamacli.machine import load_library, physical_cores

    folder = home("workers") if cache else None
    if folder is not None:
        with writing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    load_library()
    lent = workers.described(workers.lent_devices(device), nbytes)
    address = workers.address_of(host, port, openly=listen_openly)
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
