"""Answers held to a shape: a JSON Schema, a grammar, or a choice of words.

To be read in this order: grammar, gbnf, matcher, regex, numeric, schema_kinds, json_values, schema,
read, constraint.
Its public face is in __init__.pyi; each name is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
