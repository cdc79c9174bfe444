"""The report of a run: the schema of report.json, which scripts may rely on.

Every key exists from the first release; null stands for what was not measured.
Accuracies are percentages of the test split, shares and rates lie between 0 and 1.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

FORMAT_VERSION = 1

_ROUNDING = 1e-9
"""Points that a difference of two percentages may be off by; one image of a million is 1e-4."""

_Percent = Annotated[float, Field(ge=0, le=100)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    """Base of the report's parts: immutable, closed, finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class TeacherResult(_Part):
    """The ANN: its accuracy and where its weights come from."""

    top1: _Percent | None = Field(None, description="percent of the test split")
    source: str | None = Field(None, description="how the teacher came to know the data set")


class StudentResult(_Part):
    """The SNN: its accuracy at T and, from the same run, at every t <= T."""

    model: str = Field(description="timm architecture")
    top1: _Percent | None = Field(None, description="percent of the test split, at T")
    top1_at: dict[str, _Percent] = Field(default_factory=dict, description="percent, by timestep")


class BranchResult(_Part):
    """One guided stage: the accuracy of its hybrid branch, and how near its features are."""

    name: str
    top1: _Percent | None = Field(None, description="percent of the test split")
    cosine: Annotated[float, Field(ge=-1.0001, le=1.0001)] | None = Field(
        None, description="mean cosine of the student's and the teacher's features"
    )


class CoverageResult(_Part):
    """Which share of the multiply-accumulates has binary inputs."""

    spiking_macs: _Count | None = None
    total_macs: _Count | None = None
    share: _Share | None = None


class LayerResult(_Part):
    """One call site of the student, for one image."""

    name: str
    role: str
    firing_rate: Annotated[float, Field(ge=0)] | None = Field(
        None, description="share of active values a timestep: of a neuron's output, of a synapse's input"
    )
    binary_input: bool | None = None
    macs: _Count | None = Field(None, description="multiply-accumulates of the ANN layer")
    synops: Annotated[float, Field(ge=0)] | None = Field(
        None, description="accumulates that spikes cause, over all timesteps; each spike of an averaged window counts"
    )


class EnergyResult(_Part):
    """An estimate per image, from operation counts alone: no memory traffic, no idle power."""

    ann_mj: Annotated[float, Field(ge=0)] | None = Field(None, description="millijoules")
    snn_mj: Annotated[float, Field(ge=0)] | None = Field(None, description="millijoules")
    constants: dict[str, float] | None = Field(None, description="picojoules an operation")


class TrainingResult(_Part):
    """The cost of the distillation."""

    epochs: _Count | None = None
    images_per_second: Annotated[float, Field(ge=0)] | None = None
    seconds: Annotated[float, Field(ge=0)] | None = None
    peak_memory_mib: Annotated[float, Field(ge=0)] | None = None


class Report(_Part):
    """What `convert` and `eval` found; `model` is the teacher's architecture."""

    format_version: int = FORMAT_VERSION
    model: str
    student: StudentResult
    dataset: str
    timesteps: Annotated[int, Field(ge=1)]
    method: str | None
    neuron: str
    seed: int | None
    versions: dict[str, str]
    device: str
    teacher: TeacherResult = TeacherResult()
    drop: float | None = Field(None, description="teacher minus student, points")
    branches: tuple[BranchResult, ...] | None = None
    coverage: CoverageResult = CoverageResult()
    layers: tuple[LayerResult, ...] | None = None
    energy: EnergyResult = EnergyResult()
    training: TrainingResult = TrainingResult()
    warnings: tuple[str, ...] = ()

    def keeps_drop(self, limit: float) -> bool:
        """Return whether the drop was measured and is `limit` points at most."""
        return self.drop is not None and self.drop <= limit + _ROUNDING


def dumps(report: Report) -> str:
    """Write `report` as JSON: keys in the schema's order, two spaces of indent, a newline at the end."""
    return report.model_dump_json(indent=2) + "\n"
