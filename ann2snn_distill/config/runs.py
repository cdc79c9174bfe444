"""Settings of a training: what is loaded, how it is fitted, and what `convert` and `teach` do with it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ann2snn_distill.config.arguments import ModelKwargs
from ann2snn_distill.config.kinds import (
    AmpDtypeName,
    AutoAugmentName,
    BatchSize,
    Choice,
    Fraction,
    Frozen,
    HomePath,
    Interval,
    Method,
    NameOrPath,
    NeuronName,
    OptimizerName,
    Percent,
    Positive,
    ResetName,
    Scale,
    Start,
)

CONFIG_FILE = "config.toml"
"""Where the settings of a run lie in its folder, as `--config` takes them."""


class NetworkSettings(Frozen):
    """What is loaded and how it meets the data: shared by convert, teach, inspect and bench."""

    model: str = Field(description="timm name, or hf-hub:org/name")
    dataset: NameOrPath | None = Field(None, description="data set name, or a folder with train/ and val/ or test/")
    data_dir: HomePath | None = Field(None, description="where the data lie (default: data/ in the cache)")
    download: bool = Field(False, description="fetch a data set that torchvision knows")
    img_size: Annotated[int, Field(ge=8, le=1024)] | None = Field(None, description="image side, pixels")
    model_kwargs: ModelKwargs = Field(default_factory=dict, description="keyword arguments for timm, as a=1,b=2")
    stem: Literal["auto", "keep", "small"] = Field(
        "auto", description="small: no stride before the first stage (auto: for 64 px or less)"
    )
    pretrained: bool | None = Field(
        None, description="start the teacher from timm's weights (default: for images above 64 px)"
    )
    checkpoint: HomePath | None = Field(None, description="the teacher's weights, .safetensors or .pth")
    checkpoint_match: Literal["name", "order"] = Field("name", description="how the file's tensors find the model's")
    skip_bad_images: bool = Field(False, description="leave out image files that cannot be read, and name them")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="seed of every random choice")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    workers: Annotated[int, Field(ge=0, le=256)] = Field(4, description="processes that decode streamed images")
    limit: Positive | None = Field(None, description="the first N training images after a seeded shuffle")
    val_split: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of train held out for tuning")


class FitSettings(Frozen):
    """Optimisation and augmentation, as timm names them: for the student, and for the teacher by `teacher_*`."""

    epochs: Positive | None = Field(None, description="epochs of distillation (default: by data set and start)")
    teacher_epochs: Positive | None = Field(
        None, description="epochs to train or fine-tune the teacher (default: by data set)"
    )
    batch_size: BatchSize | None = Field(
        None, description="images a step; auto cuts the default's into pieces that fit in memory (default: by data set)"
    )
    lr: Annotated[float, Field(gt=0)] | None = Field(
        None, description="peak learning rate (default: by optimiser, batch size and start)"
    )
    weight_decay: Annotated[float, Field(ge=0)] | None = Field(
        None, description="decay of weights, none on norms and biases (default: by optimiser and start)"
    )
    opt: OptimizerName = Field("sgd", description="optimiser, of a teacher that is trained first, too")
    warmup_epochs: Annotated[float, Field(ge=0)] | None = Field(
        None, description="epochs of linear warm-up (default: 5 percent)"
    )
    grad_accum_steps: Positive = Field(1, description="steps whose gradients are summed before an update")
    amp: bool | None = Field(None, description="autocast (default: on a GPU)")
    amp_dtype: AmpDtypeName = Field("bfloat16", description="autocast's type")
    torchcompile: bool | None = Field(None, description="compile the step (default: on a GPU)")
    cuda_graph: bool | None = Field(
        None, description="record the step once and replay it from a CUDA graph (default: on a GPU)"
    )
    deterministic: bool = Field(False, description="deterministic algorithms, slower")
    aa: AutoAugmentName | None = Field(None, description="augmentation policy (default: by data set)")
    cutout: Annotated[int, Field(ge=0)] | None = Field(
        None, description="side of the erased square, pixels (default: by data set)"
    )
    mixup: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="mixup's beta parameter, 0 is off; in convert the student's (default: by data, start and epochs)",
    )
    cutmix: Annotated[float, Field(ge=0)] | None = Field(
        None, description="cutmix's beta parameter, 0 is off (default: by data set)"
    )
    mixup_prob: Fraction | None = Field(
        None, description="probability that a batch is mixed, where mixup or cutmix is on (default: by data set)"
    )
    mixup_off_epoch: Annotated[int, Field(ge=0)] = Field(
        0, description="epochs after which no batch is mixed any more, 0 is never"
    )
    smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="label smoothing")
    model_ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="decay of the weights' moving average a step, 0 is off; at the end it gets statistics of its own",
    )
    checkpoint_interval: Interval = Field(
        "5m", description="between states written for a resume: 2 is epochs, 5m is minutes"
    )


class ConvertSettings(NetworkSettings, FitSettings):
    """Everything `convert` can be told."""

    timesteps: Annotated[int, Field(ge=1, le=1024)] = Field(4, description="timesteps T of the SNN")
    train_timesteps: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None,
        description="timesteps that the SNN is trained with, T or more (default: T; from random weights over 80 epochs "
        "or more of small images 4 for T = 2)",
    )
    student: str | None = Field(None, description="another timm architecture for the SNN")
    output: HomePath | None = Field(None, description="output folder (default: runs/MODEL-DATASET-tT-N)")
    overwrite: bool = Field(False, description="replace what a non-empty output folder holds")
    method: Method = Field("hybrid", description="hybrid guidance, rate without guidance, or bptt")
    quantized_epochs: Annotated[int, Field(ge=0)] = Field(
        0, description="of --epochs the first so many train the ANN with the T+1 levels of its neurons' rates"
    )
    finish_epochs: Annotated[int, Field(ge=0)] = Field(
        0, description="of --epochs the last so many are trained through time, by a loss at every timestep"
    )
    neuron: NeuronName | None = Field(
        None, description="neuron model (default: lif; if under full coverage, where analog values are encoded)"
    )
    decay: Fraction | None = Field(None, description="membrane kept per timestep (default: lif 0.2, if 1)")
    stage_decays: str | None = Field(
        None, description="decays of whole stages of lif neurons, as act1=1,layer1=0.5 (default: --decay)"
    )
    learn_decay: Choice = Field(
        None, description="train a decay for each layer of lif neurons, from --decay on (default: no)"
    )
    threshold: Scale | None = Field(
        None,
        description="firing threshold of activations (default: calibrated; from random weights 1 behind a batch norm)",
    )
    v_init: Annotated[float, Field(ge=-10, lt=1)] | None = Field(
        None, description="initial membrane, in thresholds (default: lif 0.25, if 0.5)"
    )
    reset: ResetName | None = Field(None, description="reset (default: lif soft-detached, if soft)")
    surrogate_width: Scale | None = Field(
        None, description="width of the surrogate slope, in thresholds (default: lif 1, if 0.5)"
    )
    init: Start | None = Field(
        None,
        description="where the student's weights start: teacher, scratch, or a student.safetensors to go on from "
        "(default: teacher, if it has the teacher's architecture; scratch for convolutions with batch norms, small "
        "images and 250 epochs or more)",
    )
    equalize: bool | None = Field(
        None,
        description="rescale the teacher's weights so that one threshold a layer suits all of its channels "
        "(default: where convolutions are depthwise)",
    )
    alpha: Fraction | None = Field(
        None,
        description="share of guidance in each branch's loss (default: 0.5, or 1 by data, start and epochs)",
    )
    branches: str = Field("auto", description="auto, none, or names of cuts and paths of modules, separated by commas")
    projection_init: Literal["fitted", "random"] = Field(
        "fitted", description="projections of the branches start as the fit of the teacher's features, or random"
    )
    projection_lr: Scale = Field(1.0, description="learning rate of the projections over that of the student")
    sampled_branches: bool = Field(False, description="each image takes one of the branches, and not all: cheaper")
    beta: Literal["uniform", "decay"] = Field("uniform", description="weights of the branches")
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="temperature of guidance")
    coverage: Literal["activations", "full"] = Field("activations", description="where neurons stand")
    maxpool: Literal["keep", "avg"] = Field("keep", description="what becomes of max pooling on spikes")
    clip_grad: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="what the student's gradients are shortened to, 0 is off (default: off, under full coverage 0.05)",
    )
    clip_mode: Literal["norm", "agc"] | None = Field(
        None,
        description="norm: of all gradients together; agc: of each channel's over its weights' "
        "(default: norm, under full coverage agc)",
    )
    sam: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="radius of sharpness-aware minimisation, 0 is off: a step goes by the gradient so far uphill of "
        "the weights; a quarter of its images, taken first, say which way that is",
    )
    val_interval: Positive = Field(1, description="epochs between accuracies on the held-out share; the last has one")
    resume: NameOrPath | None = Field(None, description="auto, or the output folder of the run to go on with")
    min_accuracy: Percent | None = Field(None, description="gate: the student's top-1, percent")
    max_drop: Annotated[float, Field(ge=-100, le=100)] | None = Field(
        None, description="gate: teacher minus student, points"
    )

    @property
    def neuron_name(self) -> NeuronName:
        """The neuron, its default filled in: a leaky one is almost all or none, and codes no analog value."""
        return self.neuron or ("if" if self.coverage == "full" else "lif")

    @property
    def trained_timesteps(self) -> int:
        """The timesteps of the training, of which the SNN runs the first."""
        return self.train_timesteps or self.timesteps

    @property
    def started_from(self) -> Path | None:
        """The file of the student that this one goes on from."""
        return None if self.init in (None, "teacher", "scratch") else Path(str(self.init))

    @model_validator(mode="after")
    def _consistent(self) -> "ConvertSettings":
        if self.neuron_name == "if" and self.decay not in (None, 1.0):
            raise ValueError("decay belongs to lif, as an if neuron keeps its whole membrane; give --neuron lif")
        for name in ("learn_decay", "stage_decays"):
            if self.neuron_name == "if" and getattr(self, name):
                raise ValueError(f"{name} belongs to lif, as an if neuron keeps its whole membrane; give --neuron lif")
        if self.sam and self.amp_dtype == "float16":
            raise ValueError("sam has no way back from a float16 gradient that overflows; give --amp-dtype bfloat16")
        if self.trained_timesteps < self.timesteps:
            raise ValueError(
                f"train_timesteps {self.train_timesteps} is fewer than the {self.timesteps} timesteps of the SNN; "
                f"give {self.timesteps} or more, or fewer timesteps"
            )
        if self.learn_decay and self.decay in (0.0, 1.0):
            raise ValueError("learn_decay starts strictly between 0 and 1; give another decay")
        if self.resume is not None and self.overwrite:
            raise ValueError("resume and overwrite exclude each other; give one of them")
        return self


class TeachSettings(NetworkSettings, FitSettings):
    """Everything `teach` can be told."""

    epochs: Positive | None = Field(None, description="the same as --teacher-epochs")
    model_ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="decay of the moving average of weights and running statistics a step, 0 is off"
    )
    output: HomePath | None = Field(None, description="folder of the trained teacher (default: the cache)")
    overwrite: bool = Field(False, description="replace what a non-empty output folder holds")
