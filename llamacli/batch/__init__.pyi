from .lines import BadLine, Request, key_of, read_lines, read_output
from .scheduler import MAX_PARALLEL, BatchEngine, Job, answer_all

__all__ = [
    "MAX_PARALLEL",
    "BadLine",
    "BatchEngine",
    "Job",
    "Request",
    "answer_all",
    "key_of",
    "read_lines",
    "read_output",
]
