from .answering import answer_all as answer_all, answer_each as answer_each
from .engine import MAX_PARALLEL as MAX_PARALLEL, BatchEngine as BatchEngine
from .job import (
    Job as Job,
    Running as Running,
    TokenLogprob as TokenLogprob,
    constraint_of as constraint_of,
    prepare as prepare,
    result as result,
)
from .lines import (
    BadLine as BadLine,
    Request as Request,
    has_place as has_place,
    key_of as key_of,
    read_lines as read_lines,
    read_output as read_output,
)
from .pace import Pace as Pace
from .scheduler import Scheduler as Scheduler, Step as Step
