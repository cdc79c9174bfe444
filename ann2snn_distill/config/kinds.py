"""Kinds of values that settings have, with their units and bounds, and the base of every settings model."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

Method = Literal["hybrid", "rate", "bptt"]
NeuronName = Literal["lif", "if"]
ResetName = Literal["soft", "soft-detached", "hard"]
OptimizerName = Literal["sgd", "adamw"]
AmpDtypeName = Literal["bfloat16", "float16"]
AutoAugmentName = Literal["none", "cifar10", "imagenet", "rand", "trivial"]

Fraction = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Positive = Annotated[int, Field(ge=1)]
Scale = Annotated[float, Field(gt=0, le=1e6)]
"""A threshold, or a width: as settings and as the header of a file may have it."""


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _checked_interval(value: str) -> str:
    number = re.fullmatch(r"([1-9]\d*)|(\d+(\.\d+)?)m", value)
    if number is None or (number[2] and float(number[2]) == 0):
        raise PydanticCustomError("interval", "neither epochs nor minutes")
    return value


Interval = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_checked_interval)]
"""`2`: every second epoch; `5m`: every five minutes, in the middle of an epoch too."""


def _checked_batch(value: int | str) -> int | str:
    if value == "auto":
        return value
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise PydanticCustomError("batch", "no number of images")
    return number


BatchSize = Annotated[int | str, AfterValidator(_checked_batch)]
"""A number of images, or `auto`."""

HomePath = Annotated[Path, AfterValidator(lambda path: Path(os.path.expanduser(path)))]
"""A path whose leading `~` is the home folder: in a file of settings, and after `=`, no shell puts that there."""

NameOrPath = Annotated[str, AfterValidator(os.path.expanduser)]
"""A name, or such a path; no name begins with `~`."""


def _checked_start(value: str) -> str:
    if value not in ("teacher", "scratch") and not value.endswith(".safetensors"):
        raise PydanticCustomError("start", "no start of a student")
    return value


Start = Annotated[NameOrPath, AfterValidator(_checked_start)]
"""`teacher`, `scratch`, or the .safetensors file of a student."""

Choice = Annotated[bool | None, AfterValidator(lambda chosen: chosen or None)]
"""A flag whose no is the same as not giving it: a run without it is the run that it was before there was the flag."""


class Frozen(BaseModel):
    """Base of every settings model: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
