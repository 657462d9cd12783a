"""LoRA adapters for llamacli convert: found, matched with their base, and written or merged."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import convert
from llamacli import hub, models
from llamacli.errors import InvalidModelError, NotFoundError, UsageError, writing
from llamacli.home import expanded, is_elsewhere
from llamacli.terminal import count, notice, printable, say


def is_adapter_source(found: "Path | hub.Repo") -> bool:
    """Whether what is to be converted is an adapter, in a folder or on the Hub."""
    return convert.is_adapter(found) if isinstance(found, Path) else hub.has_adapter(found)


def convert_adapter(
    found: "Path | hub.Repo",
    name: str,
    output: Path | None,
    base: str | None,
    quant: str,
    token: str | None,
    force: bool,
) -> Path:
    """Write an adapter's GGUF file and give its path; its base's config alone is looked at."""
    try:
        convert.adapter_type(quant)
    except convert.QuantizationError as error:
        raise UsageError(str(error)) from None
    folder = found if isinstance(found, Path) else hub.fetch_adapter(found)
    target = output or models.adapter_target(name)
    with writing(target):
        convert.check_target(target, force)
        if target.parent.resolve() == folder.resolve() and target.suffix != ".gguf":
            raise UsageError(f"{target} is a part of the adapter; name another file to write")
    config = base_config(base, folder, token)
    adapter = convert.open_adapter(folder, config, name)
    report = convert.write_adapter(adapter, config, target, quant, force=force, notice=notice)
    least, most = report.ranks
    ranks = f"rank {most}" if least == most else f"ranks {least} to {most}"
    say(
        f"{printable(target.name)}: {report.pairs} matrices adapted, {ranks}, "
        f"alpha {report.alpha:g}, {count(report.nbytes, 'B')}"
    )
    return target


def merge_into(
    checkpoint: "convert.Checkpoint", merges: Sequence[str], token: str | None
) -> "convert.Checkpoint":
    """The checkpoint with the adapters that --merge names, each with its scale, merged."""
    if not merges:
        return checkpoint
    chosen = []
    for given in merges:
        name, scale = models.split_scale(given)
        folder, called = _find(name, token)
        chosen.append((convert.open_adapter(folder, checkpoint.config, called), scale))
    return convert.merged(checkpoint, chosen)


def merged_name(base: str, merges: Sequence[str]) -> str:
    """What a model is called that adapters are merged into."""
    names = [models.folder_name(Path(models.split_scale(given)[0])) for given in merges]
    return "-".join((base, *names))


def base_config(named: str | None, folder: Path, token: str | None) -> "convert.LlamaConfig":
    """The config of an adapter's base: of the model that is named, else of the one that it names.

    That is a folder, a GGUF file that llamacli wrote, or a model on the Hub, of which config.json
    alone is fetched.
    """
    wanted = named or convert.read_adapter_config(folder).base
    if wanted is None:
        raise UsageError("the adapter doesn't say what its base is; name it with --base")
    if named is None and is_elsewhere(wanted):
        raise UsageError(
            f"the adapter's base is {printable(wanted)!r}, on another machine; name it with --base"
        )
    path = expanded(wanted)
    if path.is_file():
        config = _config_in(path)
        if config is None:
            raise InvalidModelError("llamacli didn't write it: it has no config.json", file=path)
        return config
    kept = [] if path.is_dir() else models.stored_models()
    for stored in models.matching(wanted, kept) or models.matching(path.name, kept):
        if (config := _config_in(stored)) is not None:
            return config
    try:
        model, checkpoint = models.find_checkpoint(wanted)
    except NotFoundError:
        raise NotFoundError(
            f"the adapter's base is {printable(wanted)!r}, which isn't here; name it with --base"
        ) from None
    if checkpoint is not None:
        return convert.read_base_config(checkpoint)
    try:
        return convert.read_base_config(hub.fetch_config(model.source, model.revision, token))
    except NotFoundError as error:
        error.hint = f"{error.hint}; " * bool(error.hint) + "or name a folder with --base"
        raise


def _config_in(path: Path) -> "convert.LlamaConfig | None":
    """The config.json that a GGUF file was made by; None where it holds none.

    Whether the output is a matrix of its own is as the file has it.
    """
    from llamacli.gguf import read_gguf

    file = read_gguf(path)
    text = file.metadata.get(convert.CONFIG_KEY)
    if not isinstance(text, str):
        return None
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict):
        raise InvalidModelError(f"{convert.CONFIG_KEY} is no JSON object", file=path)
    tied = all(tensor.name != "output.weight" for tensor in file.tensors)
    return replace(convert.LlamaConfig.from_dict(raw), tie_word_embeddings=tied)


def _find(name: str, token: str | None) -> tuple[Path, str]:
    """The folder of an adapter that --merge names: a folder, or an id on the Hub."""
    folder = expanded(name)
    if folder.is_dir():
        return folder, models.folder_name(folder)
    if folder.is_file():
        raise UsageError(f"{name} is a file; --merge takes an adapter as PEFT saves it, a folder")
    if not models.registry.HUB_ID.fullmatch(name):
        raise NotFoundError(f"there is no adapter's folder {name}")
    repo = hub.look_up(name, None, token)
    return hub.fetch_adapter(repo), repo.name
