"""Answers in a shape: whatever a model of noise says, it parses and validates, cut or not."""

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from ctypes import byref
from datetime import datetime
from typing import Any

import jsonschema
import numpy as np
import pytest
from llguidance import LLMatcher, LLParserLimits

from llamacli.answer import Result, generate
from llamacli.engine.engine import Engine
from llamacli.engine.sampling import SamplingSettings
from llamacli.engine.settings import EngineSettings
from llamacli.errors import InvalidModelError, UsageError
from llamacli.shape.constraint import Constraint, constrained
from llamacli.shape.gbnf import read_gbnf
from llamacli.shape.grammar import Grammar, _bytes, checked
from llamacli.shape.read import choice_grammar
from llamacli.shape.schema import PATTERNS, read_schema
from tests.standins.tiny import write_model

GREEDY = SamplingSettings(temperature=0)
SCHEMAS: dict[str, Any] = {
    "anything": True,
    "string": {"type": "string", "minLength": 2, "maxLength": 5},
    "kinds": {"type": ["integer", "null", "boolean"]},
    "integers": {"type": "integer", "minimum": -17, "maximum": 1234},
    "naturals": {"type": "integer", "exclusiveMinimum": 99},
    "negative": {"type": "integer", "maximum": -5},
    "share": {"type": "number", "minimum": 0, "maximum": 1},
    "open": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 2.5},
    "temperature": {"type": "number", "minimum": -273.15, "maximum": -1},
    "price": {"type": "number", "minimum": 0},
    "enum": {"enum": ["a\\b", "say \"hi\"", "é\n", 1.5, None, {"a": [1]}]},
    "typed enum": {"type": "string", "enum": ["x", 1, "y"]},
    "const": {"const": {"version": 2}},
    "pattern": {"type": "string", "pattern": r"^[A-Z]{2,3}-\d+(\.\w+)?$"},
    "found pattern": {"type": "string", "pattern": r"x[\"\\]y|z$"},
    "date": {"type": "string", "format": "date"},
    "moment": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 4},
    "any list": {"type": "array"},
    "row": {
        "type": "array",
        "prefixItems": [{"type": "string"}, {"type": "integer"}],
        "minItems": 1,
        "items": False,
    },
    "long row": {"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2},
                 "maxItems": 3},
    "person": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Person",
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "in full"},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
            "address": {"$ref": "#/$defs/address"},
        },
        "required": ["name", "address"],
        "additionalProperties": False,
        "$defs": {
            "address": {
                "type": "object",
                "properties": {"street": {"type": "string"}, "zip": {"type": "string"}},
                "required": ["zip"],
            }
        },
    },
    "all optional": {"type": "object", "properties": {c: {"type": "null"} for c in "abcdefgh"}},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}},
    "undeclared": {"type": "object", "required": ["k"], "additionalProperties": {"const": 1}},
    "tree": {
        "type": "object",
        "properties": {
            "value": {"type": "integer"},
            "left": {"$ref": "#"},
            "right": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        },
        "required": ["value"],
    },
    "events": {
        "oneOf": [
            {"type": "object", "required": ["kind", "x"],
             "properties": {"kind": {"const": "move"}, "x": {"type": "number"}}},
            {"type": "object", "required": ["kind"],
             "properties": {"kind": {"enum": ["stop", "wait"]}}},
        ]
    },
    "wrapped": {"allOf": [{"type": "boolean"}]},
    "merged": {"allOf": [{"type": "integer"}, {"minimum": 1}]},
    "merged objects": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"const": 1}}, "required": ["b"]},
        ]
    },
    "narrowed": {"$ref": "#/$defs/a", "minimum": 3, "$defs": {"a": {"type": "integer"}}},
    "named with a blank": {
        "type": "array",
        "items": {"$ref": "#/$defs/My%20Type"},
        "$defs": {"My Type": {"type": "boolean"}},
    },
    "named with a slash": {"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": {"type": "null"}}},
    "even": {"type": "integer", "multipleOf": 2, "minimum": 0},
    "halves": {"type": "number", "multipleOf": 0.5},
    "half": {"type": "number", "minimum": 0, "maximum": 0.5},
    "within": {"type": "number", "minimum": 0.1, "maximum": 0.9},
    "tiny": {"type": "number", "exclusiveMinimum": 1e-9, "maximum": 2e-9},
    "keys": {"type": "object", "patternProperties": {"^x[0-9]$": {"type": "null"}},
             "additionalProperties": False},
    "not empty": {"type": "object", "minProperties": 1},
    "email": {"type": "string", "format": "email"},
    "short pattern": {"type": "string", "pattern": "^a+?$", "maxLength": 3},
}  # fmt: skip

REFUSED: list[tuple[Any, str]] = [
    (False, "#"),
    ({"type": "array", "uniqueItems": True}, "#/uniqueItems"),
    ({"not": {"type": "string"}}, "#"),
    ({"properties": {"a": {"type": "string"}}}, "#"),
    ({"type": "object", "properties": {"a": {"type": "string", "contentEncoding": "base64"}}},
     "#/properties/a/contentEncoding"),
    ({"type": "string", "pattern": r"^(a)\1$"}, "#/pattern"),
    ({"type": "string", "pattern": "^(?=a)a$"}, "#/pattern"),
    ({"type": "string", "pattern": "("}, "#/pattern"),
    ({"type": "string", "minLength": -1}, "#/minLength"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, "#/maxLength"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "#"),
    ({"type": "integer", "minimum": "3"}, "#/minimum"),
    ({"type": "string", "minimum": 3}, "#/minimum"),
    ({"type": "text"}, "#/type"),
    ({"$ref": "#/$defs/none"}, "#/$ref"),
    ({"$ref": "https://example.com/schema"}, "#/$ref"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "#/oneOf/1"),
    ({"oneOf": [{"const": 1}, {"enum": [2, 1.0]}]}, "#/oneOf/1"),
    ({"oneOf": [{"const": 1}, {"type": 5}]}, "#/oneOf/1/type"),
    ({"type": "string", "pattern": "^a{,3}$"}, "#/pattern"),
    ({"anyOf": []}, "#/anyOf"),
    ({"enum": []}, "#/enum"),
    ({"enum": [1], "type": "string"}, "#/enum"),
    ({"if": {"type": "string"}, "type": "string"}, "#/if"),
    ({"type": "object", "required": ["a"], "additionalProperties": False}, "#/required"),
    ({"type": "integer", "minimum": 10**15}, "#/minimum"),
    ({"type": "integer", "format": "date"}, "#/format"),
    ({"type": "string", "format": "int32"}, "#/format"),
]  # fmt: skip
SAFE = (1 << 53) - 1  # JavaScript's, as zod writes it
SAME: list[tuple[Any, Any]] = [
    ({"type": "integer", "format": "uint8"}, {"type": "integer", "minimum": 0, "maximum": 255}),
    (
        {"type": ["integer", "null"], "format": "int32", "minimum": 5},
        {"type": ["integer", "null"], "minimum": 5, "maximum": (1 << 31) - 1},
    ),
    ({"type": "integer", "format": "int64"}, {"type": "integer"}),
    ({"type": "number", "format": "double"}, {"type": "number"}),
    ({"type": "integer", "enum": [1, 2], "format": "uint"}, {"type": "integer", "enum": [1, 2]}),
    ({"type": "integer", "minimum": -SAFE, "maximum": SAFE}, {"type": "integer"}),
    ({"type": "string", "format": "date"}, {"type": "string", "pattern": PATTERNS["date"]}),
]  # fmt: skip


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")
    with Engine(path, EngineSettings(threads=1)) as made:
        yield made


def answer(
    engine: Engine, grammar: Grammar, seed: int, most: int, **sampling: Any
) -> tuple[Result, Constraint]:
    chosen = SamplingSettings(
        **{"temperature": 3.0, "top_k": 0, "top_p": 1.0} | sampling, seed=seed
    )
    constraint = constrained(engine.vocabulary, grammar, most)
    chunks = list(generate(engine, [1, 2, 3], chosen, max_tokens=most, constraint=constraint))
    result = chunks[-1].result
    assert result is not None and "".join(chunk.text for chunk in chunks) == result.text
    assert result.answer_tokens <= most
    return result, constraint


@pytest.mark.parametrize(("schema", "same"), SAME)
def test_formats_and_wide_bounds_are_bounds(schema: Any, same: Any) -> None:
    """Rust's, .NET's and TypeScript's tools have them; they were refused."""
    assert read_schema(json.dumps(schema)) == read_schema(json.dumps(same))


def validate(text: str, schema: Any) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    value = json.loads(text)
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(value)
    if isinstance(schema, dict) and schema.get("format") == "date-time":  # not in the checker
        assert datetime.fromisoformat(value).tzinfo is not None


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_validates(engine: Engine, name: str) -> None:
    """With room to spare and with next to none; the models' noise is the fuzzer."""
    grammar = read_schema(json.dumps(SCHEMAS[name]))
    generator = random.Random(name)
    least = len(grammar.shortest)
    reasons = set()
    for seed in range(24):
        most = generator.choice([least, least + 1, least + 7, least + 40, 150])
        result, constraint = answer(engine, grammar, seed, most)
        validate(result.text, SCHEMAS[name])
        reasons.add(result.finish_reason)
        assert not constraint.cut or result.finish_reason == "length"
    assert reasons <= {"stop", "length"}


def test_greedy_and_repeat_penalty_validate(engine: Engine) -> None:
    grammar = read_schema(json.dumps(SCHEMAS["person"]))
    for sampling in ({"temperature": 0.0}, {"repeat_penalty": 1.3, "top_k": 5, "min_p": 0.1}):
        result, _ = answer(engine, grammar, 0, 120, **sampling)
        validate(result.text, SCHEMAS["person"])


@pytest.mark.parametrize(("schema", "pointer"), REFUSED)
def test_what_cannot_be_honoured_is_named(schema: Any, pointer: str) -> None:
    with pytest.raises(InvalidModelError) as error:
        read_schema(json.dumps(schema))
    assert f"schema's {pointer} can't" in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "[", '{"const": NaN}', "[" * 100_000, '{"type": "string", "minLength": 1e9}']
)
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(InvalidModelError):
        read_schema(text)


def test_a_shape_too_long_for_the_limit_is_refused(engine: Engine) -> None:
    grammar = read_schema(json.dumps(SCHEMAS["uuid"]))
    with pytest.raises(UsageError, match="shortest answer"):
        answer(engine, grammar, 0, 5)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 9), (7, 7), (9, 10), (95, 1003), (-3, 4), (-120, -99), (0, 0), (-1, 0)]
)
def test_integer_ranges_are_exact(low: int, high: int) -> None:
    schema = {"type": "integer", "minimum": low, "maximum": high}
    grammar = read_schema(json.dumps(schema))
    matched = {value for value in range(-1500, 1501) if _matches(grammar, str(value))}
    assert matched == set(range(low, high + 1))
    for wrong in ("", "-", "00", "01", "1.", "1.0", "1e2", "+1"):
        assert not _matches(grammar, wrong)


@pytest.mark.parametrize(
    "bounds",
    [
        {"minimum": 0, "maximum": 1},
        {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"minimum": -2.5, "exclusiveMaximum": 3},
        {"maximum": -1.5},
        {"minimum": 0, "maximum": 0.5},
        {"minimum": 0.1, "maximum": 0.9},
        {"exclusiveMinimum": -0.5, "exclusiveMaximum": 0.25},
        {"exclusiveMinimum": 0, "maximum": 0.5},
        {"exclusiveMinimum": 1, "exclusiveMaximum": 1.5},
        {"exclusiveMinimum": -2.5, "exclusiveMaximum": -1},
        {"allOf": [{"exclusiveMinimum": 0}, {"exclusiveMaximum": 1}]},
    ],
)
def test_number_ranges_have_nothing_beyond(bounds: dict[str, Any]) -> None:
    schema = {"type": "number", **bounds}
    grammar = read_schema(json.dumps(schema))
    generator = random.Random(0)
    texts = [f"{generator.uniform(-4, 4):.{generator.randrange(1, 7)}f}" for _ in range(3000)]
    texts += ["0", "1", "-1", "0.0", "1.0", "0.000001", "0.999999", "-2.5", "3", "2.999999", "-1.5"]
    valid = jsonschema.Draft202012Validator(schema).is_valid
    accepted = [text for text in texts if _matches(grammar, text)]
    assert len(accepted) > 50 and all(valid(json.loads(text)) for text in accepted)


def test_exclusive_bounds_of_multiples() -> None:
    schema = {"exclusiveMinimum": 0, "exclusiveMaximum": 1, "multipleOf": 0.25, "type": "number"}
    grammar = read_schema(json.dumps(schema))
    texts = ["0", "0.0", "0.25", "0.3", "0.50", "0.75", "1", "1.0"]
    assert [text for text in texts if _matches(grammar, text)] == ["0.25", "0.50", "0.75"]


@pytest.mark.parametrize(
    "pattern", [r"^a.c$", r"^(ab|c)*d?$", r"^[^a-c]{2}$", r"b+", r"^\w\s\d$", r"^a|b$", r"^\D\W\S$"]
)
def test_patterns_mean_what_they_say(pattern: str) -> None:
    schema = {"type": "string", "pattern": pattern}
    grammar = read_schema(json.dumps(schema))
    generator = random.Random(pattern)
    texts = [
        "".join(generator.choices('abcd 9é"\\', k=generator.randrange(5))) for _ in range(4000)
    ]
    expected = {text for text in texts if re.search(pattern, text, re.ASCII)}
    matched = {text for text in texts if _matches(grammar, json.dumps(text, ensure_ascii=False))}
    assert matched <= expected
    beyond_ascii = {text for text in expected - matched if text.isascii()}
    assert not beyond_ascii and matched


def _matches(grammar: Grammar, text: str) -> bool:
    matcher, data = grammar.ending().matcher, list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


# Grammars

GBNF = r"""
# a list of things
root  ::= "- " item ("\n- " item){0,3}
item  ::= word (" " word)* | [0-9]{2,} "%"
word  ::= [^ \n%0-9\x00-\x1f-]+   # anything else
        | "\u00e9\"" """


@pytest.mark.parametrize("least", [8, 12, 60])
def test_answers_keep_to_a_grammar(engine: Engine, least: int) -> None:
    grammar = read_gbnf(GBNF.replace("\n        |", " |"))
    line = re.compile(r"- ([^ \n%0-9\x00-\x1f-]+( [^ \n%0-9\x00-\x1f-]+)*|[0-9]{2,}%)")
    for seed in range(30):
        result, _ = answer(engine, grammar, seed, least)
        lines = re.split(r"\n", result.text)
        assert len(lines) <= 4 and all(map(line.fullmatch, lines)), result.text


def test_random_grammars_agree_with_llama_cpp(engine: Engine) -> None:
    """llama.cpp's own sampler of the same grammar lets through each token of each answer."""
    generator = random.Random(1)
    answered = 0
    for seed in range(60):
        text = _random_grammar(generator)
        grammar = read_gbnf(text)
        most = max(30, len(grammar.shortest) + 1)
        if most > 400:
            continue
        result, _ = answer(engine, grammar, seed, most)
        assert _matches(grammar, result.text)
        answered += _llama_cpp_has(engine, text, result.tokens)
    assert answered > 20


def _llama_cpp_has(engine: Engine, text: str, tokens: Sequence[int]) -> bool:
    """Whether llama.cpp reads the grammar (not where what repeats may be empty); it has tokens."""
    library, vocabulary = engine.library, engine.vocabulary
    sampler = library.llama_sampler_init_grammar(vocabulary.pointer, text.encode(), b"root")
    if not sampler:
        return False
    try:
        for token in [*tokens, vocabulary.eos]:
            candidate = (library.llama_token_data * 1)(library.llama_token_data(token, 1.0, 0.0))
            array = library.llama_token_data_array(candidate, 1, -1, False)
            library.llama_sampler_apply(sampler, byref(array))
            assert candidate[0].logit == 1.0, vocabulary.text_of(tokens)
            if token != vocabulary.eos:
                library.llama_sampler_accept(sampler, token)
    finally:
        library.llama_sampler_free(sampler)
    return True


def _random_grammar(generator: random.Random) -> str:
    names = [f"n{i}" for i in range(generator.randrange(1, 6))]

    def atom(later: list[str]) -> str:
        kinds = ['"ab"', '"é€"', "[a-z]", "[^a-y]", "[x€😀]", ".", '"\\""']
        return generator.choice(kinds + later * 3)

    def body(later: list[str]) -> str:
        parts = [
            atom(later) + generator.choice(["", "", "?", "*", "+", "{2}", "{1,3}"])
            for _ in range(generator.randrange(1, 4))
        ]
        grouped = " ".join(parts)
        return f"({grouped} | {atom(later)})?" if generator.random() < 0.3 else grouped

    rules = [
        f'{name} ::= {body(names[i + 1 :])} | {body(names[i + 1 :])} "z"'
        for i, name in enumerate(names)
    ]
    return f"root ::= {names[0]} {names[-1]}\n" + "\n".join(rules)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "root"),
        ('main ::= "a"', "root"),
        ("root ::= missing", "missing"),
        ('root ::= "a" root', "no end of it"),
        ('root ::= "a', "line 1"),
        ("root ::= [z-a]", "before its start"),
        ("root ::= [^\\x00-\\U0010FFFF]", "no character"),
        ('root ::= "\\x00"', "no character"),
        ("root ::= \"\\q\"", "escape"),
        ('root ::= *', "repeat"),
        ('root ::= "a"{999999999}', "repeats"),
        ('root ::= ' + "(" * 100_000, "nest"),
        ("root ::= <[1]>", "tokens"),
        ('root ::= "a" )', "unexpected"),
        ('root ::= "a"\nroot ::= "b"', "twice"),
    ],
)  # fmt: skip
def test_hostile_grammars_are_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidModelError, match=words):
        read_gbnf(text)


def _chain(depth: int, last: str) -> str:
    """Rules that each are the next one, in as many parentheses."""
    rules = [f"r{i} ::= {'(' * depth}r{i + 1}{')' * depth}\n" for i in range(2000)]
    return "root ::= r0\n" + "".join(rules) + f"r2000 ::= {last}"


@pytest.mark.parametrize(
    "text",
    [
        'root ::= root "a"',
        'root ::= r\nr ::= "a" r "b" | "a" r "c"',
        _chain(0, '"x" root'),
        _chain(20, '"x"'),
        "root ::= r0\n"
        + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(60))
        + 'r60 ::= "x"',
        'root ::= "' + "a" * 200_000 + '" root?',
        "root ::= " + " | ".join(f'"x{i}" root?' for i in range(15_000)),
    ],
)
def test_grammars_without_bound_are_refused(text: str) -> None:
    with pytest.raises(InvalidModelError):
        read_gbnf(text)


@pytest.mark.parametrize(
    "text",
    [
        'root ::= "a" | root "b"',
        'root ::= ("a"*)* ((("b"?)*)*)*',
        'root ::= r\nr ::= r r | "a" | ""',
        'root ::= (((("a"{1,9999}){1,9999}){1,9999}){1,9999})',
        'root ::= [ab]* "a" [ab]{200} "c"',
        "".join(f"r{i} ::= r{i + 1}? r{i + 1}? [a]\n" for i in range(40))
        + 'r40 ::= "x"\nroot ::= r0',
    ],
)
def test_grammars_that_repeat_themselves_are_followed(text: str) -> None:
    grammar = read_gbnf(text)
    assert _matches(grammar, grammar.shortest.decode())


@pytest.mark.parametrize("of", ["tokens", "bytes"])
def test_a_grammar_that_is_given_up_within_an_answer_is_told(engine: Engine, of: str) -> None:
    """llguidance says that the text is at its end then, and so it would seem whole."""
    grammar = read_gbnf('root ::= a | b\na ::= [a-z]* "x" a?\nb ::= [a-z]* "xx" b?')
    tight = LLParserLimits(max_items_in_row=1, verbose_errors=False)
    constraint = constrained(engine.vocabulary, grammar, 30)
    if of == "tokens":
        constraint.matcher = LLMatcher(
            engine.vocabulary.trie, grammar.text, limits=tight, log_level=0
        )
    else:
        constraint.ending.matcher = LLMatcher(_bytes(), grammar.text, limits=tight, log_level=0)
    with pytest.raises(InvalidModelError, match="too ambiguous"):
        list(generate(engine, [1, 2], GREEDY, max_tokens=30, constraint=constraint))


@pytest.mark.parametrize(
    ("count", "most"), [("{0}", 0), ("{ 0 , 0 }", 0), ("{0,}", 2), ("{0,1}", 1), ("{0}{2}", 0)]
)
def test_what_is_repeated_no_time_is_not_there(count: str, most: int) -> None:
    grammar = read_gbnf(f'root ::= "a"{count} "b"')
    assert [times for times in range(3) if _matches(grammar, "a" * times + "b")] == [
        *range(most + 1)
    ]


def _nested(schema: Any, depth: int) -> Any:
    for _ in range(depth):
        schema = {"type": "array", "items": schema, "minItems": 100}
    return schema


def _references(count: int, made: Callable[[str], Any]) -> Any:
    """Each definition made of a reference to the next one."""
    definitions = {f"a{i}": made(f"#/$defs/a{i + 1}") for i in range(count)}
    return {"$ref": "#/$defs/a0", "$defs": {**definitions, f"a{count}": {"type": "null"}}}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
        {"allOf": [{"$ref": "#"}, {"type": "object"}]},
        _nested({"type": "null"}, 20),
        _nested({"type": "null"}, 200),
        _references(5000, lambda target: {"$ref": target}),
        _references(60, lambda to: {"type": "array", "items": {"$ref": to}, "minItems": 2}),
        {"allOf": [{"anyOf": [{"type": "object", "properties": {f"p{i}": {"const": j}}}
                              for j in range(4)]} for i in range(12)]},
        {"type": "string", "pattern": "(" * 100_000 + ")" * 100_000},
        {"type": "string", "pattern": "(x|y)*a(x|y|a){2000}$"},
        {"type": "string", "minLength": 1_000_000},
        {"oneOf": [{"type": "integer"}] * 500},
        {"const": json.loads("[" * 900 + "]" * 900)},
        {"const": "\ud800"},
        {"const": 10**400},
        {"type": "number", "multipleOf": 1e-300},
        {"type": "integer", "multipleOf": 0},
        {"x-guidance": {"lenient": True}, "type": "string", "minimum": "x"},
    ],
)  # fmt: skip
def test_hostile_schemas_are_refused(schema: Any) -> None:
    with pytest.raises(InvalidModelError) as error:
        read_schema(json.dumps(schema))
    assert len(str(error.value).splitlines()) == 1


# What builds on a constraint


def test_tokens_can_be_taken_back(engine: Engine) -> None:
    """As speculation does: draft tokens are looked at, taken, and some of them taken back."""
    grammar = read_schema(json.dumps(SCHEMAS["person"]))
    tokens = engine.vocabulary.tokenize('{"name": "Ada", "age": 36, "address": {"zip": "1"}}')
    wrong = engine.vocabulary.tokenize("]")
    constraint = constrained(engine.vocabulary, grammar, 200)
    fresh = constrained(engine.vocabulary, grammar, 200)
    for at in range(len(tokens)):
        assert constraint.valid([*tokens[at:], *tokens]) == len(tokens) - at
        ahead = tokens[at : at + 4]
        assert all(constraint.take(token, 190 - i) for i, token in enumerate(ahead))
        constraint.rollback(len(ahead))
        assert constraint.ending.way == fresh.ending.way
        assert np.array_equal(constraint.allowed(), fresh.allowed())
        assert constraint.take(tokens[at], 200 - at) and fresh.take(tokens[at], 200 - at)
    assert constraint.done and constraint.valid(wrong) == 0


def test_a_grammar_may_begin_within_an_answer(engine: Engine) -> None:
    """As a tool's call does: any text, and from a mark on JSON that a schema accepts."""
    schema = json.dumps({"type": "object", "properties": {"city": {"type": "string"}},
                         "required": ["city"]})  # fmt: skip
    lark = f'start: text | call\ntext: TEXT\nTEXT: /(?s:.*)/\ncall: head %json {schema}\n' \
           'head[lazy]: TEXT "<call>"'  # fmt: skip
    grammar = checked(LLMatcher.grammar_from_lark(lark), "grammar")
    vocabulary = engine.vocabulary
    constraint = constrained(vocabulary, grammar, 200)
    for token in vocabulary.tokenize("I look. <call>"):
        assert vocabulary.eos in constraint.allowed() and constraint.take(token, 100)
    assert vocabulary.eos not in constraint.allowed()
    assert constraint.valid(vocabulary.tokenize("no")) == 0
    assert constraint.valid(vocabulary.tokenize('{"city": "Rome"}')) > 1


@pytest.mark.parametrize("text", ["root ::= .*", 'root ::= "<|eot_id|>" | "<|python_tag|>x"'])
def test_no_control_token_stands_in_a_shape(engine: Engine, text: str) -> None:
    vocabulary = engine.vocabulary
    constraint = constrained(vocabulary, read_gbnf(text), 50)
    inner = vocabulary.control_tokens - vocabulary.end_tokens
    assert inner and inner.isdisjoint(constraint.allowed().tolist())
    for token in vocabulary.tokenize("<|eot_id|>"):
        assert constraint.take(token, 30)
        assert inner.isdisjoint(constraint.allowed().tolist())
    assert not constraint.cut


@pytest.mark.parametrize("word", ["", "  ", "a\0", "caf\udce9"])
def test_choices_that_are_no_text_are_named(word: str) -> None:
    with pytest.raises(UsageError, match="--choice"):
        choice_grammar(["yes", word])
