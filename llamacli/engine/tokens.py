"""What two sequences of tokens share."""

from collections.abc import Sequence


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens a and b have in common from the start, by comparing whole stretches."""
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
