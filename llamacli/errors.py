"""Every failure a user can meet, each with the exit code that scripts rely on."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# What the system says where it is out of memory, threads or open files, and where of disk.
NO_ROOM = {errno.ENOMEM, errno.EMFILE, errno.ENFILE}
NO_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


class LlamacliError(Exception):
    """An expected failure: as text, one line that says what happened and what to do.

    file is what it is about, where the fault doesn't name it; hint is what to do, where the fault
    doesn't say it. Whoever knows better may set them before it is told.
    """

    exit_code = 1

    def __init__(self, fault: str, *, file: object = None, hint: str = "") -> None:
        super().__init__(fault)
        self.fault, self.file, self.hint = fault, file, hint

    def __str__(self) -> str:
        about = "" if self.file is None else f"{self.file}: "
        return f"{about}{self.fault}" + (f"; {self.hint}" if self.hint else "")


class UsageError(LlamacliError):
    """The command was called wrongly."""

    exit_code = 2


class InvalidModelError(LlamacliError):
    """A model, checkpoint, template or other input file is not valid."""

    exit_code = 3


class NotFoundError(LlamacliError):
    """A model or file does not exist, or a server can't be reached."""

    exit_code = 4


class UnreachableError(NotFoundError):
    """A worker, a machine that holds a part of a model, isn't there or is lost."""


class DoesNotFitError(LlamacliError):
    """The memory or the context is too small for what was asked."""

    exit_code = 5


class OutputError(LlamacliError):
    """The output can't be written."""

    exit_code = 6


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived: leave through every finally, so that nothing half-written stays.

    Its argument is the signal's number.
    """


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Where an input is read: the system's refusals are named, by path where by no file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)  # mmap's errors name none
        raise named(error) from error


@contextmanager
def writing(path: object, done: str = "written", hint: str = "") -> Iterator[None]:
    """Where an output is looked at or written: the system's refusals are OutputErrors."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise OutputError(f"{path} can't be {done}: {reason(error)}", hint=hint) from error


def reason(error: BaseException) -> str:
    """Why, in one line, in the system's words where it is the system's."""
    told = error.strerror if isinstance(error, OSError) else None
    return told or " ".join(str(error).split()) or type(error).__name__


def named(error: BaseException) -> BaseException:
    """The error as one of the above, where it is the system's, Python's or the converter's.

    This is the one place that knows them. Signals, a closed pipe and what nobody expects stay.
    """
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        return error.__context__  # click leaves so, with code 1
    if isinstance(error, LlamacliError | BrokenPipeError):
        return error
    cause = error.__cause__
    if isinstance(error, RuntimeError) and isinstance(cause, KeyboardInterrupt | Terminated):
        return cause  # Python 3.11 wraps what arrives while a class is made
    if isinstance(error, OSError):
        return _system_error(error)
    if isinstance(error, MemoryError):
        return DoesNotFitError("the memory ran out; free some, or take a smaller model or context")
    if type(error) is RuntimeError and "start new thread" in str(error):
        return DoesNotFitError("the system allows no more threads; end other programs")
    if type(error) is RuntimeError and "Symlink loop" in str(error):  # Python before 3.13
        return NotFoundError(f"{str(error).partition(' from ')[2]} is a link that leads to itself")
    return _converter_error(error) if "convert" in sys.modules else error


def _system_error(error: OSError) -> LlamacliError:
    where = error.filename if error.filename is None else os.fsdecode(error.filename)
    if error.errno == errno.ENOMEM:
        return DoesNotFitError("the memory ran out; free some, or take a smaller model or context")
    if error.errno in NO_ROOM:
        return DoesNotFitError(f"{reason(error)}; raise the limit (ulimit -n), or end others")
    if error.errno in NO_DISK:
        return OutputError(f"{where or 'the output'} can't be written: {reason(error)}")
    if error.errno == errno.EISDIR or (error.errno == errno.EACCES and _is_folder(where)):
        return UsageError(f"{where or 'what is named'} is a folder, not a file")
    if where is None:
        return NotFoundError(f"what is needed can't be read: {reason(error)}")
    if error.errno == errno.ENOENT:
        return NotFoundError(f"there is no file {where}")
    return NotFoundError(f"{where} can't be read: {reason(error)}")


def _is_folder(path: str | None) -> bool:
    """Windows says of a folder that it is opened as a file only that it may not be; one that can't
    be read isn't meant."""
    if path is None:
        return False
    try:
        os.scandir(path).close()
    except OSError:
        return False
    return True


def _converter_error(error: BaseException) -> BaseException:
    from convert import ConvertError, SizeError, SourceError, TargetError

    kinds: dict[type[ConvertError], type[LlamacliError]] = {
        TargetError: OutputError,
        SourceError: NotFoundError,
        SizeError: DoesNotFitError,
        ConvertError: InvalidModelError,
    }
    for kind, ours in kinds.items():
        if isinstance(error, kind):
            return ours(error.fault, file=error.file or None, hint=error.hint)
    return error


def told(error: BaseException) -> str:
    """What is said of an error, without the program's name: its line, or that it is unexpected."""
    error = named(error)
    text = " ".join(str(error).split())
    if isinstance(error, LlamacliError):
        return text
    return f"unexpected {type(error).__name__}: {text} (--debug shows where)"
