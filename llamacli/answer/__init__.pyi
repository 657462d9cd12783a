from .calling import Calling, Parting, answer_calling, tell_calling
from .generation import Chunk, Result, generate
from .output import OutputStyle, answer, progress, result_fields, summary, tell, write_text
from .signals import Interrupts, interrupts
from .text import Answer, AnswerText

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
    "answer_calling",
    "generate",
    "interrupts",
    "progress",
    "result_fields",
    "summary",
    "tell",
    "tell_calling",
    "write_text",
]
