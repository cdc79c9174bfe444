"""Everything a restart needs, in one checksummed file written whole or not at all.

Random choices of an epoch come from (seed, epoch) alone, so no random state is in it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ann2snn_distill.errors import BadInputError
from ann2snn_distill.files import write_atomically

STATE_FILE = "state.safetensors"
PREVIOUS_FILE = "previous.safetensors"
_KEY = "snn_distill_resume"


@dataclass(frozen=True)
class Restart:
    """Where a run stands: `epoch` epochs are finished; `tensors` are the trained state after them."""

    epoch: int
    tensors: dict[str, Tensor]
    history: tuple[dict[str, Any], ...]


class ResumeFolder:
    """The restart states of one training: the last, and the one before in case the last is damaged."""

    def __init__(self, folder: Path, *, identity: dict[str, Any]):
        self.folder = folder
        self._identity = json.loads(json.dumps(identity, default=str))

    def save(self, restart: Restart) -> None:
        """Write `restart`, keeping the previous one beside it.

        Raises:
            BadInputError: the disk is full or the folder unwritable; the previous state stays.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInputError(f"cannot write {self.folder}: {error.strerror}; choose another --output") from error
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in restart.tensors.items()}
        header = {
            "epoch": restart.epoch,
            "history": restart.history,
            "identity": self._identity,
            "checksum": checksum(tensors),
        }
        # Bytes, not save_file: its errors are not OSErrors, so a full disk would have no name.
        content = save(tensors, metadata={_KEY: json.dumps(header)})
        current = self.folder / STATE_FILE
        if current.exists():
            current.replace(self.folder / PREVIOUS_FILE)
        write_atomically(current, lambda path: path.write_bytes(content))

    def load(self) -> tuple[Restart | None, list[str]]:
        """Return the newest whole state, or None where there is none, and what was wrong with newer ones.

        Raises:
            BadInputError: the state belongs to a run with other settings.
        """
        complaints: list[str] = []
        for name in (STATE_FILE, PREVIOUS_FILE):
            path = self.folder / name
            if not path.exists():
                continue
            try:
                return self._read(path), complaints
            except (SafetensorError, OSError, KeyError, ValueError) as error:
                complaints.append(f"{path} is damaged ({error}); the state before it is used")
        return None, complaints

    def remove(self) -> None:
        """Remove the states: the run is complete."""
        for name in (STATE_FILE, PREVIOUS_FILE):
            (self.folder / name).unlink(missing_ok=True)
        if self.folder.is_dir():
            self.folder.rmdir()

    def _read(self, path: Path) -> Restart:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if checksum(tensors) != header["checksum"]:
            raise ValueError("its checksum does not match")
        self._check_identity(header["identity"], path)
        return Restart(header["epoch"], tensors, tuple(header["history"]))

    def _check_identity(self, found: dict[str, Any], path: Path) -> None:
        names = found.keys() | self._identity.keys()
        different = sorted(name for name in names if found.get(name) != self._identity.get(name))
        if different:
            changes = ", ".join(f"{name} was {found.get(name)} and is {self._identity.get(name)}" for name in different)
            raise BadInputError(
                f"{path} belongs to a run with other settings ({changes}); give the same, or --overwrite"
            )


def checksum(tensors: dict[str, Tensor]) -> str:
    """Return a digest of names, dtypes, shapes and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
