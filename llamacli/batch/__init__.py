"""Many prompts side by side in one context.

To be read in this order: lines, engine, job, aside, kept, pace, proposals, choosing, scheduler,
answering.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
