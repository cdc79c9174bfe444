"""What a batch remembers of each run, in its output folder: one small file a run, found by the fingerprint."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ann2snn_distill.batch.jobs import Job
from ann2snn_distill.config import as_written
from ann2snn_distill.errors import BadInputError
from ann2snn_distill.files import write_text
from ann2snn_distill.locks import locked
from ann2snn_distill.pipeline.outputs import REPORT_FILE
from ann2snn_distill.reporting.report import Report

RECORDS_FOLDER = "records"

_PATIENCE = 20.0
"""Seconds for the runs of a batch that was killed to save their state and end."""


class Record(BaseModel):
    """How far a run is: `started` (or interrupted since), `finished`, `failed` with the reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str = Field(pattern=r"^\w[\w.-]*$")
    state: Literal["started", "finished", "failed"]
    error: str | None = None


class Records:
    """The records of the batch in `output`."""

    def __init__(self, output: Path):
        self.output = output
        self._folder = output / RECORDS_FOLDER

    def of(self, job: Job) -> Record:
        """Return what is known of a run, whatever its name was; a record that cannot be read is none."""
        for path in sorted(self._folder.glob(f"*-{job.fingerprint}.json")):
            with suppress(OSError, ValidationError):
                return Record.model_validate_json(path.read_bytes())
        return Record(label=job.label, state="started")

    def keep(self, job: Job, record: Record) -> None:
        """Write down how far a run is."""
        write_text(self.path(job, ".json"), record.model_dump_json() + "\n")

    def folder(self, job: Job) -> Path:
        """Return the output folder of a run: the one it began in."""
        return self.output / self.of(job).label

    def path(self, job: Job, suffix: str) -> Path:
        """Return a file about a run: `.json` its record, `.toml` its settings, `.log` what it said."""
        return self._folder / f"{self.of(job).label}{suffix}"

    def report(self, job: Job) -> Report | None:
        """Return the report of a finished run, or None."""
        with suppress(OSError, ValidationError):
            return Report.model_validate_json((self.folder(job) / REPORT_FILE).read_bytes())
        return None

    def write_settings(self, job: Job) -> Path:
        """Write the settings of a run, as `convert --config` takes them; return the file."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInputError(f"cannot make {self._folder}: {error.strerror}; choose another --output") from error
        path = self.path(job, ".toml")
        write_text(path, tomli_w.dumps(as_written(job.settings)))
        return path


@contextmanager
def alone(output: Path) -> Iterator[int]:
    """Hold the lock of a batch's folder, and give its descriptor: runs inherit it, and hold it while they live.

    Raises:
        BadInputError: another batch is at work there, or runs that outlived theirs.
    """

    def wait(seconds: float) -> None:
        if seconds > _PATIENCE:
            raise BadInputError(f"another batch, or a run that it left behind, is at work in {output}; wait or end it")

    with locked(output / RECORDS_FOLDER / "lock", waiting=wait) as descriptor:
        yield descriptor
