"""llamacli's own endpoints' parts: tokens of a text, the text of tokens, the template's prompt."""

from typing import Any

from llamacli.serve.ask import Ask
from llamacli.serve.faults import invalid
from llamacli.serve.fields import Fields, shown
from llamacli.serve.messages import read_messages
from llamacli.serve.pool import Loaded
from llamacli.serve.tools import read_calling

MAX_LISTED = 1 << 20  # tokens


def tokenize(model: Loaded, fields: Fields) -> dict[str, Any]:
    """content's tokens: control tokens' spellings stay text, unless parse_special is true."""
    text = fields.needed("content", fields.text)
    special, bos = fields.flag("parse_special"), fields.flag("add_special")
    pieces = fields.flag("with_pieces")
    fields.end()
    vocabulary = model.engine.vocabulary
    add = bool(bos) and vocabulary.add_bos
    tokens = vocabulary.tokenize(text, special=bool(special), bos=add)
    if not pieces:
        return {"tokens": tokens}
    return {"tokens": [{"id": t, "piece": vocabulary.text_of([t])} for t in tokens]}


def detokenize(model: Loaded, fields: Fields) -> dict[str, Any]:
    tokens = fields.needed("tokens", fields.items)
    fields.end()
    vocabulary = model.engine.vocabulary
    if len(tokens) > MAX_LISTED:
        raise invalid("tokens", f"has {len(tokens)} of them; at most {MAX_LISTED} are read")
    for i, token in enumerate(tokens):
        if type(token) is not int or not 0 <= token < vocabulary.size:
            raise invalid(f"tokens.{i}", f"is {shown(token)}, no token of the model")
    return {"content": vocabulary.text_of(tokens)}


def apply_template(model: Loaded, fields: Fields) -> dict[str, Any]:
    """The prompt that the model reads for messages, and its tokens."""
    messages, calling = read_messages(fields), read_calling(fields)
    fields.end()
    tokens = Ask(None, [messages], calling=calling).encode(model.engine, messages)
    return {"prompt": model.engine.vocabulary.text_of(tokens), "tokens": tokens}
