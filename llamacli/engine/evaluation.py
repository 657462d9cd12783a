"""What of a prompt is new, and a batch of it evaluated by llama.cpp, which can be stopped."""

from collections.abc import Callable, Sequence
from typing import Any

from llamacli.engine.loading import logged_reason
from llamacli.errors import DoesNotFitError, InvalidModelError, LlamacliError
from llamacli.workers import Workers

ABORTED, NO_MEMORY = 2, -2  # llama_decode's codes


def common_prefix(a: Sequence[object], b: Sequence[object]) -> int:
    """How much a and b have in common from the start, in items, by comparing whole stretches."""
    if type(a) is not type(b):
        a, b = list(a), list(b)
    same, differs = 0, min(len(a), len(b)) + 1
    step = differs - 1
    while same + 1 < differs:
        if a[same : same + step] == b[same : same + step]:
            same += step
        else:
            differs = same + step
        step = max((differs - same) // 2, 1)
    return same


def evaluate(
    library: Any,
    decode: Callable[[Any, Any], int],
    context: Any,
    tokens: Sequence[int],
    stopped: Callable[[], bool],
) -> bool:
    """Evaluate a batch in the context, a llama_context pointer, asking stopped now and then.

    decode is llama_decode, or what stands for it. False where it was stopped; the cache may hold a
    part of it then.
    """
    ids = (library.llama_token * len(tokens))(*tokens)  # the batch only points to it
    callback = library.ggml_abort_callback(lambda _: stopped())
    library.llama_set_abort_callback(context, callback, None)
    try:
        code = decode(context, library.llama_batch_get_one(ids, len(tokens)))
    finally:  # one token goes without: a call an operation would slow it down
        library.llama_set_abort_callback(context, library.ggml_abort_callback(0), None)
    if code not in (0, ABORTED):
        raise decode_error(code)
    return bool(code == 0)


def decode_together(library: Any, workers: Workers, width: int, context: Any, batch: Any) -> int:
    """llama_decode, waited for: its code. width is that of a row of logits, 0 where none is read.

    Raises UnreachableError where a worker was lost over it, and InvalidModelError where logits
    are no numbers, which llama.cpp's samplers would sort beyond their ends: they came from others.
    """
    with workers.watched():
        code = int(library.llama_decode(context, batch))
        library.llama_synchronize(context)
    rows = sum(batch.logits[i] != 0 for i in range(batch.n_tokens)) if batch.logits else 1
    if code == 0 and rows and width:
        import numpy as np

        logits = np.ctypeslib.as_array(library.llama_get_logits(context), (rows, width))
        if not np.isfinite(logits).all():
            raise InvalidModelError("the model computes no numbers on these workers")
    return code


def decode_error(code: int) -> LlamacliError:
    """What a code of llama_decode other than 0 means."""
    kind = DoesNotFitError if code == NO_MEMORY else LlamacliError
    return kind(f"llama.cpp failed to evaluate (code {code}){logged_reason()}")
