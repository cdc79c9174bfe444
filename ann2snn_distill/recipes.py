"""The default recipe for each kind of data, in this one place; docs/experiments.md says what was measured for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ann2snn_distill.config import AutoAugmentName, ConvertSettings, FitSettings

SMALL_IMAGE = 64
"""Side up to which images are small, pixels."""

TINY_IMAGE = 16
"""Side up to which images are tiny, such as scanned digits; pixels."""

CROP_PADDING = 1 / 8
"""Padding of the random crop over the image's side, for images that stay on the device, whatever their side.

Streamed images take random resized crops.
"""

ALPHA = 0.5
"""Share of guidance in each branch's loss, the paper's."""

_FEW_IMAGES = 10_000
_REFERENCE_BATCH = 128


@dataclass(frozen=True)
class RandomStart:
    """What differs for a student that starts from random weights.

    Attributes:
        from_epochs: a student that has so many starts from random weights where that is left open; None for never.
        epochs: of distillation, where that is left open; None as for others.
        sgd_decay: weight decay of SGD; None as for others.
        patient_from: epochs from which a guided student learns by the next three, which are for long schedules.
        alpha: share of guidance.
        mixup: its beta parameter, beside cutmix.
        trained_with: timesteps of the training, by those of the SNN, where they are more.
    """

    from_epochs: int | None = None
    epochs: int | None = None
    sgd_decay: float | None = None
    patient_from: int = 0
    alpha: float = ALPHA
    mixup: float = 0.0
    trained_with: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """Defaults of one kind of data.

    Attributes:
        epochs: of distillation.
        teacher_epochs: of a teacher trained from scratch.
        tuning_epochs: of a teacher that starts from other weights.
        batch_size: images a step.
        sgd_lr: peak learning rate of SGD for 128 images a step; it grows in proportion.
        adamw_lr: the same for AdamW.
        sgd_decay: weight decay of SGD.
        adamw_decay: weight decay of AdamW.
        copied_lr: share of the learning rate for a student that starts from its teacher's weights, or a student's.
        random: what differs for a student that starts from random weights.
        aa: augmentation policy.
        cutout: side of the erased square over the image's side.
        cutmix: its beta parameter.
        mixup_prob: probability that a batch is mixed, where cutmix is on; mixup alone mixes all.
    """

    epochs: int
    teacher_epochs: int
    tuning_epochs: int
    batch_size: int
    sgd_lr: float
    adamw_lr: float
    sgd_decay: float
    adamw_decay: float
    copied_lr: float
    random: RandomStart
    aa: AutoAugmentName
    cutout: float
    cutmix: float
    mixup_prob: float = 1.0


FEW_TINY = Recipe(
    epochs=16, teacher_epochs=12, tuning_epochs=6, batch_size=32, sgd_lr=0.1, adamw_lr=5e-4, sgd_decay=5e-4,
    adamw_decay=0.05, copied_lr=1.0, random=RandomStart(), aa="none", cutout=0.0, cutmix=0.0,
)  # fmt: skip
"""Images up to 16 px, fewer than 10,000 of them: digits."""

SMALL = Recipe(
    epochs=300, teacher_epochs=300, tuning_epochs=100, batch_size=512, sgd_lr=0.1, adamw_lr=5e-4, sgd_decay=5e-4,
    adamw_decay=0.05, copied_lr=0.25, aa="cifar10", cutout=0.0, cutmix=1.0,
    random=RandomStart(
        from_epochs=250, epochs=600, sgd_decay=2.5e-4, patient_from=80, alpha=1.0, mixup=1.0, trained_with={2: 4}
    ),
)  # fmt: skip
"""Small images such as CIFAR's."""

FEW_SMALL = replace(
    SMALL, teacher_epochs=600, tuning_epochs=300, batch_size=128,
    random=replace(SMALL.random, from_epochs=600, sgd_decay=None),
)  # fmt: skip
"""Small images, fewer than 10,000 of them: as varied as many, and in smaller batches, for there are fewer steps."""

LARGE = Recipe(
    epochs=30, teacher_epochs=90, tuning_epochs=5, batch_size=64, sgd_lr=0.05, adamw_lr=2e-4, sgd_decay=1e-4,
    adamw_decay=0.05, copied_lr=1.0, random=RandomStart(), aa="none", cutout=0.0, cutmix=0.0,
)  # fmt: skip
"""Images above 64 px."""

FEW_LARGE = replace(LARGE, epochs=200, tuning_epochs=10, cutmix=1.0, mixup_prob=0.5)
"""Images above 64 px, fewer than 10,000 of them: more epochs, and images that vary more."""

_CLIPPED_UNDER_FULL = {"agc": 0.05, "norm": 1.0}

TUNING_LR = 0.1
"""Learning rate of fine-tuning over that of training from scratch."""


def recipe_for(*, img_size: int, images: int) -> Recipe:
    """Return the recipe of a data set with so many training images of that side (pixels), a batch of them at most."""
    few = images < _FEW_IMAGES
    if img_size > SMALL_IMAGE:
        recipe = FEW_LARGE if few else LARGE
    elif not few:
        recipe = SMALL
    else:
        recipe = FEW_TINY if img_size <= TINY_IMAGE else FEW_SMALL
    return recipe if images >= recipe.batch_size else replace(recipe, batch_size=max(images, 1))


def resolved_fit(settings: FitSettings, recipe: Recipe, *, img_size: int, cuda: bool) -> dict[str, object]:
    """Return what the recipe says for every fit setting left open; the recipe's batch for `auto`, to be cut later."""
    batch = settings.batch_size if isinstance(settings.batch_size, int) else recipe.batch_size
    sgd = settings.opt == "sgd"
    peak = (recipe.sgd_lr if sgd else recipe.adamw_lr) * batch * settings.grad_accum_steps / _REFERENCE_BATCH
    epochs, decay = recipe.epochs, recipe.sgd_decay
    cutmix = recipe.cutmix if settings.cutmix is None else settings.cutmix
    if isinstance(settings, ConvertSettings) and settings.init != "scratch":
        peak *= recipe.copied_lr
    elif isinstance(settings, ConvertSettings):
        epochs, decay = recipe.random.epochs or epochs, recipe.random.sgd_decay or decay
    defaults: dict[str, object] = {
        "epochs": epochs,
        "batch_size": batch,
        "lr": peak,
        "weight_decay": decay if sgd else recipe.adamw_decay,
        "warmup_epochs": 0.05 * (settings.epochs or epochs),
        "amp": cuda,
        "torchcompile": cuda,
        "cuda_graph": cuda,
        "aa": recipe.aa,
        "cutout": round(recipe.cutout * img_size),
        "mixup": recipe.random.mixup if cutmix and _is_patient(settings, recipe) else 0.0,
        "cutmix": cutmix,
        "mixup_prob": recipe.mixup_prob if cutmix else 1.0,
    }
    return {name: value for name, value in defaults.items() if getattr(settings, name) in (None, "auto")}


def _is_patient(settings: FitSettings, recipe: Recipe) -> bool:
    """Return whether a student learns from its teacher for so long that it may be left alone with it."""
    if not isinstance(settings, ConvertSettings) or (settings.method, settings.init) != ("hybrid", "scratch"):
        return False
    return (settings.epochs or recipe.random.epochs or recipe.epochs) >= recipe.random.patient_from


def resolved_guidance(settings: ConvertSettings, recipe: Recipe) -> dict[str, object]:
    """Return the share of guidance, if there is guidance and its share was left open.

    Over many epochs from random weights the teacher alone is the better target.
    """
    if settings.alpha is not None or settings.method != "hybrid":
        return {}
    return {"alpha": recipe.random.alpha if _is_patient(settings, recipe) else ALPHA}


def resolved_timesteps(settings: ConvertSettings, recipe: Recipe) -> dict[str, object]:
    """Return the timesteps of the training where they were left open and are to be more than those of the SNN.

    A student of two timesteps is better trained with four.
    """
    more = recipe.random.trained_with.get(settings.timesteps)
    if settings.train_timesteps is not None or more is None or not _is_patient(settings, recipe):
        return {}
    return {"train_timesteps": more}


def resolved_clip(settings: ConvertSettings) -> dict[str, object]:
    """Return what gradients are shortened to, if that was left open: a deep student's explode under full coverage."""
    if settings.clip_grad is not None or (settings.coverage != "full" and settings.clip_mode is None):
        return {}
    return {"clip_grad": _CLIPPED_UNDER_FULL[settings.clip_mode or "agc"], "clip_mode": settings.clip_mode or "agc"}


def resolved_init(
    settings: ConvertSettings, recipe: Recipe, *, same_network: bool, random_fits: Callable[[], bool]
) -> dict[str, object]:
    """Return where the student's weights start, if that was left open.

    The teacher's weights are ahead on short schedules, and random ones at the end of a long one.

    Args:
        settings: what was asked for.
        recipe: of the data.
        same_network: whether the teacher's weights fit the student.
        random_fits: whether the architecture is of the kind that was measured from random weights; asked if it matters.
    """
    if settings.init:
        return {}
    if not same_network:
        return {"init": "scratch"}
    enough = recipe.random.from_epochs
    long = enough is not None and (settings.epochs is None or settings.epochs >= enough)
    return {"init": "scratch" if long and random_fits() else "teacher"}


def resolved_equalize(settings: ConvertSettings, *, depthwise: bool) -> dict[str, object]:
    """Return whether copied weights are equalised, if that was left open.

    Args:
        settings: which say where the student starts.
        depthwise: whether the student has depthwise convolutions, whose channels differ most.
    """
    return {} if settings.equalize is not None else {"equalize": settings.init == "teacher" and depthwise}


_LIF_START = 0.25
"""The papers start at 0: then the first timesteps fire less, and at T = 4 it makes no difference."""

_NEURON_DEFAULTS: dict[str, dict[str, object]] = {
    "lif": {"decay": 0.2, "v_init": _LIF_START, "reset": "soft-detached", "surrogate_width": 1.0},
    "if": {"decay": 1.0, "v_init": 0.5, "reset": "soft", "surrogate_width": 0.5},
}


def resolved_neuron(settings: ConvertSettings, found: Mapping[str, object] | None = None) -> dict[str, object]:
    """Return what is to be taken for every parameter of the neuron that was left open.

    Args:
        settings: what was asked for.
        found: the neuron of the student to go on from, by the settings' names.
    """
    name = settings.neuron or (found or {}).get("neuron") or settings.neuron_name
    own = _NEURON_DEFAULTS[str(name)] if found is None or found["neuron"] != name else found
    defaults = {**own, "neuron": name}
    return {name: value for name, value in defaults.items() if getattr(settings, name) is None}
