"""What `inspect` finds out about a network without data, weights or training."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ann2snn_distill.reporting.report import CoverageResult

Role = Literal["neuron", "synapse", "norm", "analog", "shape"]

_Count = Annotated[int, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]


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
    binary_input: bool | None = Field(None, description="whether spikes alone drive it; null if it has no weights")
    macs: _Count | None = Field(None, description="multiply-accumulates for one image and timestep")


class TrainingCost(_Part):
    """What a step of the guided training would take on a GPU: compiled, in bfloat16, with the default branches."""

    timesteps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = Field(description="images a step")
    memory_mib: Annotated[float, Field(gt=0)] = Field(description="peak of a step, by estimate, MiB")
    gflop_per_image: Annotated[float, Field(ge=0)] = Field(
        description="of convolutions and linear layers, teacher and branches included, 10^9 floating-point operations"
    )


class Inspection(_Part):
    """The fate of every layer of a network, printed by `inspect`."""

    model: str
    img_size: Annotated[int, Field(ge=1)]
    classes: Annotated[int, Field(ge=1)]
    parameters: _Count
    stages: tuple[StageFate, ...]
    layers: tuple[LayerFate, ...]
    coverage: CoverageResult
    placement: Literal["activations", "full"] = Field(
        "activations", description="where neurons stand, as --coverage names it"
    )
    share_after_first: _Share | None = Field(
        None, description="spiking share of all layers but those that read the image"
    )
    product_macs: _Count = Field(0, description="of matrix products of two activations, apart from the total")
    training: TrainingCost | None = Field(None, description="what a training step would take; null if not estimated")
    warnings: tuple[str, ...] = ()


class CoveredFate(_Part):
    """How spiking a family's network is under one coverage."""

    neurons: _Count = Field(description="neuron layers")
    share: _Share = Field(description="multiply-accumulates that spikes drive, over all")
    share_after_first: _Share = Field(description="the same without the layers that read the image")


class FamilyFate(_Part):
    """One network of a family of timm's: what it becomes, or why it is refused."""

    family: str = Field(description="module of timm.models")
    model: str = Field(description="the network that stands for it")
    refused: str | None = Field(None, description="the reason; then nothing else is known")
    img_size: Annotated[int, Field(ge=1)] | None = Field(None, description="the model's own image side, pixels")
    parameters: _Count | None = None
    total_macs: _Count | None = Field(
        None, description="of convolutions, linear and recurrent layers, an image and timestep"
    )
    product_macs: _Count | None = Field(None, description="of products of two activations, apart from the total")
    branches: tuple[str, ...] = Field((), description="cuts at which hybrid branches stand by default")
    activations: CoveredFate | None = Field(None, description="a neuron for each activation")
    full: CoveredFate | None = Field(None, description="neurons wherever a synapse would read analog values")


class Families(_Part):
    """One network of each of timm's families, printed by `inspect --all`."""

    timm: str = Field(description="version")
    families: tuple[FamilyFate, ...]

    @property
    def converted(self) -> tuple[FamilyFate, ...]:
        """Those that are not refused."""
        return tuple(fate for fate in self.families if fate.refused is None)
