"""What a batch has to do: runs resolved to the last setting, each known by what determines it."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.data.datasets import Dataset
from ann2snn_distill.errors import BadInputError, UsageError
from ann2snn_distill.files import file_digest
from ann2snn_distill.pipeline.machine import choose_device
from ann2snn_distill.pipeline.outputs import FREE_SETTINGS
from ann2snn_distill.pipeline.planning import dataset_of
from ann2snn_distill.pipeline.refusing import check_fit, check_spans
from ann2snn_distill.pipeline.settling import settled
from ann2snn_distill.teacher import resolve_model_name

_DIGITS = 10
"""Hexadecimal digits of a fingerprint: among 1,000 runs two are equal by chance once in two million batches."""

_DATA_SETTINGS = ("dataset", "data_dir", "img_size", "val_split", "limit", "seed", "skip_bad_images", "download")


@dataclass(frozen=True)
class NamedRun:
    """A run as the user wrote it; `varied` are the settings that tell it from the batch's other runs."""

    name: str
    settings: ConvertSettings
    varied: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A run whose settings are resolved.

    Attributes:
        name: for people; it decides nothing but the folder's name.
        settings: every default filled in.
        varied: the settings that tell it from the batch's other runs.
        fingerprint: of everything that determines the result: settings, data, the teacher's weights.
    """

    name: str
    settings: ConvertSettings
    varied: dict[str, Any]
    fingerprint: str

    @property
    def label(self) -> str:
        """A name for files: readable, and different wherever the result may be."""
        return f"{self.name}-{self.fingerprint}"


def resolved_jobs(runs: Sequence[NamedRun]) -> list[Job]:
    """Resolve `runs`, reading every data set once, and refuse what cannot work.

    Raises:
        UsageError: a model or data set is unknown, or two runs are the same.
        BadInputError: data, weights or a device are not there.
    """
    found = dict(_resolved(runs))
    jobs = [found[index] for index in range(len(runs))]
    _refuse_same(jobs)
    return jobs


def _resolved(runs: Sequence[NamedRun]) -> Iterator[tuple[int, Job]]:
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, run in enumerate(runs):
        _check_names(run)
        groups.setdefault(tuple(getattr(run.settings, name) for name in _DATA_SETTINGS), []).append(index)
    for indices in groups.values():
        data = _data_of(runs[indices[0]])
        yield from ((index, _job(runs[index], data)) for index in indices)


def _check_names(run: NamedRun) -> None:
    for name in (run.settings.model, run.settings.student):
        if name is not None:
            _said_of(run, resolve_model_name, name)


def _data_of(run: NamedRun) -> Dataset:
    data: Dataset = _said_of(run, dataset_of, run.settings)
    return data


def _job(run: NamedRun, data: Dataset) -> Job:
    device = _said_of(run, choose_device, run.settings.device)
    settings: ConvertSettings = settled(run.settings, data, device)
    _said_of(run, check_fit, settings, data)
    _said_of(run, check_spans, settings)
    if run.settings.batch_size == "auto":  # cut by the run itself, which knows its network
        settings = settings.model_copy(update={"batch_size": "auto"})
    determined_by = settings.model_dump(mode="json", exclude=set(FREE_SETTINGS)) | {
        "data": data.fingerprint,
        "weights": None if settings.checkpoint is None else file_digest(settings.checkpoint, "`checkpoint`"),
    }
    if settings.started_from is not None:  # it came later: runs without it keep their fingerprints
        determined_by["start"] = file_digest(settings.started_from, "`init`")
    text = json.dumps(determined_by, sort_keys=True, default=str)
    fingerprint = hashlib.blake2b(text.encode(), digest_size=_DIGITS // 2).hexdigest()
    varied = {name: getattr(settings, name) if value is None else value for name, value in run.varied.items()}
    return Job(run.name, settings, varied, fingerprint)


def _said_of(run: NamedRun, check: Any, *arguments: Any) -> Any:
    """Call `check`; its refusal names the run."""
    try:
        return check(*arguments)
    except (UsageError, BadInputError) as error:
        raise type(error)(f"run {run.name}: {error}") from error


def _refuse_same(jobs: Sequence[Job]) -> None:
    first: dict[str, str] = {}
    for job in jobs:
        if job.fingerprint in first:
            raise UsageError(
                f"runs {first[job.fingerprint]} and {job.name} would compute the same, setting for setting; keep one"
            )
        first[job.fingerprint] = job.name
    name, count = Counter(job.name for job in jobs).most_common(1)[0]
    if count > 1:
        raise UsageError(f"{count} runs are called {name}; give each its own `name`")
