from .calling import Calling as Calling, Parting as Parting
from .generation import Answer as Answer, AnswerText as AnswerText, generate as generate
from .output import (
    Interrupts as Interrupts,
    OutputStyle as OutputStyle,
    answer as answer,
    constraint_for as constraint_for,
    interrupts as interrupts,
    progress as progress,
    result_fields as result_fields,
    summary as summary,
    tell as tell,
    write_text as write_text,
)
from .result import Chunk as Chunk, Result as Result
