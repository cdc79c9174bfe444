"""By what a network's images are normalised: it belongs to the weights, and is kept in the files of teachers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ann2snn_distill.errors import BadInputError

_KEY = "snn_distill_normalisation"
_Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
_Deviation = Annotated[float, Field(allow_inf_nan=False, gt=0, le=1e6)]


class Normalisation(BaseModel):
    """Mean and standard deviation of images in 0..1, one of each a colour."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[_Number, _Number, _Number]
    std: tuple[_Deviation, _Deviation, _Deviation]

    def metadata(self) -> dict[str, str]:
        """Return what a safetensors file says of it."""
        return {_KEY: self.model_dump_json()}


def read_normalisation(path: Path, metadata: Mapping[str, str]) -> Normalisation | None:
    """Return the normalisation that the metadata of a file name; None where they name none.

    Raises:
        BadInputError: what they name is none.
    """
    if _KEY not in metadata:
        return None
    try:
        return Normalisation.model_validate_json(metadata[_KEY])
    except ValidationError as error:
        raise BadInputError(f"{path} is damaged: its normalisation is none; copy it again") from error
