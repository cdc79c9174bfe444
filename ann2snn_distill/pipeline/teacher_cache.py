"""Trained teachers in the cache: one file each, named by what determines its weights, and its training's states."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn

from ann2snn_distill.config import FitSettings, NetworkSettings
from ann2snn_distill.data.batches import Augmentation
from ann2snn_distill.data.datasets import Dataset, cache_dir
from ann2snn_distill.events import Caution, Observer
from ann2snn_distill.files import file_digest, remove_leftovers, write_atomically
from ann2snn_distill.teacher import LoadedNetwork
from ann2snn_distill.teacher.normalisation import Normalisation
from ann2snn_distill.tensorfile import read_whole, tensors_digest
from ann2snn_distill.training.resume import ResumeFolder

_KEY = "snn_distill_teacher"
_CHECKSUM_KEY = "checksum"
_RECIPE_VERSION = 2
"""Raised when the training of teachers or the decoding of images changes: cached ones are trained again."""


@dataclass(frozen=True)
class Taught:
    """A teacher that knows the data set; `path` is its file if it was trained here."""

    network: LoadedNetwork
    path: Path | None
    epochs: int
    seconds: float


def cached_path(
    settings: NetworkSettings,
    fit_settings: FitSettings,
    dataset: Dataset,
    loaded: LoadedNetwork,
    *,
    epochs: int,
    augmentation: Augmentation,
    given: Mapping[str, float],
) -> Path:
    """Return the file of a teacher, named by everything that determines its weights.

    Args:
        settings: which network, from which weights, and the seed.
        fit_settings: resolved; how it is trained.
        dataset: what it has to know.
        loaded: the network before that.
        epochs: of the training.
        augmentation: of its images.
        given: what was asked for in place of the recipe's optimisation.
    """
    determined_by = {
        "recipe": _RECIPE_VERSION,
        "model": loaded.name,
        "kwargs": loaded.model_kwargs,
        "stem": loaded.stem,
        "source": loaded.source,
        "checkpoint": None if settings.checkpoint is None else file_digest(settings.checkpoint, "--checkpoint"),
        "data": dataset.fingerprint,
        "mean": loaded.mean,
        "seed": settings.seed,
        "epochs": epochs,
        "batch": fit_settings.batch_size,
        "accumulation": fit_settings.grad_accum_steps,
        "amp": "float16" if fit_settings.amp and fit_settings.amp_dtype == "float16" else fit_settings.amp,
        "augmentation": repr(augmentation),
    }
    # these came later: teachers that were trained without them keep their names
    if fit_settings.opt != "sgd":
        determined_by["opt"] = fit_settings.opt
    mixing = augmentation.mixup_prob, augmentation.mixup_off_epoch
    if augmentation.mixes and mixing != (1.0, 0):
        determined_by["mixing"] = mixing
    determined_by |= given
    text = json.dumps(determined_by, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    name = f"{loaded.name.replace('/', '_').replace(':', '_')}-{dataset.name}-{digest}"
    return cache_dir() / "teachers" / f"{name}.safetensors"


def read_cached(path: Path, loaded: LoadedNetwork, observe: Observer) -> Taught | None:
    """Return the teacher kept in `path`, its weights loaded into `loaded`; None if there is none that is whole.

    A file without a checksum is of an earlier release. It is taken, since a run that was interrupted under it would
    go on under another teacher otherwise; that damage cannot be noticed is said.
    """
    if not path.exists():
        return None
    try:
        metadata, tensors = read_whole(path)
        summary: dict[str, Any] = json.loads(metadata[_KEY])
        _check(metadata, tensors, loaded.module)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        observe(Caution(f"the cached teacher {path} is damaged ({error}); it is trained again"))
        return None
    if _CHECKSUM_KEY not in metadata:
        observe(
            Caution(f"the cached teacher {path} has no checksum; if it may be damaged, remove it to train it again")
        )
    loaded.module.load_state_dict(tensors)
    network = replace(loaded, module=loaded.module.eval(), source=summary["source"], trained=True)
    return Taught(network, path, summary["epochs"], summary["seconds"])


def _check(metadata: dict[str, str], tensors: dict[str, Tensor], module: nn.Module) -> None:
    if _CHECKSUM_KEY in metadata and metadata[_CHECKSUM_KEY] != tensors_digest(metadata[_KEY], tensors):
        raise ValueError("its checksum does not match")
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    if shapes != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ValueError("its tensors are those of another network")


def write_cached(path: Path, taught: Taught) -> None:
    """Keep a trained teacher, whose module is on the CPU, in `path`."""
    summary = {"source": taught.network.source, "epochs": taught.epochs, "seconds": taught.seconds}
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().clone() for name, tensor in taught.network.module.state_dict().items()}
    text = json.dumps(summary)
    normalised = Normalisation(mean=taught.network.mean, std=taught.network.std).metadata()
    content = save(tensors, metadata={_KEY: text, _CHECKSUM_KEY: tensors_digest(text, tensors), **normalised})
    remove_leftovers(path.parent, path.name)
    write_atomically(path, lambda target: target.write_bytes(content))


def resume_folder(path: Path) -> ResumeFolder:
    """Return where the training of the teacher in `path` keeps its states."""
    return ResumeFolder(path.with_suffix(".resume"), identity={"teacher": path.stem})
