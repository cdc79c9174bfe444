"""Where a run writes, and what it writes besides the student: config.toml and metrics.jsonl."""

import json
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from ann2snn_distill.config import CONFIG_FILE, ConvertSettings, as_written
from ann2snn_distill.errors import BadInputError, UsageError
from ann2snn_distill.files import is_leftover, remove_leftovers, write_text
from ann2snn_distill.locks import locked

STUDENT_FILE = "student.safetensors"
REPORT_FILE = "report.json"
MARKDOWN_FILE = "report.md"
HTML_FILE = "report.html"
METRICS_FILE = "metrics.jsonl"
RESUME_FOLDER = "resume"
LOCK_FILE = ".lock"
"""There while a run is at work in the folder, and after one was killed."""

_PATIENCE = 10.0
"""Seconds for a run that was killed to end: the processes that decode its images outlive it by five."""

_WRITTEN = (STUDENT_FILE, REPORT_FILE, MARKDOWN_FILE, HTML_FILE, CONFIG_FILE, METRICS_FILE, RESUME_FOLDER)

FREE_SETTINGS = frozenset({
    "output", "overwrite", "resume", "device", "workers", "checkpoint_interval", "min_accuracy", "max_drop",
    "download", "data_dir", "skip_bad_images",
})  # fmt: skip
"""Settings that do not change what a run computes, so that a resumed run may have others."""


def resolve_output(settings: ConvertSettings) -> Path:
    """Return the folder of a run: as asked for, the run to go on with, or runs/MODEL-DATASET-tT-N, N the next free.

    Raises:
        UsageError: --output and --resume name two folders.
    """
    if settings.resume not in (None, "auto"):
        folder = Path(str(settings.resume))
        if settings.output not in (None, folder):
            raise UsageError(f"--resume names {folder} and --output {settings.output}; leave --output out")
        return folder
    if settings.output is not None:
        return settings.output
    dataset = Path(settings.dataset or "data").name
    stem = f"{settings.model.replace('/', '_')}-{dataset}-t{settings.timesteps}"
    number = 1
    while (Path("runs") / f"{stem}-{number}").exists():  # another run may have made it a moment ago
        number += 1
    if settings.resume == "auto" and number > 1:
        number -= 1
    return Path("runs") / f"{stem}-{number}"


def check_output(folder: Path, settings: ConvertSettings) -> None:
    """See that a run may write to `folder`; nothing is changed.

    Raises:
        UsageError: it holds something, and neither --resume nor --overwrite was given; or it holds no run to resume.
    """
    used, is_run = _is_used(folder), (folder / CONFIG_FILE).exists()
    if settings.resume is None and used and not settings.overwrite:
        raise UsageError(
            f"{folder} is not empty; give --resume auto to go on, --overwrite to replace it, or another --output"
        )
    if settings.resume not in (None, "auto") and not is_run:
        raise UsageError(f"there is no run in {folder}; give the output folder of one, or --resume auto to start one")
    if settings.resume == "auto" and used and not is_run:
        raise UsageError(f"{folder} holds other files and no run; choose another --output, or give --overwrite")


def check_same_run(folder: Path, settings: ConvertSettings) -> None:
    """See that the run in `folder`, if there is one, has these resolved settings.

    Raises:
        UsageError: it has others; the text names both values of each.
        BadInputError: its config.toml cannot be read.
    """
    path = folder / CONFIG_FILE
    if settings.resume is None or not path.exists():
        return
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path} cannot be read ({error}); start again with --overwrite") from error
    wanted = as_written(settings)
    changed = [
        f"{name} was {found.get(name)} and is {wanted.get(name)}"
        for name in sorted((found.keys() | wanted.keys()) - FREE_SETTINGS)
        if found.get(name) != wanted.get(name)
    ]
    if changed:
        raise UsageError(
            f"{folder} holds a run with other settings ({', '.join(changed)}); give the same, or --overwrite, "
            "or another --output"
        )


def make_output(folder: Path, settings: ConvertSettings) -> Path:
    """Make the folder of a run, and return it: the next N where another run has taken this default meanwhile.

    Raises:
        BadInputError: it cannot be made.
    """
    named = settings.output is not None or settings.resume is not None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir(exist_ok=named)
            except FileExistsError:
                if named:
                    raise
                stem, _, number = folder.name.rpartition("-")
                folder = folder.with_name(f"{stem}-{int(number) + 1}")
            else:
                return folder
    except OSError as error:
        raise BadInputError(f"cannot make {folder}: {error.strerror}; choose another --output") from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of an output folder, so that no two runs write to it at once.

    Raises:
        BadInputError: another run is at work there, or it cannot be written.
    """

    def wait(seconds: float) -> None:
        if seconds > _PATIENCE:
            raise BadInputError(f"another run is at work in {folder}; wait for its end, or give another --output")

    with locked(folder / LOCK_FILE, waiting=wait, removed=True):
        yield


def prepare_output(folder: Path, settings: ConvertSettings) -> None:
    """Clear the folder of a run of what it must not find there, and write config.toml.

    Raises:
        BadInputError: it cannot be written.
    """
    try:
        if settings.overwrite:
            _clear(folder)
        remove_leftovers(folder)
    except OSError as error:
        raise BadInputError(f"cannot clear {folder}: {error.strerror}; choose another --output") from error
    if not (folder / CONFIG_FILE).exists():
        write_text(folder / CONFIG_FILE, tomli_w.dumps(as_written(settings)))


def write_metrics(folder: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object an epoch to metrics.jsonl."""
    write_text(folder / METRICS_FILE, "".join(json.dumps(line) + "\n" for line in lines))


def _is_used(folder: Path) -> bool:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose another --output")
    return folder.is_dir() and not all(is_leftover(path) or path.name == LOCK_FILE for path in folder.iterdir())


def _clear(folder: Path) -> None:
    """Remove what a run writes, and nothing else."""
    for name in _WRITTEN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
