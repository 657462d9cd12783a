"""Groups of options that commands share: an answer's sampling, end, shape, tools and form, and the
machine's use.

A group is a dataclass whose fields are options. A command takes one as a keyword parameter,
`sampling: groups.Sampling`; commands/options gives typer the fields in its place.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from llamacli import answer, engine, mcp_client, models, prompt, shape, tools as toolset
from llamacli.commands import options
from llamacli.errors import UsageError
from llamacli.terminal import notice


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; None leaves it to the model's own settings."""

    temperature: Annotated[
        float | None, "--temp", "0 is greedy and reproducible.  [default: the model's own]"
    ] = None
    top_k: Annotated[int | None, "Choose among the K likeliest tokens; 0 is all."] = None
    top_p: Annotated[float | None, "Choose among tokens that make up this share."] = None
    min_p: Annotated[float | None, "Leave out tokens below this share of the likeliest."] = None
    repeat_penalty: Annotated[float | None, "Weigh against the last 64 tokens; 1 is off."] = None
    seed: Annotated[int | None, "The same seed gives the same answer."] = None

    def __post_init__(self) -> None:
        """Raises UsageError, before anything is read or loaded."""
        if given := {name: value for name, value in vars(self).items() if value is not None}:
            engine.SamplingSettings(**given)

    def settings(self, model: "prompt.Spelled", **own: Any) -> "engine.SamplingSettings":
        """What was asked for, with own values before it, else what the model's file says."""
        return engine.SamplingSettings.from_metadata(model.file.metadata, **{**vars(self), **own})


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Where an answer ends."""

    max_tokens: Annotated[int | None, "-n", "End an answer after that many tokens."] = None
    stop: Annotated[list[str] | None, "End an answer before this text; may be given again."] = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"at most {self.max_tokens} tokens were asked for; give 1 or more")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What an answer is held to."""

    schema: Annotated[Path | None, "Answer in JSON that this file's JSON Schema accepts."] = None
    grammar: Annotated[Path | None, "Answer in text that this GBNF file's grammar has."] = None
    choice: Annotated[list[str] | None, "Answer with one of these words; give it for each."] = None

    def read(self, ending: Ending) -> "shape.Grammar | None":
        """The grammar of the one that is given. Raises as read_shape does, and NotFoundError."""
        name = options.exclusive(schema=self.schema, grammar=self.grammar, choice=self.choice)
        if name is None:
            return None
        if ending.stop:
            raise UsageError(f"--stop would cut an answer that {name} keeps whole")
        return shape.read_shape(**self.given)

    @cached_property
    def given(self) -> dict[str, Any]:
        """The file's text, or the words. It is read once: it may be a pipe."""
        if self.schema is not None:
            return {"schema": prompt.read_file(self.schema).text}
        if self.grammar is not None:
            return {"grammar": prompt.read_file(self.grammar).text}
        return {"choice": self.choice} if self.choice else {}


@dataclass(frozen=True, kw_only=True)
class Calls:
    """The tools that an answer may call, and how."""

    tools: Annotated[
        Path | None, "Let the model call the functions of this file, OpenAI's list of tools."
    ] = None
    tool_choice: Annotated[str, "<auto|none|required|NAME>", "Whether a tool is called."] = "auto"
    tool_threshold: options.ToolThreshold = 0.5
    tool_output_limit: Annotated[int, "Characters of a result that the model is given."] = 32_768
    no_parallel_calls: Annotated[bool, "At most one call an answer."] = False

    def listed(self) -> "Sequence[toolset.Tool]":
        """The file's. Raises UsageError and NotFoundError."""
        if self.tools is None:
            return ()
        return toolset.read_tools(prompt.read_file(self.tools).text, str(self.tools))

    def calling(self, tools: "Sequence[toolset.Tool]", first: int = 0) -> "answer.Calling | None":
        """How an answer may call those tools; None where there are none.

        first numbers the ids of its calls. Raises UsageError.
        """
        if not tools:
            return None
        parallel = not self.no_parallel_calls
        return answer.Calling(tools, self.tool_choice, parallel, self.tool_threshold, first)


@dataclass(frozen=True, kw_only=True)
class Tools(Calls):
    """With a conversation whose calls have their results."""

    results: Annotated[
        Path | None, "Go on with this file's messages, with calls and their results."
    ] = None

    @property
    def used(self) -> bool:
        return self.tools is not None or self.results is not None

    def messages(self) -> "list[prompt.Message]":
        """Those of --results, or none. Raises UsageError and NotFoundError."""
        if self.results is None:
            return []
        given = prompt.read_file(self.results)
        messages = prompt.read_messages(given.text, given.name)
        return toolset.bounded(messages, self.tool_output_limit)


@dataclass(frozen=True, kw_only=True)
class Mcp:
    """MCP servers, and which of their tools may be called."""

    mcp: Annotated[
        list[str] | None,
        "<FILE|COMMAND|URL>",
        "Call the tools of MCP servers: a file of mcpServers, a command, or a URL.",
    ] = None
    allow: Annotated[
        list[str] | None, "<NAME>", "With --mcp: this tool may be called; '*' is all."
    ] = None
    max_calls: Annotated[int, (0, None), "With --mcp: after so many calls none follows."] = 16
    mcp_timeout: Annotated[
        float, "With --mcp: seconds that a server has to start, and to answer."
    ] = 60.0

    def read(self) -> "list[mcp_client.ServerConfig]":
        """The servers that are named. Raises UsageError and NotFoundError."""
        return mcp_client.read_servers(self.mcp or ())

    @contextmanager
    def opened(
        self, given: "Sequence[mcp_client.ServerConfig]"
    ) -> "Iterator[mcp_client.Servers | None]":
        """The servers, which run meanwhile, if any; what can't be used of them is told."""
        if not self.mcp:
            yield None
            return
        with mcp_client.open_servers(given, self.mcp_timeout, self.allow or ()) as servers:
            for problem in servers.problems:
                notice(problem)
            yield servers


@dataclass(frozen=True, kw_only=True)
class Together:
    """Other machines that hold a part of the model."""

    workers: options.Workers = None
    split: options.Split = None
    worker_timeout: options.WorkerTimeout = None

    def settings(self, device: str | None = None) -> dict[str, Any]:
        """Those of EngineSettings' fields that are given, checked. Raises UsageError."""
        from llamacli.workers import parse_split, parse_workers

        if self.split is not None and not self.workers:
            raise UsageError("--split goes with --workers")
        given: dict[str, Any] = {} if device is None else {"device": device}
        if self.workers:
            given["workers"] = parse_workers(self.workers)
            if self.split is not None:
                given["split"] = parse_split(self.split)
            if self.worker_timeout is not None:
                given["worker_timeout"] = self.worker_timeout
        engine.EngineSettings(**given)
        return given


@dataclass(frozen=True, kw_only=True)
class Machine(Together):
    """How the machine is used; None leaves it to what was tuned, and then to the defaults."""

    threads: options.Threads = None
    device: options.Device = None
    gpu_layers: Annotated[
        Any, options.count_or_auto, "Layers on the GPU.  [default: auto, all that fit]"
    ] = None
    kv_type: Annotated[str | None, "The KV cache's: f16, q8_0 or q4_0.  [default: f16]"] = None
    flash_attention: Annotated[str | None, "auto, on or off.  [default: auto]"] = None
    no_tune: Annotated[bool, "Leave aside what `llamacli tune` found."] = False
    overcommit: Annotated[bool, "Load it though the memory seems too small."] = False

    def asked(
        self,
        context: Any,
        profile: "engine.Profile",
        drafts: "Drafts | None" = None,
        adapter: "Sequence[str] | None" = None,
    ) -> "engine.Asked":
        """What is asked of the engine; a field here is one of Asked's, but for no_tune."""
        chosen = {name: value for name, value in vars(self).items() if name != "no_tune"}
        chosen |= {"workers": None, "split": None, **self.settings()}
        chosen |= vars(drafts) if drafts is not None else {}
        chosen |= {"adapters": models.adapter_choices(adapter)}
        return engine.Asked(**chosen, context=context, tune=not self.no_tune, profile=profile)

    def check(
        self, context: Any, drafts: "Drafts", adapter: "Sequence[str] | None", path: Path
    ) -> None:
        """Have what can't be asked for, or isn't there, told before stdin is read.

        Where nothing is asked for but threads, nothing is imported. Raises UsageError and
        NotFoundError.
        """
        if (
            replace(self, threads=None) == Machine()
            and context is None
            and drafts == Drafts()
            and not adapter
        ):
            return
        asked = self.asked(context, "short", drafts, adapter)
        if asked.draft is not None:
            models.drafting_for(path, asked)


@dataclass(frozen=True, kw_only=True)
class Drafts:
    """Whether several tokens are checked at once, and a model that drafts them; Asked's fields."""

    speculate: Annotated[
        Literal["auto", "off"], "Check drafted tokens several at once where that pays."
    ] = "auto"
    draft: Annotated[
        str | None,
        options.complete_models,
        "<MODEL|auto>",
        "A small model of the same vocabulary that drafts; auto as models.toml names it.",
    ] = None


@dataclass(frozen=True, kw_only=True)
class Output:
    """How an answer is given, and what stderr hears."""

    json_object: Annotated[bool, "--json", "One JSON object: text, counts, rates, seed."] = False
    json_events: Annotated[bool, "--jsonl", "Stream JSON lines: start, text…, end."] = False
    no_stream: Annotated[bool, "Write the answer once, at its end."] = False
    quiet: options.Quiet = False
    verbose: Annotated[bool, "-v", "Tell counts and rates on stderr at the end."] = False

    def __post_init__(self) -> None:
        """Raises UsageError where two forms are asked for."""
        options.exclusive(json=self.json_object, jsonl=self.json_events)

    @property
    def form(self) -> Literal["text", "json", "jsonl"]:
        return "json" if self.json_object else "jsonl" if self.json_events else "text"
