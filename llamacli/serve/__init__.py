"""A model for many clients over HTTP: one thread decodes for all of them.

To be read in this order: faults, fields, ask, messages, tools, logprobs, listen, metrics, guard,
openai, stream, batches, lane, worker, options, pool, answers, chat, completions, responses,
anthropic, local, forms, app, run, client, served.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
