from .calling import Calling as Calling, Parting as Parting
from .generation import (
    Answer as Answer,
    AnswerText as AnswerText,
    constraint_for as constraint_for,
    generate as generate,
)
from .output import (
    Chunk as Chunk,
    Interrupts as Interrupts,
    Result as Result,
    interrupts as interrupts,
    progress as progress,
    result_fields as result_fields,
    summary as summary,
    write_text as write_text,
)
