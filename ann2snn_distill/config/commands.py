"""Settings of the commands that train nothing of their own: batch, inspect, bench, eval."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from ann2snn_distill.config.arguments import ModelKwargs
from ann2snn_distill.config.kinds import AmpDtypeName, Frozen, HomePath, NameOrPath, NeuronName, Percent, Positive


class BatchSettings(Frozen):
    """Everything `batch` can be told; the settings of the runs stand in its file."""

    runs: HomePath = Field(
        description="the runs: [defaults], [[run]] and [[grid]], with the keys of convert's --config"
    )
    output: HomePath | None = Field(None, description="folder of the batch (default: runs/NAME of NAME.toml)")
    jobs: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="runs at once (default: one a device of --devices, otherwise 1)"
    )
    devices: str | None = Field(None, description="CUDA devices to spread the runs over, as 0,1")
    retry_failed: bool = Field(False, description="run again what failed before")


class InspectSettings(Frozen):
    """Everything `inspect` can be told: no data, no weights, no training."""

    model: NameOrPath | None = Field(None, description="timm name, hf-hub:org/name, or a student.safetensors")
    all: bool = Field(False, description="one model of each of timm's families, at its own image side")
    img_size: Annotated[int, Field(ge=8, le=1024)] | None = Field(
        None, description="image side, pixels (default: the model's own)"
    )
    model_kwargs: ModelKwargs = Field(default_factory=dict, description="keyword arguments for timm, as a=1,b=2")
    stem: Literal["auto", "keep", "small"] = Field(
        "auto", description="small: no stride before the first stage (auto: for 64 px or less)"
    )
    classes: Positive = Field(10, description="classes of the head")
    timesteps: Annotated[int, Field(ge=1, le=1024)] = Field(
        4, description="timesteps T at which memory and operations of the training are estimated"
    )
    batch_size: Positive | None = Field(
        None, description="images a step of that training (default: 64 above 64 px, else 512)"
    )
    coverage: Literal["activations", "full"] = Field("activations", description="where neurons stand")
    maxpool: Literal["keep", "avg"] = Field("keep", description="what becomes of max pooling on spikes")
    strict: Percent | None = Field(
        None, description="exit 4 if spikes drive a smaller share of the operations, percent"
    )


def _listed(pattern: str, wanted: str) -> AfterValidator:
    """Refuse a text that `pattern` does not describe, with words for people."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise PydanticCustomError("listed", "{wanted}", {"wanted": wanted})
        return value

    return AfterValidator(check)


_Counts = Annotated[str, _listed(r"[1-9][0-9]{0,5}(,[1-9][0-9]{0,5})*", "whole numbers of at least 1")]
_Methods = Annotated[str, _listed(r"(hybrid|rate|bptt|ann)(,(hybrid|rate|bptt|ann))*", "hybrid, rate, bptt or ann")]


class BenchSettings(Frozen):
    """Everything `bench` can be told: random weights and images, so that only speed is measured."""

    model: str = Field(description="timm name, or hf-hub:org/name")
    timesteps: _Counts = Field("2,4,8,16", description="numbers of timesteps T, separated by commas")
    batch_size: _Counts = Field("128", description="images a step, numbers separated by commas")
    method: _Methods = Field("hybrid,rate,bptt,ann", description="methods, separated by commas")
    steps: Annotated[int, Field(ge=1, le=100_000)] = Field(20, description="timed steps of each, after warm-up")
    dataset: NameOrPath | None = Field(None, description="data whose batches are timed, too: a name or a folder")
    data_dir: HomePath | None = Field(None, description="where the data lie (default: data/ in the cache)")
    workers: Annotated[int, Field(ge=0, le=256)] = Field(4, description="processes that decode streamed images")
    img_size: Annotated[int, Field(ge=8, le=1024)] | None = Field(
        None, description="image side, pixels (default: the model's own)"
    )
    classes: Positive = Field(10, description="classes of the head")
    model_kwargs: ModelKwargs = Field(default_factory=dict, description="keyword arguments for timm, as a=1,b=2")
    stem: Literal["auto", "keep", "small"] = Field(
        "auto", description="small: no stride before the first stage (auto: for 64 px or less)"
    )
    neuron: NeuronName = Field("lif", description="neuron model")
    branches: str = Field("auto", description="auto, none, or names of cuts and paths of modules, separated by commas")
    sampled_branches: bool = Field(False, description="each image takes one of the branches, and not all: cheaper")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    amp: bool | None = Field(None, description="autocast (default: on a GPU)")
    amp_dtype: AmpDtypeName = Field("bfloat16", description="autocast's type")
    torchcompile: bool | None = Field(None, description="compile the step (default: on a GPU)")
    cuda_graph: bool | None = Field(
        None, description="record the step once and replay it from a CUDA graph (default: on a GPU)"
    )

    @property
    def timestep_counts(self) -> tuple[int, ...]:
        """The numbers in `timesteps`, each once."""
        return tuple(dict.fromkeys(int(part) for part in self.timesteps.split(",")))

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The numbers in `batch_size`, each once."""
        return tuple(dict.fromkeys(int(part) for part in self.batch_size.split(",")))

    @property
    def methods(self) -> tuple[Literal["hybrid", "rate", "bptt", "ann"], ...]:
        """The names in `method`, each once."""
        return tuple(dict.fromkeys(self.method.split(",")))  # type: ignore[arg-type]


class EvalSettings(Frozen):
    """Everything `eval` can be told; what is not given comes from the file's header."""

    checkpoint: HomePath = Field(description="student.safetensors, as convert writes it")
    dataset: NameOrPath | None = Field(None, description="another data set name or folder (default: the file's)")
    data_dir: HomePath | None = Field(None, description="where the data lie (default: data/ in the cache)")
    timesteps: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="timesteps T (default: the file's)"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    batch_size: Positive | None = Field(None, description="images a batch (default: the file's)")
    skip_bad_images: bool = Field(False, description="leave out image files that cannot be read, and name them")
    workers: Annotated[int, Field(ge=0, le=256)] = Field(4, description="processes that decode streamed images")
