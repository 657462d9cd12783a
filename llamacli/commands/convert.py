"""llamacli convert: a checkpoint becomes a GGUF file."""

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamacli import gguf, hub, machine, models
from llamacli.commands import adapting, imatrix as measuring, options, pull
from llamacli.commands.mixture import Mixture, fitted
from llamacli.commands.printing import bytes_bar, print_table
from llamacli.commands.verify import check_copy
from llamacli.errors import UsageError, writing
from llamacli.terminal import count, notice, printable, say, send_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert import Checkpoint, ImportanceMatrix, Quantization, Report


def convert(
    source: Annotated[
        str,
        typer.Argument,
        "A checkpoint or a LoRA adapter: its folder, a known model's name, or an id on the Hub.",
    ],
    output: pull.Output = None,
    *,
    mixture: Mixture,
    imatrix: Annotated[
        str | None,
        "<FILE|auto>",
        "An importance matrix of this model (see llamacli imatrix); auto measures one by "
        "a Q8_0 file first, and keeps it beside the target.",
    ] = None,
    merge: Annotated[
        list[str] | None,
        "<ADAPTER[:SCALE]>",
        "Merge a LoRA adapter, PEFT's folder or an id on the Hub; may be given again.",
    ] = None,
    base: Annotated[
        str | None, "For an adapter: its base's folder, GGUF file or id.  [default: what it names]"
    ] = None,
    threads: Annotated[
        int | None, (1, None), "Threads that quantize.  [default: all that it may have]"
    ] = None,
    force: options.Force = False,
    revision: pull.Revision = None,
    token: pull.Token = None,
    download: Annotated[bool, "Keep the weights in the Hub's cache; else none are kept."] = False,
    verify: Annotated[bool, "Compare the file with the folder; see llamacli verify."] = False,
) -> None:
    """Convert a Hugging Face Llama checkpoint to a GGUF file and print its path.

    Weights on the Hub are read as they are converted; what was cut short goes on from there.
    A LoRA adapter as PEFT saves it becomes a file for --adapter.
    """
    from convert import check_target, write_gguf

    threads = threads or machine.usable_processors()
    place, folder = models.find_checkpoint(source)
    chosen = mixture.chosen(place.quantization)
    measures = imatrix == measuring.AUTO and not Path(measuring.AUTO).exists()
    importance = None if imatrix is None or measures else measuring.read_matrix(imatrix)
    if folder is not None and (revision or token or download):
        raise UsageError("--revision, --token and --download go with a model on the Hub")
    if verify and merge:
        raise UsageError("--verify compares with a folder, which a merged adapter differs from")
    if folder is None and verify:
        raise UsageError("--verify goes with a folder; weights on the Hub are read only once")
    if folder is None and measures and not download:
        raise UsageError("--imatrix auto reads the weights twice; keep them here with --download")
    found = folder or hub.look_up(place.source, revision or place.revision, token)
    if adapting.is_adapter_source(found):
        if imatrix or mixture.changed or merge or verify or download:
            raise UsageError("an adapter takes --base, --quant, -o and --force alone")
        kind = mixture.named or "F32"
        send_path(adapting.convert_adapter(found, place.name, output, base, kind, token, force))
        return
    if base is not None:
        raise UsageError("--base goes with an adapter; this is a checkpoint itself")
    name = adapting.merged_name(place.name, merge or ())
    label = mixture.label or chosen.name.removeprefix(f"{name}-")  # a recipe's, by its file
    target = output or models.target_path(name, label)
    with writing(target):
        check_target(target, force)
        if measures:
            check_target(measuring.matrix_path(target), force)
        if folder is not None and _is_source(target, folder):
            raise UsageError(f"{target} is a part of the checkpoint; name another file to write")
    measuring.clear_hidden(target)
    with _opened(found, target, chosen, mixture.size, download=download) as opened:
        checkpoint = adapting.merge_into(opened, merge or (), token)

        def write(path: Path, types: "Quantization", matrix: "ImportanceMatrix | None") -> "Report":
            with bytes_bar("M params") as show:
                return write_gguf(
                    checkpoint,
                    path,
                    types,
                    threads=threads,
                    progress=show,
                    notice=notice,
                    check=lambda header, size: gguf.read_header(header, size, path.name),
                    force=force,
                    origin=None if isinstance(found, Path) else found.origin,
                    importance=matrix,
                )

        if measures:
            importance = measuring.measured(write, target, force)
        if mixture.fit is not None:
            local = None if folder is None else target  # the Hub's needs were told before
            chosen = fitted(checkpoint, mixture, chosen, importance, threads, local)
        report = write(target, chosen, importance)
        if verify and importance is not None:
            measuring.tell_gain(checkpoint, report, importance, chosen.searched, threads)
    _print_report(report)
    if verify and folder is not None:
        check_copy(report.path, folder, sys.stderr, threads=threads)
    send_path(report.path)


@contextmanager
def _opened(
    found: "Path | hub.Repo",
    target: Path,
    chosen: "Quantization",
    size: int | None,
    *,
    download: bool,
) -> "Iterator[Checkpoint]":
    """The checkpoint in a folder, or on the Hub, of which is told what it takes."""
    from convert import open_checkpoint

    if isinstance(found, Path):
        yield open_checkpoint(found)
        return
    config, shards = hub.read_outline(found)
    needed = hub.needs(found, config, shards, chosen, keep=download, size=size)
    pull.tell_needs(found, needed, target)
    hub.check_disk(needed, target)
    with (
        pull.kept_pieces(target),
        hub.open_checkpoint(found, config, shards, keep=download) as opened,
    ):
        yield opened


def _is_source(target: Path, folder: Path) -> bool:
    """Whether a file to be written is one that is read."""
    inside = target.exists() and target.parent.resolve() == folder.resolve()
    return inside and target.suffix in (".safetensors", ".json")


def _print_report(report: "Report") -> None:
    counts, sizes, values = Counter[str](), Counter[str](), Counter[str]()
    for tensor in report.tensors:
        counts[tensor.type.name] += 1
        sizes[tensor.type.name] += tensor.nbytes
        values[tensor.type.name] += tensor.spec.parameters
    parameters, data = sum(values.values()), sum(sizes.values())
    rows = [
        (name, str(counts[name]), count(values[name]), count(size, "B"))
        for name, size in sizes.most_common()
    ]
    print_table(("type", "tensors", "parameters", "size"), rows, "lrrr", sys.stderr)
    say(
        f"{printable(report.path.name)}: {count(parameters)} parameters, "
        f"{data * 8 / parameters:.2f} bits per weight, {count(report.source_nbytes, 'B')} → "
        f"{count(report.target_nbytes, 'B')} in {report.seconds:.1f} s"
    )
