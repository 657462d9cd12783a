"""Every failure a user can meet, each with the exit code that scripts rely on."""


class LlamacliError(Exception):
    """An expected failure: its text is one line that says what happened and what to do."""

    exit_code = 1


class UsageError(LlamacliError):
    """The command was called wrongly."""

    exit_code = 2


class InvalidModelError(LlamacliError):
    """A model, checkpoint, template or other input file is not valid."""

    exit_code = 3


class NotFoundError(LlamacliError):
    """A model or file does not exist, or a server can't be reached."""

    exit_code = 4


class DoesNotFitError(LlamacliError):
    """The memory or the context is too small for what was asked."""

    exit_code = 5


class OutputError(LlamacliError):
    """The output can't be written."""

    exit_code = 6
