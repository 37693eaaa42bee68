"""The errors litseq raises for its user, each one line: what was found, what was expected, the next step."""


class LitseqError(Exception):
    """The work failed for a reason the message explains; the command line prints it and exits with `exit_code`."""

    exit_code = 1


class UsageError(LitseqError):
    """An option or a path given by the user cannot be used as it is."""

    exit_code = 2


class DataError(LitseqError):
    """A data file is missing, empty, damaged or not in the format it was read as."""

    exit_code = 2


class BundleError(LitseqError):
    """A bundle is missing, damaged, foreign or of a format version this litseq does not read."""

    exit_code = 2


class CheckpointError(LitseqError):
    """A file given as a checkpoint is none, or names a class that cannot be restored."""

    exit_code = 2


class ExportError(LitseqError):
    """A module cannot be exported, or onnxruntime and torch disagree on what was exported."""
