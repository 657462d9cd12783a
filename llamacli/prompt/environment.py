"""The sandbox of templates: jinja2's immutable one, with what Hugging Face adds."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llamacli.errors import InvalidModelError, reason
from llamacli.prompt.markers import Markers

# Methods of texts that look for their arguments in the text; of replace, the first one.
LOOKING = {
    *("split", "rsplit", "partition", "rpartition", "startswith", "endswith", "count", "replace"),
    *("find", "rfind", "index", "rindex", "removeprefix", "removesuffix", "strip", "lstrip"),
    "rstrip",
}
COMPARING = ("==", "!=", "eq", "ne", "equalto", "in", "<", ">", "lt", "gt")
PLAIN = "as the file spells it"  # the filter that undoes a respelling, not to be named in templates


def render_here(
    template: str, names: Mapping[str, Any], date: str, spellings: Sequence[str], plane: int
) -> str:
    """A prompt's text as render gives it, in this process, without limits on time and memory.

    date is in ISO's format.
    """
    try:
        ready = compiled(template, Markers(frozenset(spellings), plane))
        return ready.render(strftime_now=datetime.fromisoformat(date).strftime, **names)
    except InvalidModelError:
        raise
    except (
        *(TemplateError, ArithmeticError, LookupError, RecursionError),
        *(AttributeError, TypeError, ValueError, MemoryError),
    ) as error:
        fault = f"the chat template can't be rendered: {reason(error)[:300]}"
        raise InvalidModelError(fault) from error


@lru_cache(maxsize=8)
def compiled(template: str, markers: Markers) -> Template:
    """Compiling takes longer than rendering, and a chat renders the same template each turn."""
    return Environment(markers).from_string(template)


class Generation(Extension):
    """{% generation %} … {% endgeneration %}, which marks answers for training, is its content."""

    tags = {"generation"}  # noqa: RUF012, as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("content", lineno=line)
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def content(self, caller: Callable[[], str]) -> str:
        return caller()


class Environment(ImmutableSandboxedEnvironment):
    """What a template can do, with the markers in its literals respelled.

    Where a literal is compared with a text or looked for in one, it is as the file spells it.
    """

    def __init__(self, markers: Markers) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
        )
        self.markers = markers
        self.globals["raise_exception"] = _refuse
        self.filters["tojson"] = self.to_json
        self.filters[PLAIN] = self.plain
        self.filters["replace"] = self.replace
        for name in COMPARING:
            test: Any = self.tests[name]
            self.tests[name] = self.comparing(test)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:  # noqa: ARG002
        raise InvalidModelError(f"the chat template reaches for {attribute}: not allowed")

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The template's tree, its literals respelled, its comparisons by the file's spelling."""
        tree = super()._parse(source, name, filename)
        keys = {id(node.arg) for node in tree.find_all(nodes.Getitem)}
        for data in tree.find_all(nodes.TemplateData):
            data.data = self.markers.respell(data.data)
        for literal in tree.find_all(nodes.Const):
            if isinstance(literal.value, str) and id(literal) not in keys:
                literal.value = self.markers.respell(literal.value)
        for comparison in list(tree.find_all(nodes.Compare)):
            comparison.expr = _filtered(comparison.expr)
            for operand in comparison.ops:
                operand.expr = _filtered(operand.expr)
        return tree

    def call(__self, __context: Any, __obj: Any, *args: Any, **names: Any) -> Any:  # noqa: N805
        text = getattr(__obj, "__self__", None)
        if isinstance(text, str) and args and __obj.__name__ in LOOKING:
            args = (__self.looked_for(args[0], text), *args[1:])
        return super().call(__context, __obj, *args, **names)

    def looked_for(self, wanted: Any, text: str) -> Any:
        """What is looked for in text: respelled only where it stands there so."""
        if isinstance(wanted, tuple):
            return tuple(self.looked_for(one, text) for one in wanted)
        return self.plain(wanted) if isinstance(wanted, str) and wanted not in text else wanted

    def plain(self, value: Any) -> Any:
        """value with all that was respelled as the file spells it."""
        if isinstance(value, str):
            return value if value.isascii() else self.markers.plain(value)
        if type(value) in (list, tuple):
            return type(value)(map(self.plain, value))
        if isinstance(value, Mapping):
            return {self.plain(key): item for key, item in value.items()}
        return value

    def replace(self, text: Any, old: str, new: str, count: int = -1) -> str:
        return str(text).replace(self.looked_for(str(old), str(text)), str(new), count)

    def comparing(self, test: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *values: test(*map(self.plain, values))

    def to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """Unlike jinja2's own, without HTML's escapes: what transformers gives templates."""
        text = json.dumps(
            value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
        )
        if not ensure_ascii:
            return text
        return "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in self.markers.plain(text))


def _filtered(expression: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(expression, PLAIN, [], [], None, None, lineno=expression.lineno)


def _refuse(message: Any) -> NoReturn:
    raise InvalidModelError(f"the chat template refuses: {message}")
