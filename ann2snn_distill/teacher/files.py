"""Checkpoint files: tensors by name, read without ever running what a file holds."""

import argparse
import difflib
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ann2snn_distill.errors import BadInputError
from ann2snn_distill.teacher.classes import read_classes
from ann2snn_distill.teacher.normalisation import Normalisation, read_normalisation
from ann2snn_distill.tensorfile import read_whole, refuse_pointer

PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".tar")
SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "network", "net", "params")


@dataclass(frozen=True)
class TensorFile:
    """What a checkpoint file holds.

    Attributes:
        path: the file.
        tensors: by name, on the CPU, in the file's order.
        unwrapped: keys under which the tensors lay, joined by dots; None where they lay at the top.
        normalisation: of the images that the weights were trained on, where the file says it.
        classes: names of the logits, where the file says them.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    unwrapped: str | None
    normalisation: Normalisation | None = None
    classes: tuple[str, ...] | None = None

    @property
    def ordered(self) -> bool:
        """Whether the order of the tensors is the order of the network that was saved."""
        return self.path.suffix.lower() in PICKLE_SUFFIXES


def read_tensors(path: Path) -> TensorFile:
    """Read a .safetensors file, or a pickle of torch restricted to tensors and plain containers.

    Where several sets of weights lie in one file, the averaged ones win, as `WRAPPERS` orders them.

    Raises:
        BadInputError: missing, unreadable, truncated or foreign, with code in it, without tensors, or an SNN.
    """
    _check_file(path)
    if path.suffix.lower() == ".safetensors":
        (metadata, tensors), unwrapped = _read_safetensors(path), None
    else:
        metadata = {}
        tensors, unwrapped = _unwrapped(path, _read_pickle(path))
    if not tensors:
        raise BadInputError(f"{path} holds no tensors by name; give a file that holds a network's state_dict")
    for name, tensor in tensors.items():
        _check_tensor(path, name, tensor)
    return TensorFile(path, tensors, unwrapped, read_normalisation(path, metadata), read_classes(path, metadata))


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse what only looks like weights: tensors without memory, or larger than the file by repeating it."""
    short = name[:100]
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain:
        raise BadInputError(f"{path} holds {short}, which is no plain tensor; save the state_dict of a float model")
    if tensor.numel() * tensor.element_size() > path.stat().st_size:
        raise BadInputError(f"{path} claims that {short} is larger than the file; it is damaged: copy it again")


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise BadInputError(f"{path} is a folder; give the checkpoint file in it ({', '.join(SUFFIXES)})")
    if not path.exists():
        raise BadInputError(f"{path} does not exist; {_near_files(path)}")
    if not path.is_file():
        raise BadInputError(f"{path} is no regular file; copy the checkpoint to one")
    if path.suffix.lower() not in SUFFIXES:
        raise BadInputError(f"{path} is not a checkpoint that can be read; files ending in {', '.join(SUFFIXES)} are")
    if not path.stat().st_size:
        raise BadInputError(f"{path} is empty; copy or download it again")
    refuse_pointer(path)


def _near_files(path: Path) -> str:
    if not path.parent.is_dir():
        return f"nor does the folder {path.parent}"
    names = sorted(file.name for file in path.parent.iterdir() if file.suffix.lower() in SUFFIXES)
    near = difflib.get_close_matches(path.name, names, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"{path.parent} holds {', '.join(names[:3])}" if names else f"{path.parent} holds no checkpoint"


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        metadata, tensors = read_whole(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    if "snn_distill" in metadata:
        raise BadInputError(f"{path} is an SNN of this program, not a teacher; use: snn-distill eval {path}")
    return metadata, tensors


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # pickle protocols; timm's own checkpoints hold a Namespace
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle make the unpickler raise almost anything
        code = _code(path, str(error))
        if code:
            raise BadInputError(
                f"{path} holds more than weights ({code}) and will not be run as code; "
                "convert it to safetensors in the environment that made it"
            ) from error
        raise _damaged(path, error) from error


def _code(path: Path, refusal: str) -> str | None:
    """What the restricted unpickler met that would have to be run, by its message; None if nothing."""
    name = re.search(r"GLOBAL ([\w.]{1,100})", refusal)
    if name:
        return name[1]
    if "TorchScript" in refusal:
        return "a TorchScript program"
    with path.open("rb") as handle:  # 0x80 begins a pickle; torch's own have no operand that it refuses
        foreign = handle.read(1) == b"\x80" and "Unsupported operand" in refusal
    return "a pickle that torch did not write" if foreign else None


def _damaged(path: Path, error: Exception) -> BadInputError:
    if isinstance(error, PermissionError):
        return BadInputError(f"{path} may not be read; check its permissions")
    known = isinstance(error, RuntimeError | SafetensorError) and not isinstance(error, pickle.PickleError)
    detail = str(error).strip().splitlines()[0].split(". ")[0] if known and str(error).strip() else ""
    return BadInputError(
        f"{path} is damaged, or no checkpoint{f' ({detail})' if detail else ''}; copy or download it again"
    )


def _unwrapped(path: Path, content: Any) -> tuple[dict[str, Tensor], str | None]:
    """Follow the wrappers' keys down to the tensors, and return them and the keys.

    Raises:
        BadInputError: there are none where the keys end.
    """
    keys: list[str] = []
    while isinstance(content, Mapping):
        key = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            break
        keys.append(key)
        content = content[key]
    tensors = _named_tensors(content)
    if not tensors:
        where = f" under {'.'.join(keys)}" if keys else ""
        raise BadInputError(f"{path} holds no tensors by name{where} ({_instead(content)}); {_way_to_tensors(content)}")
    return tensors, ".".join(keys) or None


def _named_tensors(content: Any) -> dict[str, Tensor]:
    named = content.items() if isinstance(content, Mapping) else ()
    return {name: value for name, value in named if isinstance(name, str) and isinstance(value, Tensor)}


def _instead(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}"
    keys = [str(key)[:50] for key in content]
    return f"its keys are {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}" if keys else "it is empty"


def _way_to_tensors(content: Any) -> str:
    inner = content.items() if isinstance(content, Mapping) else ()
    nested = [str(key)[:50] for key, value in inner if _named_tensors(value)]
    if nested:
        return f"tensors lie under {nested[0]!r}: save that alone, or under the key 'state_dict'"
    return "give a file that holds a network's state_dict"
