"""Errors from below the command line, as the exit codes know them."""

import errno
import sys

from llamacli.errors import DoesNotFitError, InvalidModelError, NotFoundError, OutputError


def translate(error: BaseException) -> BaseException:
    """A converter's error, a failed write, or no memory as a LlamacliError; others as is."""
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        return error.__context__  # click leaves so, with code 1
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(f"the output can't be written: {error.strerror}")
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return DoesNotFitError("the memory ran out; free some, or take a smaller model or context")
    if "convert" not in sys.modules:
        return error
    from convert import ConvertError, SourceError, TargetError, TargetExistsError

    if isinstance(error, TargetError | TargetExistsError):
        return OutputError(str(error))
    if isinstance(error, SourceError):
        return NotFoundError(str(error))
    if isinstance(error, ConvertError):
        return InvalidModelError(str(error))
    return error
