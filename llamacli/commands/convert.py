"""llamacli convert: a checkpoint becomes a GGUF file."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from llamacli.commands import adapting, fetching
from llamacli.commands.measuring import AUTO, matrix_path, measured
from llamacli.commands.printing import bytes_bar, print_table
from llamacli.commands.verify import check_copy
from llamacli.errors import NotFoundError, UsageError, writing
from llamacli.home import expanded
from llamacli.models import folder_name, target_path
from llamacli.terminal import count, notice, printable, say, send_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from convert import Checkpoint, ImportanceMatrix, Report
    from convert.quantization import Quantization
    from llamacli.hub import Repo


class Source(NamedTuple):
    """A checkpoint's folder or Hub id, and what the registry knows of it."""

    name: str
    folder: Path | None
    hub_id: str
    revision: str | None
    quantization: str


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint or a LoRA adapter: its folder, a known model's name, or an id on "
            "the Hub."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write; without it, one in the store."),
    ] = None,
    q4: Annotated[bool, typer.Option("--q4", help="Short for --quant Q4_K_M.")] = False,
    q8: Annotated[bool, typer.Option("--q8", help="Short for --quant Q8_0.")] = False,
    quant: Annotated[
        str | None,
        typer.Option(
            help="Q8_0, Q6_K, Q5_K_M, Q4_K_M, IQ4_XS, Q3_K_M, … (docs/quantization.md has all).  "
            "[default: the model's, or Q4_K_M]",
        ),
    ] = None,
    imatrix: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|auto",
            help="An importance matrix of this model (see llamacli imatrix); auto measures one by "
            "a Q8_0 file first, and keeps it beside the target.",
        ),
    ] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN=TYPE",
            help="A type for tensors in whose GGUF name the pattern is found; may be given again.",
        ),
    ] = None,
    output_tensor_type: Annotated[
        str | None, typer.Option(help="The type of the output matrix.")
    ] = None,
    token_embedding_type: Annotated[
        str | None, typer.Option(help="The type of the token embedding.")
    ] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADAPTER[:SCALE]",
            help="Merge a LoRA adapter, PEFT's folder or an id on the Hub; may be given again.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="For an adapter: its base's folder, GGUF file or id.  [default: what it names]"
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that quantize.  [default: all cores]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    revision: fetching.Revision = None,
    token: fetching.Token = None,
    download: Annotated[
        bool,
        typer.Option("--download", help="Keep the weights in the Hub's cache; else none are kept."),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare the file with the folder; see llamacli verify."),
    ] = False,
) -> None:
    """Convert a Hugging Face Llama checkpoint to a GGUF file and print its path.

    Weights on the Hub are read as they are converted; what was cut short goes on from there.
    A LoRA adapter as PEFT saves it becomes a file for --adapter.
    """
    from convert import QuantizationError, open_checkpoint, read_importance
    from convert.quantization import adapted, quantization
    from convert.target import check_target

    asked = _quantization_name(q4, q8, quant)
    try:
        quantization(asked or "Q4_K_M")
    except QuantizationError as error:
        raise UsageError(f"--quant: {error}") from None
    place = _find(source)
    try:
        chosen = adapted(
            quantization(asked or place.quantization),
            output=output_tensor_type,
            embedding=token_embedding_type,
            overrides=tensor_type or (),
        )
    except QuantizationError as error:
        raise UsageError(str(error)) from None
    measures = imatrix == AUTO and not Path(AUTO).exists()
    named = imatrix if not measures else None
    importance = None if named is None else read_importance(expanded(named))
    if place.folder is not None and (revision or token or download):
        raise UsageError("--revision, --token and --download go with a model on the Hub")
    if verify and merge:
        raise UsageError("--verify compares with a folder, which a merged adapter differs from")
    if place.folder is None and verify:
        raise UsageError("--verify goes with a folder; weights on the Hub are read only once")
    if place.folder is None and measures and not download:
        raise UsageError("--imatrix auto reads the weights twice; keep them here with --download")
    repo = None
    if place.folder is None:
        from llamacli.hub import look_up

        repo = look_up(place.hub_id, revision or place.revision, token)
    if adapting.is_adapter_source(place.folder, repo):
        unfit = (imatrix, tensor_type, output_tensor_type, token_embedding_type, merge, verify)
        if any(unfit) or download:
            raise UsageError("an adapter takes --base, --quant, -o and --force alone")
        send_path(
            adapting.convert_adapter(place.folder, repo, output, base, asked or "F32", token, force)
        )
        return
    if base is not None:
        raise UsageError("--base goes with an adapter; this is a checkpoint itself")
    target = output or target_path(adapting.merged_name(place.name, merge or ()), chosen.name)
    with writing(target):
        check_target(target, force)
        if measures:
            check_target(matrix_path(target), force)
        if place.folder is not None and _is_source(target, place.folder):
            raise UsageError(f"{target} is a part of the checkpoint; name another file to write")
    if place.folder is not None:
        report = _write(
            adapting.merge_into(open_checkpoint(place.folder), merge or (), token),
            target, chosen, importance, measures, threads, force,
        )  # fmt: skip
    else:
        assert repo is not None
        report = _from_hub(
            repo, merge or (), download, target, chosen, importance, measures, threads, force
        )
    _print_report(report)
    if verify and place.folder is not None:
        check_copy(report.path, place.folder, sys.stderr, threads=threads)
    send_path(report.path)


def _from_hub(
    repo: "Repo",
    merge: "Sequence[str]",
    download: bool,
    target: Path,
    chosen: "Quantization",
    importance: "ImportanceMatrix | None",
    measures: bool,
    threads: int | None,
    force: bool,
) -> "Report":
    from llamacli.hub import check_disk, needs, open_checkpoint, read_outline

    config, shards = read_outline(repo)
    needed = needs(repo, config, shards, chosen, keep=download)
    fetching.tell_needs(repo, needed, target)
    check_disk(needed, target)
    with (
        fetching.kept_pieces(target),
        open_checkpoint(repo, config, shards, keep=download) as opened,
    ):
        checkpoint = adapting.merge_into(opened, merge, repo.token)
        return _write(checkpoint, target, chosen, importance, measures, threads, force, repo.origin)


def _write(
    checkpoint: "Checkpoint",
    target: Path,
    chosen: "Quantization",
    importance: "ImportanceMatrix | None",
    measures: bool,
    threads: int | None,
    force: bool,
    origin: str | None = None,
) -> "Report":
    """Write the target, after a matrix was measured where that is asked for."""
    from convert import write_gguf

    def write(path: Path, mixture: "Quantization", matrix: "ImportanceMatrix | None") -> "Report":
        with bytes_bar("M params") as show:
            return write_gguf(
                checkpoint,
                path,
                mixture,
                threads=threads,
                progress=show,
                notice=notice,
                check=_will_run(path),
                force=force,
                origin=origin,
                importance=matrix,
            )

    if measures:
        importance = measured(write, target, force)
    return write(target, chosen, importance)


def _will_run(target: Path) -> "Callable[[bytes, int], None]":
    """The checks that every other command makes of a file, for its header before it is written."""
    from llamacli.gguf import check_header

    def check(header: bytes, size: int) -> None:
        check_header(header, size, target.name)

    return check


def _quantization_name(q4: bool, q8: bool, quant: str | None) -> str | None:
    named = [name for name, on in (("Q4_K_M", q4), ("Q8_0", q8)) if on]
    named += [quant] if quant is not None else []
    if len(named) > 1:
        raise UsageError("give one of --q4, --q8 and --quant")
    return named[0] if named else None


def _find(source: str) -> Source:
    """What SOURCE means: a folder that is there, a known model, an id on the Hub."""
    from importlib.resources import files

    from llamacli.models import registry

    folder = expanded(source)
    if folder.exists():
        return Source(folder_name(folder), folder, "", None, "Q4_K_M")
    if model := registry.find(source):
        if model.source == registry.BUILT_IN:
            folder = Path(str(files("llamacli") / model.name))
            return Source(model.name, folder, "", None, model.quantization)
        if not registry.HUB_ID.fullmatch(model.source):
            folder = expanded(model.source)
            return Source(model.name, folder, "", None, model.quantization)
        name = model.source.rpartition("/")[2]
        return Source(name, None, model.source, model.revision, model.quantization)
    if registry.HUB_ID.fullmatch(source):
        return Source(source.rpartition("/")[2], None, source, None, "Q4_K_M")
    raise NotFoundError(_not_found(source))


def _not_found(source: str) -> str:
    from llamacli.models import near_names

    near = near_names(source)
    hint = f"did you mean {' or '.join(near)}?" if near else "`llamacli list --known` has names"
    return f"there is no folder {source} and no model of that name; {hint}"


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
