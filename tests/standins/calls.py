"""What the generations of Llama write when they call tools, and what only looks like it.

Made by us by the descriptions of Meta's model cards and prompt formats: the answer's text, with
<|python_tag|> spelled out and the end token left off, the text that is to be shown, and the calls.
"""

from collections.abc import Collection

from llamacli.tools import Call, Reader

NAMES = ("weather", "brave_search", "wolfram_alpha", "spotify.search", "get_user_info", "ipython")

Case = tuple[str, str, list[tuple[str, dict[str, object]]]]

PARIS = ("weather", {"city": "Paris"})
CALLS: dict[str, Case] = {
    "3.1's object": ('{"name": "weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
    "blanks": ('\n\n {"name" : "weather",\n "parameters": {"city":"Paris"}}\n', "\n\n ", [PARIS]),
    "arguments": ('{"name": "weather", "arguments": {"city": "Paris"}}', "", [PARIS]),
    "arguments first": ('{"parameters": {"city": "Paris"}, "name": "weather"}', "", [PARIS]),
    "arguments as a text": (
        '{"name": "weather", "parameters": "{\\"city\\": \\"Paris\\"}"}', "", [PARIS],
    ),
    "none": ('{"name": "get_user_info", "parameters": {}}', "", [("get_user_info", {})]),
    "null": ('{"name": "get_user_info", "parameters": null}', "", [("get_user_info", {})]),
    "type and function": (
        '{"type": "function", "function": {"name": "weather", "parameters": {"city": "Paris"}}}',
        "", [PARIS],
    ),
    "type and name": (
        '{"type": "function", "name": "weather", "parameters": {"city": "Paris"}}', "", [PARIS],
    ),
    "function as the name": (
        '{"function": "weather", "parameters": {"city": "Paris"}}', "", [PARIS],
    ),
    "an id": (
        '{"id": "call_7", "type": "function", "function": {"name": "weather", '
        '"arguments": {"city": "Paris"}}}', "", [PARIS],
    ),
    "in a row": (
        '{"name": "weather", "parameters": {"city": "Paris"}}; '
        '{"name": "get_user_info", "parameters": {"id": 7}}', "",
        [PARIS, ("get_user_info", {"id": 7})],
    ),
    "on lines": (
        '{"name": "weather", "parameters": {"city": "Paris"}}\n'
        '{"name": "weather", "parameters": {"city": "Paris"}}\n', "", [PARIS, PARIS],
    ),
    "a list": (
        '[{"name": "weather", "parameters": {"city": "Paris"}}, {"name": "get_user_info"}]', "",
        [PARIS, ("get_user_info", {})],
    ),
    "brackets in texts": (
        '{"name": "weather", "parameters": {"city": "}]{[ \\" \\\\", "at": {"x": [1, 2.5]}}}', "",
        [("weather", {"city": '}]{[ " \\', "at": {"x": [1, 2.5]}})],
    ),
    "letters": (
        '{"name": "weather", "parameters": {"city": "Zürich \\u00e9 🦙"}}', "",
        [("weather", {"city": "Zürich é 🦙"})],
    ),
    "after a text": (
        'Let me look.\n{"name": "weather", "parameters": {"city": "Paris"}}', "Let me look.\n",
        [PARIS],
    ),
    "before a text": (
        '{"name": "weather", "parameters": {"city": "Paris"}}\n\nDone.', "Done.", [PARIS],
    ),
    "a tag and an object": (
        '<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}', "", [PARIS],
    ),
    "a tag and objects": (
        '<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}; '
        '{"name": "get_user_info", "parameters": {}}', "", [PARIS, ("get_user_info", {})],
    ),
    "brave": (
        '<|python_tag|>brave_search.call(query="Llama 3.1, \\"405B\\"")', "",
        [("brave_search", {"query": 'Llama 3.1, "405B"'})],
    ),
    "wolfram": (
        "A sum:<|python_tag|>wolfram_alpha.call(query='1 + 1')", "A sum:",
        [("wolfram_alpha", {"query": "1 + 1"})],
    ),
    "code": (
        "<|python_tag|>import math\nprint(math.pi)\n", "",
        [("ipython", {"code": "import math\nprint(math.pi)"})],
    ),
    "3.2's list": (
        "[weather(city='Paris'), get_user_info(id=7, tags=['a', \"b\"], deep={'x': None})]", "",
        [PARIS, ("get_user_info", {"id": 7, "tags": ["a", "b"], "deep": {"x": None}})],
    ),
    "3.2's single": ("[weather(city='Paris')]", "", [PARIS]),
    "3.2's empty": ("[get_user_info()]", "", [("get_user_info", {})]),
    "3.2's words of JSON": (
        "[get_user_info(a=true, b=false, c=null, d=-1.5)]", "",
        [("get_user_info", {"a": True, "b": False, "c": None, "d": -1.5})],
    ),
    "a name with a point": (
        '[spotify.search(q="x")]', "", [("spotify.search", {"q": "x"})],
    ),
    "a function's tag": (
        '<function=weather>{"city": "Paris"}</function>', "", [PARIS],
    ),
    "functions' tags in a text": (
        'First <function=weather>{"city": "Paris"}</function>\n'
        "<function=get_user_info>{}</function>", "First ", [PARIS, ("get_user_info", {})],
    ),
    "Hermes' tag": (
        '<tool_call>\n{"arguments": {"city": "Paris"}, "name": "weather"}\n</tool_call>',
        "", [PARIS],
    ),
    "Hermes' tags in a text": (
        'First: <tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>\n'
        '<tool_call>\n{"name": "get_user_info", "arguments": {}}\n</tool_call>', "First: ",
        [PARIS, ("get_user_info", {})],
    ),
}  # fmt: skip

TEXTS = (
    "",
    "Hello!",
    "A set {1, 2} and a list [3].",
    '{"city": "Paris", "temperature": 20}',
    '{"name": "Ada", "parameters": {"born": 1815}}',
    '{"name": "weather"',
    '{"name": "weather", "parameters": {"city": "Par',
    '{"name": "weather", "parameters": 7}',
    '{"name": "weather", "parameters": {}, "extra": 1}',
    '{"name": "weather", "parameters": {"x": NaN}}',
    '{"type": "object", "properties": {}}',
    '{\n  "tools": [\n{"name": "weather", "parameters": {}}\n]\n}',
    '```json\n{"name": "weather", "parameters": {"city": "Paris"}}\n```',
    "As in `x = [weather(city='Paris')]`, or:\n- [ ] to do\n[1] a note\n[weather](https://x.y)",
    "[weather(city=open('/etc/passwd'))]",
    "[weather(lambda: 1)]",
    "[unknown(a=1)]",
    "[]",
    "{}",
    "<function=unknown>{}</function>",
    "<function=weather>{</function>",
    '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": {}}</tool>',
    "<tool_call>weather</tool_call>",
    "<b>bold</b> < 3 <|",
    "[weather(" + "(" * 300,
    "{" * 5000,
    '{"name": "weather", "parameters": ' + '{"a": ' * 3000,
)


def read_answer(text: str, names: Collection[str], *, cut: bool = False) -> tuple[str, list[Call]]:
    """A whole answer's text and calls; cut says that it isn't whole."""
    reader = Reader(names)
    shown = reader.feed(text) + reader.finish(cut=cut)
    return shown, reader.calls
