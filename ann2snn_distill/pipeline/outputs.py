"""Where a run writes, and what it writes besides the student: config.toml and metrics.jsonl."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tomli_w

from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.errors import BadInputError, UsageError
from ann2snn_distill.files import write_text

STUDENT_FILE = "student.safetensors"
REPORT_FILE = "report.json"
MARKDOWN_FILE = "report.md"
CONFIG_FILE = "config.toml"
METRICS_FILE = "metrics.jsonl"
RESUME_FOLDER = "resume"

_WRITTEN = (STUDENT_FILE, REPORT_FILE, MARKDOWN_FILE, CONFIG_FILE, METRICS_FILE, RESUME_FOLDER)


def resolve_output(settings: ConvertSettings) -> Path:
    """Return the folder of a run: as asked for, the run to go on with, or runs/MODEL-DATASET-tT-N, N the next free."""
    if settings.resume not in (None, "auto"):
        return Path(str(settings.resume))
    if settings.output is not None:
        return settings.output
    dataset = Path(settings.dataset or "data").name
    stem = f"{settings.model.replace('/', '_')}-{dataset}-t{settings.timesteps}"
    number = 1
    while _is_used(Path("runs") / f"{stem}-{number}"):
        number += 1
    if settings.resume == "auto" and number > 1:
        number -= 1
    return Path("runs") / f"{stem}-{number}"


def prepare_output(folder: Path, settings: ConvertSettings) -> None:
    """Make the folder of a run.

    Raises:
        UsageError: it holds something, and neither --resume nor --overwrite was given.
        BadInputError: it cannot be made or written.
    """
    if _is_used(folder):
        if settings.overwrite:
            _clear(folder)
        elif settings.resume is None:
            raise UsageError(
                f"{folder} is not empty; give --resume auto to go on, --overwrite to replace it, or another --output"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"cannot make {folder}: {error.strerror}; choose another --output") from error


def write_config(folder: Path, settings: ConvertSettings) -> None:
    """Write every resolved setting to config.toml."""
    values = settings.model_dump(mode="json", exclude_none=True, exclude={"overwrite", "resume", "output"})
    write_text(folder / CONFIG_FILE, tomli_w.dumps(values))


def write_metrics(folder: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object an epoch to metrics.jsonl."""
    write_text(folder / METRICS_FILE, "".join(json.dumps(line) + "\n" for line in lines))


def _is_used(folder: Path) -> bool:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose another --output")
    return folder.is_dir() and any(folder.iterdir())


def _clear(folder: Path) -> None:
    """Remove what a run writes, and nothing else."""
    for name in _WRITTEN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
