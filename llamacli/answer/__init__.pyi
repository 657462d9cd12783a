from .calling import Calling, Parting, answer_calling, tell_calling
from .generation import Answer, AnswerText, Chunk, Result, generate
from .output import OutputStyle, answer, progress, result_fields, summary, tell, write_text
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
