"""A timm model as a chain of stages: the ANN itself, and the base on which an SNN is built."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx, nn

from ann2snn_distill.conversion.emit import Program
from ann2snn_distill.conversion.full import with_full_coverage
from ann2snn_distill.conversion.partition import Stage, partition
from ann2snn_distill.conversion.rules import Kind, RuleBook
from ann2snn_distill.conversion.sites import Sites, find_sites
from ann2snn_distill.conversion.standard_rules import STANDARD_RULES
from ann2snn_distill.conversion.trace import trace


@dataclass(frozen=True)
class Partitioned:
    """A canonical network with its call sites and stages; `body` owns all parameters."""

    sites: Sites
    stages: tuple[Stage, ...]

    @property
    def body(self) -> nn.Module:
        """The canonical network."""
        return self.sites.trace.body


def partitioned(
    model: nn.Module,
    *,
    img_size: int,
    rules: RuleBook = STANDARD_RULES,
    full_coverage: bool = False,
    cuts: Sequence[str] = (),
    spiking: bool = True,
) -> Partitioned:
    """Trace a timm model and cut it at its `feature_info` and at the ends of the modules named in `cuts`.

    Args:
        model: the network; it is copied, never changed.
        img_size: image side, pixels.
        rules: what each operation is to an SNN.
        full_coverage: whether to insert neurons wherever a synapse would read analog values.
        cuts: module paths in any order; cuts that are there anyway may be among them.
        spiking: whether it is to be a student, each of whose stages must hold a neuron; a teacher's need not.

    Raises:
        UnsupportedModelError: it cannot be traced, or holds an operation without a rule.
        UsageError: there can be no cut at a module of `cuts`.
    """
    sites = find_sites(trace(model, img_size=img_size, is_leaf=rules.is_leaf), rules)
    if full_coverage:
        sites = with_full_coverage(sites)
    stages = partition(
        sites, feature_paths=_feature_paths(model), stem_path=_stem_path(model), cuts=cuts, spiking=spiking
    )
    return Partitioned(sites, stages)


class StagedAnn(nn.Module):
    """An ANN that runs stage by stage; equal to the model it was made from, bit for bit.

    Attributes:
        network: what it was made from.
        body: owner of the parameters.
        stages: the stages, the last one named "head".
    """

    def __init__(self, network: Partitioned):
        super().__init__()
        self.network = network
        self.body = network.body
        self.stages = network.stages
        self._programs = tuple(_stage_function(network.sites, stage) for stage in network.stages)

    def run_stage(self, index: int, x: Tensor) -> Tensor:
        """Return the output of stage `index` for its input `x`."""
        result: Tensor = self._programs[index](self.body, x)
        return result

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of images (B, 3, H, W)."""
        for index in range(len(self.stages)):
            x = self.run_stage(index, x)
        return x

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the output of every stage; the last is the logits."""
        outputs = []
        for index in range(len(self.stages)):
            x = self.run_stage(index, x)
            outputs.append(x)
        return tuple(outputs)


def _stage_function(sites: Sites, stage: Stage) -> Program:
    graph = fx.Graph()
    values = {stage.input: graph.placeholder("x")}

    def lookup(node: fx.Node) -> fx.Node:
        if node not in values and sites.kinds[node] is Kind.CONSTANT:
            values[node] = graph.node_copy(node, lookup)
        return values[node]

    for node in stage.nodes:
        if node not in values:
            values[node] = graph.node_copy(node, lookup)
    graph.output(values[stage.output])
    return Program(graph)


def _feature_paths(model: nn.Module) -> tuple[str, ...]:
    info = getattr(model, "feature_info", None) or []
    entries = getattr(info, "info", info)
    return tuple(entry["module"] for entry in entries)


def _stem_path(model: nn.Module) -> str:
    configuration = getattr(model, "pretrained_cfg", None) or {}
    path = configuration.get("first_conv") or ""
    return path if isinstance(path, str) else path[0]
