from .generation import Chunk, Result, generate
from .output import result_fields, write_text
from .signals import Interrupts, interrupts
from .telling import Manner, answer, progress, summary, tell
from .text import Answer, AnswerText

__all__ = [
    "Answer",
    "AnswerText",
    "Chunk",
    "Interrupts",
    "Manner",
    "Result",
    "answer",
    "generate",
    "interrupts",
    "progress",
    "result_fields",
    "summary",
    "tell",
    "write_text",
]
