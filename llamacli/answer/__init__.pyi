from .calling import Calling, Parting
from .generation import Answer, AnswerText, generate
from .output import (
    OutputStyle,
    answer,
    constraint_for,
    progress,
    result_fields,
    summary,
    tell,
    write_text,
)
from .result import Chunk, Result
from .signals import Interrupts, interrupts

__all__ = [
    "Answer",
    "AnswerText",
    "Calling",
    "Chunk",
    "Interrupts",
    "OutputStyle",
    "Parting",
    "Result",
    "answer",
    "constraint_for",
    "generate",
    "interrupts",
    "progress",
    "result_fields",
    "summary",
    "tell",
    "write_text",
]
