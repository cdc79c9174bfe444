"""The rule book is a closed world and a value: what it does not know is refused by name."""

import pytest
import timm
import torch
from small_networks import Block
from timm.layers import activations, activations_me
from torch import fx, nn
from torch.nn import functional as F

from ann2snn_distill.conversion.network import partitioned
from ann2snn_distill.conversion.rules import Role, RuleBook
from ann2snn_distill.conversion.standard_rules import STANDARD_RULES
from ann2snn_distill.errors import UnsupportedModelError


class Net(nn.Module):
    """A network with one operation of the test's choice behind its first neuron."""

    def __init__(self, operation):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU()
        self.block = Block(operation)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(self.block(self.act(self.conv(x))).mean((2, 3)))


def refusal(model, **options):
    with pytest.raises(UnsupportedModelError) as error:
        partitioned(model, img_size=16, **options)
    assert error.value.exit_code == 4
    return str(error.value)


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        (nn.Softplus(), "no rule for Softplus at block.operation;"),
        (torch.cumsum, "no rule for cumsum at block;"),
        (lambda x: x.cumsum(1), "no rule for cumsum at block;"),
        (F.softshrink, "no rule for softshrink at block;"),
    ],
    ids=["module", "function", "method", "functional"],
)
def test_an_unknown_operation_is_refused_by_name(operation, text):
    if operation is torch.cumsum:
        operation = lambda x: torch.cumsum(x, 1)  # noqa: E731
    message = refusal(Net(operation))
    assert message.startswith(text)
    assert "choose another model, or extend the rule book (docs/design.md)" in message


def test_an_unknown_operation_at_the_top_says_so():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Softplus(), nn.Flatten())
    assert "no rule for Softplus at 2;" in refusal(model)

    class Top(nn.Module):
        def forward(self, x):
            return torch.cumsum(x.relu(), 1).mean((2, 3))

    assert "no rule for cumsum at the top level;" in refusal(Top())


def test_extending_gives_a_new_book_and_leaves_the_old_one():
    extended = STANDARD_RULES.extended(
        modules={nn.Softplus: Role.NEURON}, functions={torch.cumsum: Role.ANALOG}, methods={"cumsum": Role.ANALOG}
    )
    assert nn.Softplus not in STANDARD_RULES.modules
    assert torch.cumsum not in STANDARD_RULES.functions
    assert "cumsum" not in STANDARD_RULES.methods
    assert partitioned(Net(nn.Softplus()), img_size=16, rules=extended).sites.neuron_names() == (
        "act",
        "block_operation",
    )
    assert "no rule for Softplus" in refusal(Net(nn.Softplus()))
    assert extended.modules[nn.ReLU] is Role.NEURON


def test_an_extension_overrides():
    extended = STANDARD_RULES.extended(modules={nn.ReLU: Role.ANALOG, nn.Softplus: Role.NEURON})
    cut = partitioned(Net(nn.Softplus()), img_size=16, rules=extended)
    assert cut.sites.neuron_names() == ("block_operation",)


class NarrowConv(nn.Conv2d):
    """A convolution with a base class in between."""


class NarrowerConv(NarrowConv):
    """One further down."""


def role_of(module, rules):
    graph = fx.Graph()
    node = graph.call_module("0", (graph.placeholder("x"),))
    return rules.role(node, body=nn.Sequential(module), operands=1, path="0")


def test_the_nearest_base_class_wins():
    rules = RuleBook(
        modules={nn.Module: Role.SHAPE, NarrowConv: Role.ANALOG, nn.Conv2d: Role.SYNAPSE}, functions={}, methods={}
    )
    assert role_of(nn.Conv2d(1, 1, 1), rules) is Role.SYNAPSE
    assert role_of(NarrowConv(1, 1, 1), rules) is Role.ANALOG
    assert role_of(NarrowerConv(1, 1, 1), rules) is Role.ANALOG
    assert role_of(nn.Conv1d(1, 1, 1), rules) is Role.SHAPE


@pytest.mark.parametrize(
    ("operation", "role"),
    [
        (lambda x: x * 2.0, Role.SYNAPSE),
        (lambda x: x * x.mean((2, 3), keepdim=True), Role.ANALOG),
        (lambda x: torch.matmul(x, x), Role.ANALOG),
        (lambda x: x * x, Role.ANALOG),
        (lambda x: x / 3, Role.SYNAPSE),
        (lambda x: 3 / (x + 1), Role.ANALOG),
        (lambda x: x.div(x + 1), Role.ANALOG),
        (lambda x: x.mul(2), Role.SYNAPSE),
    ],
)
def test_a_product_is_a_synapse_of_one_operand_and_analog_of_two(operation, role):
    cut = partitioned(Net(operation), img_size=16)
    names = ("mul", "matmul", "truediv", "div")
    found = [found for node, found in cut.sites.roles.items() if node.name in names]
    assert found == [role]


TIMMS_ACTIVATIONS = [
    kind
    for file in (activations, activations_me)
    for kind in vars(file).values()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__ == file.__name__
]


@pytest.mark.parametrize("kind", TIMMS_ACTIVATIONS)
def test_every_activation_of_timms_becomes_a_neuron_but_for_gates(kind):
    sites = partitioned(Net(kind()), img_size=16).sites
    gate = kind.__name__ in ("Sigmoid", "Tanh", "HardSigmoid", "HardSigmoidMe")
    roles = [role for node, role in sites.roles.items() if node.target == "block.operation"]
    assert roles == [Role.ANALOG if gate else Role.NEURON]


def test_an_activation_that_timm_makes_of_a_name_becomes_neurons():
    named = timm.create_model("test_resnet", num_classes=10, act_layer="hard_mish")
    usual = timm.create_model("test_resnet", num_classes=10)
    assert len(partitioned(named, img_size=32).sites.neuron_names()) == len(
        partitioned(usual, img_size=32).sites.neuron_names()
    )


@pytest.mark.parametrize(
    "pad", [nn.ZeroPad2d(1), nn.ConstantPad2d(1, 0.0), nn.ReflectionPad2d(1), nn.ReplicationPad2d(1)]
)
def test_a_padding_moves_values(pad):
    sites = partitioned(Net(pad), img_size=16).sites
    assert sites.roles[next(node for node in sites.roles if node.target == "block.operation")] is Role.SHAPE


def test_a_relu_of_constants_is_no_neuron():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.randn(4, 1, 1))

        def forward(self, x):
            return x * F.relu(self.scale)

    assert partitioned(Net(Weighted()), img_size=16).sites.neuron_names() == ("act",)


def test_a_network_without_activations_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 10))
    assert "no activation that could become a neuron; give --coverage full, or choose another" in refusal(model)


def test_a_network_that_branches_on_values_is_refused():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    message = refusal(Net(Branching()))
    assert message.startswith("Net cannot be traced: ")
    assert message.endswith("choose another model")


def test_an_image_size_that_does_not_fit_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"does not run on 16 px images: .*; give another --img-size"):
        partitioned(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7, 10)), img_size=16)


@pytest.mark.parametrize("keywords", [{"momentum": None}, {"track_running_stats": False}])
def test_a_norm_without_plain_running_statistics_is_refused(keywords):
    message = refusal(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, **keywords), nn.ReLU()))
    assert message.startswith("1: a batch norm without running statistics")
