from .alone import answer_each
from .answering import answer_all
from .engine import MAX_PARALLEL, BatchEngine
from .job import Job, Running, TokenLogprob, constraint_of, prepare, result
from .lines import BadLine, Request, key_of, read_lines, read_output
from .pace import Pace
from .scheduler import Scheduler, Step

__all__ = [
    "MAX_PARALLEL",
    "BadLine",
    "BatchEngine",
    "Job",
    "Pace",
    "Request",
    "Running",
    "Scheduler",
    "Step",
    "TokenLogprob",
    "answer_all",
    "answer_each",
    "constraint_of",
    "key_of",
    "prepare",
    "read_lines",
    "read_output",
    "result",
]
