"""Settings that can work, but not as somebody would expect who gives them."""

from collections.abc import Iterator

from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.teacher import LoadedNetwork

_OF_GUIDANCE = ("alpha", "beta", "temperature", "branches", "projection_init", "projection_lr", "sampled_branches")


def doubts(settings: ConvertSettings, loaded: LoadedNetwork) -> Iterator[str]:
    """Give a sentence on every resolved setting that does not suit the others, or changes nothing.

    Args:
        settings: resolved.
        loaded: the teacher, before any training of it.
    """
    if settings.neuron == "lif" and settings.coverage == "full":
        yield (
            "--coverage full encodes analog values, and a lif neuron is almost all or none for a constant current; "
            "--neuron if has T + 1 levels"
        )
    if settings.teacher_epochs and loaded.trained:
        yield (
            f"--teacher-epochs {settings.teacher_epochs} changes nothing: {loaded.source} has the data's classes and "
            "is taken as it is; `snn-distill teach` trains on from it"
        )
    if settings.method != "hybrid":
        yield from _without_effect(settings, _OF_GUIDANCE, f"--method {settings.method} has no guidance")
    if not (settings.cutmix or settings.mixup):
        yield from _without_effect(settings, ("mixup_off_epoch",), "no batch is mixed")


def _without_effect(settings: ConvertSettings, names: tuple[str, ...], reason: str) -> Iterator[str]:
    given = [name for name in names if getattr(settings, name) != ConvertSettings.model_fields[name].default]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        yield f"{reason}: {flags} {'changes' if len(given) == 1 else 'change'} nothing"
