"""llamacli quality: what quantization costs a model, measured on a text."""

from pathlib import Path
from typing import Annotated, Any

import typer

from llamacli import prompt, quality as measuring
from llamacli.commands import groups, options
from llamacli.commands.printing import print_json, print_table, steps_bar
from llamacli.errors import writing
from llamacli.models import model_path
from llamacli.terminal import count, printable

HEAD = ("file", "size", "bits", "perplexity", "KL mean", "KL 99%", "KL max", "same first")


def quality(
    *,
    models: Annotated[
        list[str],
        typer.Argument,
        options.complete_models,
        "<MODEL...>",
        "GGUF files of one model, names in the store, or `demo`.",
    ],
    against: Annotated[
        str, options.complete_models, "The file of higher precision that they are held against."
    ],
    text: Annotated[Path, "The text that they predict; - is stdin."],
    plot: Annotated[Path | None, "Also draw size against divergence, into this PNG file."] = None,
    force: Annotated[bool, "Replace the picture."] = False,
    threads: options.Threads = None,
    device: options.Device = None,
    together: groups.Together,
    as_json: options.AsJson = False,
) -> None:
    """Show what quantization costs: size, perplexity, and divergence from a precise file.

    KL is the Kullback-Leibler divergence of a file's predictions from the precise one's, in nats:
    its mean over tokens, what 99% of them are below, its largest. The last column is how often
    both find the same token likeliest.
    """
    from convert import check_target, whole_file

    if plot is not None:
        measuring.check_plot()
        with writing(plot):
            check_target(plot, force)
    paths, reference = [model_path(model) for model in models], model_path(against)
    machine = together.settings(device)
    given = prompt.read_file(text)
    measured: list[measuring.Quality] = []
    try:
        with steps_bar() as show:
            for one in measuring.compare(
                paths,
                reference,
                given.text,
                threads=threads,
                progress=lambda path, done, total: show(path.name, done, total),
                **machine,
            ):
                measured.append(one)
        if plot is not None:
            picture = measuring.plot(measured)
            with whole_file(plot, force) as part:
                part.write_bytes(picture)
    finally:  # it took long: it is told whatever becomes of a later file or the picture
        if measured and as_json:
            print_json([_fields(one) for one in measured])
        elif measured:
            print_table(HEAD, [_cells(one) for one in measured], "lrrrrrrr")


def _cells(one: "measuring.Quality") -> tuple[str, ...]:
    prediction = one.prediction
    divergences = (prediction.divergence, prediction.divergence_99, prediction.divergence_most)
    return (
        printable(one.path.name),
        count(one.nbytes, "B"),
        f"{one.bits:.2f}",
        f"{prediction.perplexity:.4f}",
        *(f"{value:.2g}" for value in divergences),
        f"{prediction.agreement:.1%}",
    )


def _fields(one: "measuring.Quality") -> dict[str, Any]:
    return {
        "file": str(one.path),
        "bytes": one.nbytes,
        "bits_per_weight": one.bits,
        **one.prediction.measures(),
    }
