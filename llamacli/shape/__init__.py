"""Answers held to a shape: a JSON Schema, a grammar, or a choice of words.

llguidance says which tokens may follow; what is here reads shapes for it, refuses by name what
can't be honoured, and brings an answer to its shape's end before its last token.
To be read in this order: grammar, gbnf, schema_values, schema, read, constraint.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
