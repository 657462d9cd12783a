"""Named errors of the converter; the caller decides how they are shown."""


class ConvertError(Exception):
    """Any expected failure of a conversion: one line, naming the file and what is wrong with it."""


class CheckpointError(ConvertError):
    """The checkpoint is missing a part, damaged, or not of the Llama 3 kind."""


class SourceError(ConvertError):
    """The source can't be reached, or no longer; what is done may be kept and gone on with."""


class QuantizationError(ConvertError):
    """An unknown or impossible quantization was asked for."""


class ImportanceError(ConvertError):
    """An importance matrix is damaged, or of another model, or one is needed and isn't there."""


class TargetExistsError(ConvertError):
    """The target file exists and was not to be replaced."""


class TargetError(ConvertError):
    """The target can't be written: no space, no permission, no such folder."""
