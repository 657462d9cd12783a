"""llamacli bench: how fast a model loads, reads and writes on this machine."""

from dataclasses import asdict
from typing import Annotated, Literal

from llamacli import tune
from llamacli.commands import groups, options
from llamacli.commands.printing import print_json, print_table, print_text
from llamacli.errors import UsageError
from llamacli.models import engine_settings, model_path

DEPTHS = (0, 512, 2048)
HEAD = ("depth", "prefill/s", "lowest", "highest", "decode/s", "lowest", "highest")


def bench(
    *,
    model: options.ModelArgument = None,
    depth: Annotated[
        list[int] | None,
        (0, None),
        "Tokens in the KV cache; may be given again.  [default: 0, 512, 2048]",
    ] = None,
    prompt: Annotated[int, (1, None), "Tokens that are read at once."] = 512,
    answer: Annotated[int, (1, None), "Tokens that are decoded."] = 32,
    runs: Annotated[int, (1, None), "Measurements of each; the median is shown."] = 3,
    profile: Annotated[Literal["short", "long"], "Use the settings of run, or of chat."] = "long",
    adapter: options.Adapter = None,
    machine: groups.Machine,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure loading, prefill and decode at several depths, and memory.

    The first token's time is that of loading and reading a prompt; peak memory is this process's.
    """
    from llamacli.engine import Engine
    from llamacli.gguf import check_llama, read_gguf

    size = tune.Size(prompt, answer)
    path = model_path(model, quiet=quiet)
    trained = check_llama(read_gguf(path)).context
    most = trained - max(prompt, answer)
    depths = depth or [one for one in DEPTHS if one <= most]
    if not depths or max(depths) > most:
        raise UsageError(f"the model knows {trained} tokens; give a lower --depth or --prompt")
    asked = machine.asked(max(depths) + max(prompt, answer), profile, adapter=adapter)
    settings = engine_settings(path, asked)
    measured = tune.bench(lambda: Engine(path, settings), depths, size, runs)
    if as_json:
        adapters = [f"{choice.path}:{choice.scale:g}" for choice in settings.adapters]
        used = {**vars(settings), "adapters": adapters}
        fields = {"model": str(path), "settings": used, "prompt": prompt, "answer": answer}
        print_json({**fields, **asdict(measured)})
        return
    rows = [(str(one.depth), *_rates(one.prefill), *_rates(one.decode)) for one in measured.rates]
    print_table(HEAD, rows, "rrrrrrr")
    print_text(
        f"load: {measured.load_seconds.median:.2f} s\n"
        f"first token of a prompt of {prompt}: {measured.first_token_seconds.median:.2f} s\n"
        f"peak memory: {measured.peak_memory_bytes / 2**20:.0f} MiB\n"
    )


def _rates(spread: "tune.Spread") -> tuple[str, str, str]:
    return f"{spread.median:.1f}", f"{spread.lowest:.1f}", f"{spread.highest:.1f}"
