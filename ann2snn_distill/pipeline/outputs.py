"""Where a run writes, and what it writes besides the student: config.toml and metrics.jsonl."""

import json
import shutil
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tomli_w

from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.errors import BadInputError, UsageError
from ann2snn_distill.files import is_leftover, remove_leftovers, write_text

STUDENT_FILE = "student.safetensors"
REPORT_FILE = "report.json"
MARKDOWN_FILE = "report.md"
HTML_FILE = "report.html"
CONFIG_FILE = "config.toml"
METRICS_FILE = "metrics.jsonl"
RESUME_FOLDER = "resume"

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
    while _is_used(Path("runs") / f"{stem}-{number}"):
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
    wanted = _plain(settings)
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


def prepare_output(folder: Path, settings: ConvertSettings) -> None:
    """Make the folder of a run, with config.toml in it.

    Raises:
        BadInputError: it cannot be made or written.
    """
    if settings.overwrite:
        _clear(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
    except OSError as error:
        raise BadInputError(f"cannot make {folder}: {error.strerror}; choose another --output") from error
    if not (folder / CONFIG_FILE).exists():
        write_text(folder / CONFIG_FILE, tomli_w.dumps(_plain(settings)))


def write_metrics(folder: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object an epoch to metrics.jsonl."""
    write_text(folder / METRICS_FILE, "".join(json.dumps(line) + "\n" for line in lines))


def _plain(settings: ConvertSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude_none=True, exclude={"overwrite", "resume", "output"})


def _is_used(folder: Path) -> bool:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose another --output")
    return folder.is_dir() and not all(is_leftover(path) for path in folder.iterdir())


def _clear(folder: Path) -> None:
    """Remove what a run writes, and nothing else."""
    for name in _WRITTEN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
