"""The options that commands share, each written once."""

from pathlib import Path
from typing import Annotated, Any

import typer


def complete_models(incomplete: str) -> list[str]:
    from llamacli import models  # 10 ms that only completion needs

    return models.complete_models(incomplete)


def _count_or_auto(value: Any) -> Any:
    """A number or the word auto, for an option that takes both."""
    try:
        return value if value == "auto" else int(value)
    except ValueError:
        raise typer.BadParameter(f"{value!r} is neither a number nor auto") from None


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="LLAMACLI_MODEL",
        show_envvar=False,
        autocompletion=complete_models,
        help="A GGUF file, a name in the store, or `demo`.  [default: $LLAMACLI_MODEL]",
    ),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        envvar="LLAMACLI_MODEL",
        show_envvar=False,
        autocompletion=complete_models,
        help="A GGUF file, a name in the store, or `demo`.  [default: $LLAMACLI_MODEL]",
    ),
]
System = Annotated[str | None, typer.Option("--system", "-s", help="The system prompt.")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", "-n", help="End an answer after that many tokens.")
]
Temperature = Annotated[
    float | None,
    typer.Option("--temp", help="0 is greedy and reproducible.  [default: the model's own]"),
]
TopK = Annotated[int | None, typer.Option(help="Choose among the K likeliest tokens; 0 is all.")]
TopP = Annotated[float | None, typer.Option(help="Choose among tokens that make up this share.")]
MinP = Annotated[
    float | None, typer.Option(help="Leave out tokens below this share of the likeliest.")
]
RepeatPenalty = Annotated[
    float | None, typer.Option(help="Weigh against the last 64 tokens; 1 is off.")
]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.")]
Context = Annotated[
    Any,
    typer.Option(
        "--context",
        "-c",
        parser=_count_or_auto,
        metavar="N|auto",
        help="Tokens of context; auto is all that fits.  [default: the model's, at most 8192]",
    ),
]
Stop = Annotated[
    list[str] | None, typer.Option(help="End an answer before this text; may be given again.")
]
Schema = Annotated[
    Path | None, typer.Option(help="Answer in JSON that this file's JSON Schema accepts.")
]
GrammarFile = Annotated[
    Path | None, typer.Option("--grammar", help="Answer in text that this GBNF file's grammar has.")
]
Choice = Annotated[
    list[str] | None, typer.Option(help="Answer with one of these words; give it for each.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        envvar="LLAMACLI_THREADS",
        show_envvar=False,
        help="Threads.  [default: $LLAMACLI_THREADS, else all physical cores]",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, metal, cuda, vulkan or auto; `llamacli devices` lists them."),
]
GpuLayers = Annotated[
    Any,
    typer.Option(
        parser=_count_or_auto,
        metavar="N|auto",
        help="Layers on the GPU.  [default: auto, all that fit]",
    ),
]
KVType = Annotated[
    str | None,
    typer.Option("--kv-type", help="The KV cache's: f16, q8_0 or q4_0.  [default: f16]"),
]
FlashAttention = Annotated[str | None, typer.Option(help="auto, on or off.  [default: auto]")]
Overcommit = Annotated[
    bool, typer.Option("--overcommit", help="Load it though the memory seems too small.")
]
NoTune = Annotated[bool, typer.Option("--no-tune", help="Leave aside what `llamacli tune` found.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Nothing on stderr but what went wrong.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Tell counts and rates on stderr at the end.")
]
