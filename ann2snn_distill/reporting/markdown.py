"""report.md: the report for people, the same numbers as report.json."""

from collections.abc import Iterable, Sequence

from ann2snn_distill.reporting.report import EnergyResult, LayerResult, Report


def to_markdown(report: Report) -> str:
    """Write `report` as Markdown; a section whose content was not measured says so."""
    sections = [
        _headline(report),
        _section("Accuracy at every timestep", _timesteps(report)),
        _section("Branches", _branches(report)),
        _section("Spiking coverage", _coverage(report)),
        _section("Energy", _energy(report.energy)),
        _section("Training", _training(report)),
        _section("Warnings", "\n".join(f"- {text}" for text in report.warnings) or "None."),
        _section("Layers", _layers(report.layers)),
        _section("Versions", _table(("what", "version"), report.versions.items())),
    ]
    return "\n\n".join(sections) + "\n"


def _headline(report: Report) -> str:
    rows = (
        ("teacher (ANN)", report.model, _percent(report.teacher.top1), report.teacher.source or ""),
        ("student (SNN)", report.student.model, _percent(report.student.top1), f"T = {report.timesteps}"),
        ("drop", "", f"{_number(report.drop, '.2f')} points", "teacher minus student"),
    )
    how = f"method {report.method or '-'}, neuron {report.neuron}, seed {_number(report.seed, 'd')}"
    return (
        f"# {report.student.model} as a spiking network on {report.dataset}\n\n"
        f"{_table(('', 'model', 'top-1, test split', ''), rows)}\n\n"
        f"T = {report.timesteps}, {how}, measured on {report.device}."
    )


def _timesteps(report: Report) -> str:
    rows = ((t, _percent(top1)) for t, top1 in report.student.top1_at.items())
    return _table(("t", "student, top-1"), rows)


def _branches(report: Report) -> str:
    if report.branches is None:
        return "Not measured."
    if not report.branches:
        return "None: the student was trained without branches."
    rows = ((b.name, _percent(b.top1), _number(b.cosine, ".4f")) for b in report.branches)
    return _table(("cut", "top-1 of the branch", "cosine of student and teacher features"), rows)


def _coverage(report: Report) -> str:
    covered = report.coverage
    if covered.share is None:
        return "Not measured."
    return (
        f"Spikes drive {100 * covered.share:.2f} % of the multiply-accumulates: "
        f"{_number(covered.spiking_macs)} of {_number(covered.total_macs)}. "
        "The rest has analog inputs."
    )


def _energy(energy: EnergyResult) -> str:
    if energy.ann_mj is None or energy.snn_mj is None:
        return "Not measured."
    constants = ", ".join(f"{name} {value:g} pJ" for name, value in (energy.constants or {}).items())
    ratio = energy.snn_mj / energy.ann_mj if energy.ann_mj > 0 else float("inf")
    verdict = (
        f"The SNN takes {ratio:.3g} times the ANN's energy."
        if ratio < 1
        else f"**The SNN loses**: it takes {ratio:.3g} times the ANN's energy."
    )
    rows = [(f"{energy.ann_mj:.4g}", f"{energy.snn_mj:.4g}")]
    return (
        f"{_table(('ANN, mJ an image', 'SNN, mJ an image'), rows)}\n\n{verdict} "
        f"An estimate from operation counts alone ({constants or 'no constants'}), without memory traffic."
    )


def _training(report: Report) -> str:
    cost = report.training
    rows = (
        ("epochs", _number(cost.epochs)),
        ("images a second", _number(cost.images_per_second, ",.0f")),
        ("seconds", _number(cost.seconds, ",.1f")),
        ("peak memory, MiB", _number(cost.peak_memory_mib, ",.0f")),
    )
    return _table(("what", "value"), rows)


def _layers(layers: tuple[LayerResult, ...] | None) -> str:
    if layers is None:
        return "Not measured."
    rows = (
        (
            f"`{layer.name}`",
            layer.role,
            _number(layer.firing_rate, ".4f"),
            {True: "binary", False: "analog", None: "-"}[layer.binary_input],
            _number(layer.macs),
            _number(layer.synops, ",.0f"),
        )
        for layer in layers
    )
    columns = ("layer", "role", "firing rate", "input", "multiply-accumulates", "synaptic operations")
    return _table(columns, rows)


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_escape(str(cell)) for cell in line) + " |" for line in lines)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %"


def _number(value: float | None, form: str = ",") -> str:
    return "-" if value is None else format(value, form)
