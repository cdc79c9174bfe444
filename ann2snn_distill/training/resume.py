"""Everything a restart needs, in checksummed files written whole or not at all.

Random choices come from streams named by (seed, epoch, step), so no random state is in a file.
"""

import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from ann2snn_distill.errors import BadInputError
from ann2snn_distill.files import remove_leftovers, unwritable, write_atomically
from ann2snn_distill.tensorfile import named_field, read_whole, tensors_digest

FORMAT_VERSION = 1

_KEY = "snn_distill_resume"
_NAME = "state-{:06d}-{:08d}.safetensors"
"""Finished epochs and steps after them: names sort as training goes on."""

_DAMAGES = (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError)

_SHOWN, _LONGEST = 3, 80
"""Settings that a message names, and characters of each."""

_Number = int | float | None


@dataclass(frozen=True)
class Part:
    """What is done of an epoch that is not finished: its steps, the sums of their losses, and what they cost."""

    steps: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_mib: float | None = None


@dataclass(frozen=True)
class Restart:
    """Where a run stands: `epoch` epochs and a `part` of the next are done; `tensors` are the state after them."""

    epoch: int
    tensors: dict[str, Tensor]
    history: tuple[dict[str, Any], ...]
    part: Part = Part()

    @property
    def place(self) -> str:
        """Where that is, for people."""
        if not self.part.steps:
            return f"epoch {self.epoch}"
        return f"step {self.part.steps} in epoch {self.epoch + 1}"


class _Facts(BaseModel):
    """What a state's file holds beside its tensors; those of the first days have no version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    epoch: NonNegativeInt
    part: Part
    history: tuple[dict[str, _Number | str | dict[str, _Number]], ...]
    identity: dict[str, Any]


class ResumeFolder:
    """The restart states of one training: the last, and the one before in case the last is damaged.

    `identity` is everything that determines the result; names in `later` are compared only where a state has them, as
    those of earlier releases do not.
    """

    def __init__(self, folder: Path, *, identity: dict[str, Any], later: Collection[str] = ()):
        self.folder = folder
        self._identity = json.loads(json.dumps(identity, default=str))
        self._later = later
        self._newest: Path | None = None
        self._before: Path | None = None

    def save(self, restart: Restart) -> None:
        """Write `restart`; the whole state before it stays beside it, and older ones go.

        Raises:
            BadInputError: the disk is full or the folder unwritable; the states there stay.
        """
        path = self.folder / _NAME.format(restart.epoch, restart.part.steps)
        if path == self._newest:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
        except OSError as error:
            raise unwritable(path, error) from error
        content = _encoded(restart, self._identity)
        write_atomically(path, lambda target: target.write_bytes(content))
        self._newest, self._before = path, self._newest
        for other in self._states():
            if other not in (self._newest, self._before):
                other.unlink(missing_ok=True)

    def load(self, misfit: Callable[[Restart], str | None]) -> tuple[Restart | None, list[str]]:
        """Return the newest whole state, or None where there is none, and what was wrong with newer ones.

        Args:
            misfit: says why a whole state is none of this training, though its settings are, or None.

        Raises:
            BadInputError: the state belongs to a run with other settings, or is of a newer release.
        """
        complaints: list[str] = []
        for path in reversed(self._states()):
            try:
                restart, identity = _decoded(path)
            except _DAMAGES as error:
                complaints.append(f"{path} is damaged ({error})")
                continue
            self._check_identity(identity, path)
            if reason := misfit(restart):
                complaints.append(f"{path} is damaged ({reason})")
                continue
            self._newest = path
            return restart, complaints
        return None, complaints

    def remove(self) -> None:
        """Remove the states: the run is complete."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("state-*.safetensors"))

    def _check_identity(self, found: dict[str, Any], path: Path) -> None:
        names = found.keys() | {name for name in self._identity if name not in self._later}
        different = sorted(name for name in names if found.get(name) != self._identity.get(name))
        if different:
            changes = ", ".join(
                f"{_short(name)} was {_short(found.get(name))} and is {_short(self._identity.get(name))}"
                for name in different[:_SHOWN]
            )
            more = f", and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
            raise BadInputError(
                f"{path} belongs to a run with other settings ({changes}{more}); give the same, or --overwrite"
            )


def _short(value: object) -> str:
    """Return a value for people, who need not have written it: on one line, and not endless."""
    text = str(value)
    return (text if text.isprintable() else repr(text))[:_LONGEST]


def _encoded(restart: Restart, identity: dict[str, Any]) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in restart.tensors.items()}
    facts = {
        "format_version": FORMAT_VERSION,
        "epoch": restart.epoch,
        "part": asdict(restart.part),
        "history": restart.history,
        "identity": identity,
    }
    text = json.dumps(facts)
    # Bytes, not save_file: its errors are not OSErrors, so a full disk would have no name.
    return save(tensors, metadata={_KEY: text, "checksum": tensors_digest(text, tensors)})


def _decoded(path: Path) -> tuple[Restart, dict[str, Any]]:
    metadata, tensors = read_whole(path)
    if tensors_digest(metadata[_KEY], tensors) != metadata["checksum"]:
        raise ValueError("its checksum does not match")
    facts = _parsed(json.loads(metadata[_KEY]), path)
    return Restart(facts.epoch, tensors, facts.history, facts.part), facts.identity


def _parsed(content: Any, path: Path) -> _Facts:
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BadInputError(
            f"{path} was written by a newer snn-distill (format {version:.6g}, this one reads {FORMAT_VERSION}): "
            "upgrade with pip install -U snn-distill, or start again with --overwrite"
        )
    try:
        return _Facts.model_validate(content)
    except ValidationError as error:
        field = named_field(error.errors()[0]["loc"])
        raise ValueError(f"`{field}` is invalid") from error
