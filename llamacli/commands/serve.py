"""llamacli serve: models for other programs, over HTTP."""

import re
from pathlib import Path
from typing import Annotated

from llamacli.commands import groups, options
from llamacli.errors import NotFoundError, UsageError
from llamacli.models import drafting_for, engine_settings, locate, mark_used

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LEAST_KEY = 8  # characters
ORIGIN = re.compile(r"\*|null|[a-zA-Z][\w+.-]*://[^/\s,]*/?")


def serve(
    *,
    model: Annotated[
        list[str] | None,
        options.complete_models,
        "--model",
        "-m",
        "Answer with this one alone; may be given again.  [default: all of the store]",
    ] = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8080,
    socket: Annotated[
        Path | None, "A Unix socket for run, chat and batch.  [default: the user's own]"
    ] = None,
    parallel: Annotated[int, "-p", "Answers that are decoded side by side."] = 4,
    queue: Annotated[int, (0, 100_000), "Answers that may wait for others."] = 64,
    slice_: Annotated[
        int | None,
        "--slice",
        (1, 1 << 16),
        "Tokens of a prompt that are read between others' tokens.  [default: as many as "
        "0.3 seconds let through]",
    ] = None,
    context: options.Context = None,
    api_key_file: Annotated[
        Path | None, "A file with a key a line; requests need one of them."
    ] = None,
    no_key: Annotated[bool, "Let everyone in, at an address that others reach."] = False,
    cors: Annotated[
        list[str] | None, "Let web pages of this origin ask; may be given again; * is all."
    ] = None,
    keep_alive: Annotated[
        str, "Free a model of the store unused for so long: 90s, 10m, never."
    ] = "10m",
    cache: Annotated[bool, "Keep what was read on disk while the model isn't loaded."] = False,
    tool_threshold: options.ToolThreshold = 0.5,
    timeout: Annotated[str, "The longest that an answer may take."] = "1h",
    log_prompts: Annotated[bool, "Log what requests say, on stderr."] = False,
    adapter: options.Adapter = None,
    machine: groups.Machine,
    drafts: groups.Drafts,
    quiet: options.Quiet = False,
) -> None:
    """Answer over HTTP as OpenAI's API does, until a signal comes.

    Without -m a request names any model of the store, and it is loaded then.
    """
    from llamacli.batch import BatchEngine

    options.check_parallel(parallel)
    if not 0 <= tool_threshold <= 1:
        raise UsageError(f"--tool-threshold is {tool_threshold:g}; give 0 to 1")
    if host not in LOOPBACK and api_key_file is None and not no_key:
        raise UsageError(
            f"{host} may be reached by others: give --api-key-file, or say --no-key out loud"
        )
    idle, longest = _seconds(keep_alive), _seconds(timeout)
    if longest == 0:
        raise UsageError("--timeout is 0; give how long an answer may take, or never")
    for origin in cors or ():
        if not ORIGIN.fullmatch(origin):
            raise UsageError(f"--cors is {origin!r}; give an origin as https://a.example, or *")
    if adapter and len(model or ()) != 1:
        raise UsageError("--adapter goes with one -m: an adapter is for one model")
    if drafts.draft and len(model or ()) != 1:
        raise UsageError("--draft goes with one -m: it drafts for one vocabulary")
    asked = machine.asked(context, "long", drafts, adapter)
    models = _chosen(model or [], quiet)
    keys = _read_keys(api_key_file) if api_key_file is not None else ()

    def open_model(path: Path) -> BatchEngine:
        mark_used(path)
        settings = engine_settings(path, asked, quiet=True)
        return BatchEngine(path, settings, parallel, drafting_for(path, asked, quiet=True))

    try:
        from llamacli.serve import Options, serve as answer
    except ModuleNotFoundError as error:
        raise NotFoundError(f"{error.name} is missing: pip install 'llamacli[serve]'") from None
    answer(
        Options(
            models=models,
            open=open_model,
            host=host,
            port=port,
            socket=socket,
            parallel=parallel,
            queue=queue,
            slice=slice_,
            keys=keys,
            origins=tuple(cors or ()),
            keep_alive=idle,
            cache=cache,
            tool_threshold=tool_threshold,
            adapters=asked.adapters,
            timeout=longest or 1e9,
            log_prompts=log_prompts,
            quiet=quiet,
        )
    )


def _chosen(names: list[str], quiet: bool) -> dict[str, Path]:
    """The models' files by the names that requests know them by."""
    paths = [locate(name, quiet=quiet).resolve() for name in names]
    models = {path.stem: path for path in paths}
    if len(models) < len(set(paths)):
        raise UsageError("two models have the same file name: requests couldn't tell them apart")
    return models


def _seconds(text: str) -> float | None:
    """A duration; None is never."""
    if text == "never":
        return None
    duration = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if duration is None:
        raise UsageError(f"{text!r} is no duration; give 90s, 10m, 2h or never")
    return float(duration[1]) * UNITS[duration[2]]


def _read_keys(path: Path) -> tuple[bytes, ...]:
    """A key a line; blank lines and those that begin with # don't count."""
    from llamacli.prompt import read_bytes

    lines = [line.strip() for line in read_bytes(path).split(b"\n")]
    keys = tuple(line for line in lines if line and not line.startswith(b"#"))
    if not keys:
        raise UsageError(f"{path} has no key: write one a line")
    if any(len(key) < LEAST_KEY for key in keys):
        raise UsageError(f"{path} has a key with less than {LEAST_KEY} characters")
    return keys
