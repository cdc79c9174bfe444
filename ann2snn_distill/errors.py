"""One exception tree; each branch carries the exit code that the command line returns."""


class SnnDistillError(Exception):
    """A failure that the user can act on: its text says what, where and the next step."""

    exit_code = 1


class BadInputError(SnnDistillError):
    """A file, a data set, a device or a number turned out to be unusable."""


class UsageError(SnnDistillError):
    """Wrong usage or configuration: an unknown model, data set, key or an impossible value."""

    exit_code = 2


class GateMissedError(SnnDistillError):
    """An accuracy gate was missed; all files have been written, and `report` is what they report."""

    exit_code = 3

    def __init__(self, text: str, report: object = None):
        super().__init__(text)
        self.report = report


class UnsupportedModelError(SnnDistillError):
    """A known model that cannot be converted yet; the text names the operation."""

    exit_code = 4


class InterruptedRunError(SnnDistillError):
    """The run was interrupted and its state saved."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, without its full stop, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
