"""llamacli tune: measure which settings serve a model best here, and keep them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from llamacli.commands import groups, options
from llamacli.commands.printing import print_json, print_table, print_text
from llamacli.errors import UsageError
from llamacli.models import model_path
from llamacli.terminal import notice

if TYPE_CHECKING:
    from llamacli.tune import Row, Tuning

HEAD = ("setting", "candidate", "load s", "prefill/s", "decode/s", "rounds", "best for")
ALIGNED = "llrrrrl"


def tune(
    *,
    model: options.ModelArgument = None,
    profile: Annotated[
        Literal["short", "long"] | None,
        "Tune for short answers (run) or long chats alone.  [default: both]",
    ] = None,
    seconds: Annotated[float, "About how long to measure."] = 60.0,
    together: groups.Together,
    forget: Annotated[bool, "Drop what was kept."] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure which settings serve a model best on this machine, and keep them.

    `run` uses those for short answers, `chat` and `batch` those for long ones; their own options
    come first, and --no-tune leaves them aside.
    """
    from llamacli.tune import profiles, tune as measure

    if not 0 < seconds <= 3600:
        raise UsageError(f"--seconds is {seconds:g}; give more than 0, at most 3600")
    path = model_path(model, quiet=quiet)
    if forget:
        dropped = profiles.forget(path)
        if not quiet:
            notice("what was kept is dropped" if dropped else "nothing was kept")
        return
    chosen = profiles.PROFILES if profile is None else (profile,)
    tell = (lambda _: None) if quiet else (lambda title: notice(f"measuring: {title}"))
    shared = together.settings()
    workers = shared.get("workers", ())
    profiles.check_place()
    tuning = measure(path, seconds, chosen, on_stage=tell, **shared)
    found: dict[str, Any] = {str(name): one for name, one in tuning.profiles.items()}
    found |= {"seconds": round(tuning.seconds, 1), profiles.COSTS: tuning.costs}
    profiles.keep(path, found, workers)
    kept = profiles.kept_path(path, workers)
    if as_json:
        print_json(_fields(path, kept, tuning))
    else:
        print_table(HEAD, [_cells(row) for row in tuning.rows], ALIGNED)
        for name, one in tuning.profiles.items():
            words = ", ".join(f"{key} {_word(value)}" for key, value in one.items())
            print_text(f"{name}: {words}\n")
        words = ", ".join(f"{size} {cost:.2f}" for size, cost in tuning.costs.items())
        print_text(f"checking drafts, in evaluations of one token: {words}\n")
    if not quiet:
        notice(f"kept in {kept}")


def _cells(row: "Row") -> tuple[str, ...]:
    load = "" if row.load is None else f"{row.load:.2f}"
    rates = f"{row.prefill:.1f}", f"{row.decode:.1f}"
    return (row.stage, row.candidate, load, *rates, str(row.rounds), ", ".join(row.best_for))


def _fields(path: Path, kept: Path, tuning: "Tuning") -> dict[str, Any]:
    return {
        "model": str(path),
        "kept": str(kept),
        "seconds": round(tuning.seconds, 2),
        "profiles": tuning.profiles,
        "measured": [vars(row) for row in tuning.rows],
        "costs": tuning.costs,
    }


def _word(value: Any) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if type(value) is bool else str(value)
