"""Named errors of the converter, by their parts; the caller decides how they are shown."""


class ConvertError(Exception):
    """Any expected failure of a conversion.

    fault is what is wrong, file the file or folder it is wrong with (a name, or a path; empty where
    it is none), and hint what to do about it, where that can be said. As text they are one line.
    """

    def __init__(self, fault: str, *, file: str = "", hint: str = "") -> None:
        super().__init__(fault)
        self.fault = fault
        self.file = file
        self.hint = hint

    def __str__(self) -> str:
        where = f"{self.file}: " if self.file else ""
        return where + self.fault + (f"; {self.hint}" if self.hint else "")


class CheckpointError(ConvertError):
    """The checkpoint is missing a part, damaged, or of a kind that can't be converted."""


class SourceError(ConvertError):
    """The source can't be reached or read, or no longer; what is done may be gone on with."""


def unreadable(file: str, error: OSError) -> SourceError:
    """What the system said against reading a file that is there."""
    return SourceError(f"it can't be read: {error.strerror or error}", file=file)


class QuantizationError(ConvertError):
    """An unknown or impossible quantization was asked for."""


class ImportanceError(ConvertError):
    """An importance matrix is damaged, or of another model, or one is needed and isn't there."""


class SizeError(ConvertError):
    """No file is as small as it was asked to be."""


class TargetError(ConvertError):
    """The target can't be written: it exists, or no space, permission or folder is there for it."""
