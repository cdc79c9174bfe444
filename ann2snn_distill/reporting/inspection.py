"""What `inspect` finds out about a network without data, weights or training."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ann2snn_distill.reporting.report import CoverageResult

Role = Literal["neuron", "synapse", "norm", "analog", "shape"]

_Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class StageFate(_Part):
    """One stage: the network between two cuts."""

    name: str
    path: str = Field(description="module whose output is the cut")
    channels: _Count
    reduction: Annotated[int, Field(ge=1)] | None = Field(
        description="image side over feature side; null where features have no sides"
    )
    parameters: _Count
    neurons: _Count = Field(description="neuron layers in the stage")
    branch: bool = Field(description="whether a hybrid branch stands at the cut by default")


class LayerFate(_Part):
    """One call site: what it is in the ANN and what becomes of it in the SNN."""

    name: str
    path: str = Field(description="the module's path, or the function's node")
    kind: str = Field(description="type in the ANN, such as Conv2d")
    role: Role
    stage: str
    binary_input: bool | None = Field(None, description="whether spikes alone drive it; null if no synapse")
    macs: _Count | None = Field(None, description="multiply-accumulates for one image and timestep")


class Inspection(_Part):
    """The fate of every layer of a network, printed by `inspect`."""

    model: str
    img_size: Annotated[int, Field(ge=1)]
    classes: Annotated[int, Field(ge=1)]
    parameters: _Count
    stages: tuple[StageFate, ...]
    layers: tuple[LayerFate, ...]
    coverage: CoverageResult
    share_after_first: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="spiking share of all layers but those that read the image"
    )
    product_macs: _Count = Field(0, description="of matrix products of two activations, apart from the total")
    warnings: tuple[str, ...] = ()
