"""The chat's screen: lines typed, commands, answers as they come.

To be read in this order: state, editor, tools, saved, markdown, actions, commands, loop, start.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
