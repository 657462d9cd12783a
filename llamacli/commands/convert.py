"""llamacli convert: a checkpoint becomes a GGUF file."""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from llamacli import gguf, hub, models
from llamacli.commands import adapting, imatrix as measuring, options, pull
from llamacli.commands.mixture import Mixture, fitted
from llamacli.commands.printing import bytes_bar, print_table
from llamacli.commands.verify import check_copy
from llamacli.errors import NotFoundError, UsageError, writing
from llamacli.home import expanded
from llamacli.terminal import count, notice, printable, say, send_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convert import Checkpoint, ImportanceMatrix, Quantization, Report


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
        int | None, (1, None), "Threads that quantize.  [default: all cores]"
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
    from convert import check_target, open_checkpoint

    place = _find(source)
    chosen = mixture.chosen(place.quantization)
    measures = imatrix == measuring.AUTO and not Path(measuring.AUTO).exists()
    importance = None if imatrix is None or measures else measuring.read_matrix(imatrix)
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
        repo = hub.look_up(place.hub_id, revision or place.revision, token)
    if adapting.is_adapter_source(place.folder, repo):
        if imatrix or mixture.changed or merge or verify or download:
            raise UsageError("an adapter takes --base, --quant, -o and --force alone")
        kind = mixture.named or "F32"
        send_path(adapting.convert_adapter(place.folder, repo, output, base, kind, token, force))
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
        if place.folder is not None and _is_source(target, place.folder):
            raise UsageError(f"{target} is a part of the checkpoint; name another file to write")
    measuring.clear_hidden(target)
    job = _Job(target, threads, force, mixture, chosen, importance, measures, verify)
    if place.folder is not None:
        report = job.run(adapting.merge_into(open_checkpoint(place.folder), merge or (), token))
    else:
        assert repo is not None
        report = _from_hub(repo, merge or (), download, job)
    _print_report(report)
    if verify and place.folder is not None:
        check_copy(report.path, place.folder, sys.stderr, threads=threads)
    send_path(report.path)


@dataclass(frozen=True)
class _Job:
    """What is to be made of a checkpoint, and by what."""

    target: Path
    threads: int | None
    force: bool
    mixture: Mixture
    chosen: "Quantization"
    importance: "ImportanceMatrix | None"
    measures: bool
    verify: bool

    def run(self, checkpoint: "Checkpoint", origin: str | None = None) -> "Report":
        """Measure what is to be measured, and write the file; origin is write_gguf's."""

        def write(
            path: Path, mixture: "Quantization", matrix: "ImportanceMatrix | None"
        ) -> "Report":
            from convert import write_gguf

            with bytes_bar("M params") as show:
                return write_gguf(
                    checkpoint,
                    path,
                    mixture,
                    threads=self.threads,
                    progress=show,
                    notice=notice,
                    check=lambda header, size: gguf.read_header(header, size, path.name),
                    force=self.force,
                    origin=origin,
                    importance=matrix,
                )

        matrix, chosen = self.importance, self.chosen
        if self.measures:
            matrix = measuring.measured(write, self.target, self.force)
        if self.mixture.fit is not None:
            local = self.target if origin is None else None  # the Hub's needs were told before
            chosen = fitted(checkpoint, self.mixture, chosen, matrix, self.threads, local)
        report = write(self.target, chosen, matrix)
        if self.verify and matrix is not None:
            measuring.tell_gain(checkpoint, report, matrix, chosen.searched, self.threads)
        return report


def _from_hub(repo: "hub.Repo", merge: "Sequence[str]", download: bool, job: _Job) -> "Report":
    config, shards = hub.read_outline(repo)
    needed = hub.needs(repo, config, shards, job.chosen, keep=download, size=job.mixture.size)
    pull.tell_needs(repo, needed, job.target)
    hub.check_disk(needed, job.target)
    with (
        pull.kept_pieces(job.target),
        hub.open_checkpoint(repo, config, shards, keep=download) as opened,
    ):
        return job.run(adapting.merge_into(opened, merge, repo.token), repo.origin)


def _find(source: str) -> Source:
    """What SOURCE means: a folder that is there, a known model, an id on the Hub."""
    from importlib.resources import files

    folder = expanded(source)
    if folder.exists():
        return Source(models.folder_name(folder), folder, "", None, "Q4_K_M")
    source = models.registry.without_address(source)
    if model := models.registry.find(source):
        if model.source == models.registry.BUILT_IN:
            folder = Path(str(files("llamacli") / model.name))
            return Source(model.name, folder, "", None, model.quantization)
        if not models.registry.HUB_ID.fullmatch(model.source):
            folder = expanded(model.source)
            return Source(model.name, folder, "", None, model.quantization)
        name = model.source.rpartition("/")[2]
        return Source(name, None, model.source, model.revision, model.quantization)
    if models.registry.HUB_ID.fullmatch(source):
        return Source(source.rpartition("/")[2], None, source, None, "Q4_K_M")
    raise NotFoundError(_not_found(source))


def _not_found(source: str) -> str:
    near = models.near_names(source)
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
