"""llamacli batch: a prompt a line in, a JSON object a line out."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from errno import EACCES, EISDIR, ENOENT
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import typer

from llamacli import (
    answer as answering,
    batch as batching,
    engine as engines,
    prompt as prompts,
    shape as shapes,
)
from llamacli.commands import by_server, groups, options
from llamacli.errors import LlamacliError, OutputError, UsageError, writing
from llamacli.models import drafting_for, engine_for, engine_settings, model_path
from llamacli.terminal import Write, as_json, lively, notice, show_status, writer

REPORT = 0.25  # seconds between updates of a terminal's line; elsewhere one is written each REPORTS
REPORTS = 30.0

Answer = Callable[..., "Iterator[tuple[int, answering.Result | LlamacliError]]"]


@dataclass
class Answers:
    """Writes objects, each whole and at once, in the order of their places unless unordered.

    A piped one is on stdout, where a reader that stalls isn't waited for after a signal.
    """

    write: Write
    piped: bool
    total: int
    unordered: bool
    quiet: bool
    waiting: dict[int, dict[str, Any]] = field(default_factory=dict)
    next_place: int = 0
    done: int = 0
    failed: int = 0
    tokens: int = 0
    started: float = field(default_factory=time.perf_counter)
    shown: float = field(default_factory=time.perf_counter)

    def put(self, place: int, value: dict[str, Any]) -> None:
        self.done += 1
        self.failed += "error" in value
        if self.unordered:
            self._write(value)
            return
        self.waiting[place] = value
        while self.next_place in self.waiting:
            self._write(self.waiting.pop(self.next_place))
            self.next_place += 1

    def _write(self, value: dict[str, Any]) -> None:
        self.write(as_json(value) + "\n")

    def progress(self, tokens: int) -> None:
        self.tokens += tokens
        now = time.perf_counter()
        live = lively(sys.stderr)
        if self.quiet or now - self.shown < (REPORT if live else REPORTS):
            return
        self.shown = now
        (show_status if live else notice)(self._line())

    def close(self) -> None:
        if not self.quiet:
            show_status("")
            notice(self._line())

    def _line(self) -> str:
        seconds = max(time.perf_counter() - self.started, 1e-9)
        return (
            f"{self.done} done, {self.total - self.done} left, {self.tokens / seconds:.1f} tokens/s"
        )


def check_output(path: Path, file: Path, resume: bool, force: bool) -> None:
    """Refuse what couldn't be written later, leaving everything as it is."""
    with writing(path):
        if path.is_symlink() and not path.exists():
            fault = f"it is a link to {path.readlink()}, which isn't there"
            raise OutputError(fault, file=path, hint="remove it")
        place, rights = (path, os.W_OK) if path.exists() else (path.parent, os.W_OK | os.X_OK)
        if place == path and not (resume or force):
            raise OutputError(
                f"{path} exists; add --resume to go on with it, or --force to replace it"
            )
        if place == path and file.exists() and path.samefile(file):
            raise UsageError(f"{path} is what is read; name another file to write")
        if not place.exists():
            raise OSError(ENOENT, os.strerror(ENOENT))
        if code := EISDIR if path.is_dir() else 0 if os.access(place, rights) else EACCES:
            raise OSError(code, os.strerror(code))


@contextmanager
def open_output(path: Path | None, whole: int, resume: bool) -> Iterator[Write]:
    """What writes to stdout, or to a file: opened at the first line, an old one until then kept.

    One that is gone on with is cut to its whole lines.
    """
    if path is None:
        yield writer(sys.stdout)
        return
    with ExitStack() as opened:
        file: BinaryIO | None = None

        def write(text: str) -> None:
            nonlocal file
            with writing(path):
                if file is None:
                    file = opened.enter_context(path.open("ab" if resume else "wb"))
                    if resume:
                        file.truncate(whole)
                try:
                    file.write(text.encode())
                    file.flush()
                except OSError:
                    with suppress(OSError):  # what could not be written before can't be now
                        file.close()
                    if path.is_file() and not path.stat().st_size:
                        path.unlink()  # it would only be in the next call's way
                    raise

        yield write


def batch(
    *,
    file: Annotated[Path, typer.Argument, "Lines of text or JSON; - is stdin."] = Path("-"),
    model: options.Model = None,
    template: Annotated[
        str | None, "The prompt, with {text} for a line, or {field} for a JSON line's."
    ] = None,
    output: Annotated[Path | None, "-o", "Write there instead of stdout."] = None,
    resume: Annotated[bool, "With -o: go on with what the file doesn't hold."] = False,
    force: Annotated[bool, "Replace a file that -o names."] = False,
    parallel: Annotated[int, "-p", "Sequences that are decoded side by side."] = 8,
    unordered: Annotated[bool, "Write answers as they finish."] = False,
    exact: Annotated[bool, "Give the answers that run gives, one after the other."] = False,
    system: options.System = None,
    ending: groups.Ending,
    sampling: groups.Sampling,
    shape: groups.Shape,
    context: options.Context = None,
    adapter: options.Adapter = None,
    machine: groups.Machine,
    drafts: groups.Drafts,
    errors: Annotated[
        Literal["strict", "replace"],
        "Report lines that aren't UTF-8, or replace their bytes by U+FFFD.",
    ] = "strict",
    no_server: options.NoServer = False,
    quiet: options.Quiet = False,
) -> None:
    """Answer each line of a file, several side by side, as JSON lines in the same order.

    A line is text, or a JSON object with `prompt` or `messages`, and `id`, `system`, `stop`,
    `seed`, `max_tokens`, `temperature`, `top_k`, `top_p`, `min_p`, `repeat_penalty` as it likes.
    The last bits of sums depend on what is evaluated side by side, and so may an answer, even a
    greedy one, where two tokens are all but equally likely. With --exact none does, at the cost of
    evaluating each line by itself.
    A line that can't be answered gives an object with `error`, and exit code 1 in the end.
    """
    options.check_parallel(parallel)
    if resume and output is None:
        raise UsageError("--resume goes with -o: it reads what the file already holds")
    if template is not None and not batching.has_place(template):
        raise UsageError("--template has no {text} for a line, nor {FIELD} for one of JSON")
    grammar = shape.read(ending)
    path = model_path(model, quiet=quiet)
    asked = machine.asked(context, "short" if exact else "long", drafts, adapter)
    machine.check(context, drafts, adapter, path)
    if output is not None:
        check_output(output, file, resume, force)
    lines = list(
        batching.read_lines(
            prompts.read_bytes(file), template=template, system=system, replace=errors == "replace"
        )
    )
    if not lines:
        raise UsageError("there are no prompts: every line is blank")
    bad = [line.error for line in lines if isinstance(line, batching.BadLine)]
    if template is not None and len(bad) == len(lines):
        raise UsageError(f"--template fits no line; {bad[0]}")
    held, whole = batching.read_output(output) if resume and output is not None else ({}, 0)
    left = [line for line in lines if batching.key_of(line.id) not in held]
    failed = sum(not held[key] for key in held)
    if resume and len(left) < len(lines) and not quiet:
        notice(f"{len(lines) - len(left)} of {len(lines)} lines are answered already")

    @contextmanager
    def answering_model() -> "Iterator[tuple[Answer, Callable[[batching.Request], Any]]]":
        """What answers, and what makes of a line what it takes."""
        adapters = by_server.adapter_fields(adapter)
        if not no_server and by_server.answers_by_server(path, machine, asked, adapters, quiet):
            fields = by_server.request_fields(sampling, ending, shape)
            fields |= {**adapters, "exact": exact}
            ask = partial(by_server.answer_lines, path, 1 if exact else parallel)
            yield ask, lambda line: {**fields, **line.settings, "messages": list(line.messages)}
            return
        make = partial(_job, sampling, ending, grammar, shape.choice or [])
        if exact:
            with engine_for(path, asked, quiet=quiet) as alone:
                yield partial(batching.answer_each, alone), partial(make, alone)
            return
        settings = engine_settings(path, asked, quiet=quiet)
        drafting = drafting_for(path, asked, quiet=quiet)
        with batching.BatchEngine(path, settings, parallel, drafting) as engine:
            yield partial(batching.answer_all, engine), partial(make, engine)

    if left:
        with (
            open_output(output, whole, resume) as write,
            answering_model() as (answer, make),
            answering.interrupts() as arrived,
        ):
            answers = Answers(write, output is None, len(left), unordered, quiet)
            _answer(answer, make, left, answers, arrived)
        failed += answers.failed
    if failed:
        raise LlamacliError(f"{failed} of {len(lines)} lines have an error instead of an answer")


def _answer(
    answer: "Answer",
    make: "Callable[[batching.Request], Any]",
    lines: "list[batching.Request | batching.BadLine]",
    answers: Answers,
    arrived: "answering.Interrupts",
) -> None:
    """Give each line's object to answers, which puts them in order.

    answer takes what make gives of the lines.
    """
    if answers.piped:
        answers.write = arrived.around(answers.write)
    places: list[int] = []  # of the jobs among the lines

    def jobs() -> Iterator[Any]:
        for place, line in enumerate(lines):
            if isinstance(line, batching.BadLine):
                answers.put(place, {"id": line.id, "error": line.error})
                continue
            try:
                job = make(line)
            except LlamacliError as error:
                answers.put(place, {"id": line.id, "error": str(error)})
                continue
            places.append(place)
            yield job

    steps = answer(jobs(), interrupted=lambda: bool(arrived), on_step=answers.progress)
    for number, result in steps:
        place = places[number]
        identity = lines[place].id
        if isinstance(result, LlamacliError):
            answers.put(place, {"id": identity, "error": str(result)})
            continue
        fields = answering.result_fields(result, result.prefill_seconds + result.decode_seconds)
        del fields["tokens_per_second"]  # of one among many it says nothing
        answers.put(place, {"id": identity, **fields})
    answers.close()


def _job(
    sampling: groups.Sampling,
    ending: groups.Ending,
    grammar: "shapes.Grammar | None",
    choices: list[str],
    engine: "engines.Engine",
    line: "batching.Request",
) -> "batching.Job":
    """A line's job: its own settings before those that hold for all."""
    own = dict(line.settings)
    max_tokens = own.pop("max_tokens", ending.max_tokens)
    stop = own.pop("stop", tuple(ending.stop or ()))
    if stop and grammar is not None:
        raise UsageError("a stop text would cut an answer that has a shape")
    prompt = prompts.encode_turns(engine, list(line.messages))
    most = engine.most_tokens(len(prompt), max_tokens)
    shapes.check_choices(choices, engine.vocabulary, most)
    return batching.Job(prompt, sampling.settings(engine, **own), max_tokens, stop, grammar)
