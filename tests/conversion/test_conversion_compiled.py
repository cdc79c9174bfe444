"""A compiler finds every convolution of the rate pass's forward dead, and changes no gradient."""

import pytest
import torch
from functorch.compile import make_boxed_func
from small_networks import NETWORKS, SMALL, images, labels, spiking
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.nn import functional as F

from ann2snn_distill.distillation.objectives import RateObjective

T = 2
LARGE = [name for name in NETWORKS if name not in SMALL]


class Recorder:
    """A backend that keeps the forward and the backward graph and runs them as they are."""

    def __init__(self):
        self.forward, self.backward = [], []
        self.backend = aot_autograd(fw_compiler=self._keep(self.forward), bw_compiler=self._keep(self.backward))

    def _keep(self, graphs):
        def compiler(module, _):
            graphs.append([node.target for node in module.graph.nodes if node.op == "call_function"])
            return make_boxed_func(module.forward)

        return compiler

    def count(self, graphs, *names):
        return sum(str(target).split(".")[1] in names for graph in graphs for target in graph if "aten." in str(target))


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function, recorder):
    return torch.compile(function, backend=recorder.backend, fullgraph=True, dynamic=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_no_convolution_of_the_rate_passs_forward_survives(name):
    student, x, target = spiking(name, SMALL.get(name)), images(), labels()
    parameters = list(student.body.parameters())
    records = student.in_training.observe(x, T)

    def loss(x, records):
        return F.cross_entropy(student.in_training.rate(x, T, records)[-1], target)

    plain = loss(x, records)
    wanted = torch.autograd.grad(plain, parameters)
    recorder = Recorder()
    value = compiled(loss, recorder)(x, records)
    found = torch.autograd.grad(value, parameters)

    convolutions = sum(isinstance(module, nn.Conv2d) for module in student.body.modules())
    assert len(recorder.forward) == len(recorder.backward) == 1
    assert recorder.count(recorder.forward, "convolution", "mm", "addmm") == 1  # the logits', never recorded
    assert recorder.count(recorder.backward, "convolution") == 0
    assert recorder.count(recorder.backward, "convolution_backward") == convolutions
    torch.testing.assert_close(value, plain, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9 * float(theirs.norm()) + 1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_compiled_objective_equals_the_plain_one_without_a_graph_break():
    found = []
    for wrap in (lambda objective: objective, lambda objective: compiled(objective, Recorder())):
        student, x, target = spiking("test_resnet"), images(), F.one_hot(labels(), 10).double()
        objective = RateObjective(student.in_training, T)
        loss = wrap(lambda x, target, objective=objective: objective(x, target)["loss"])(x, target)
        gradients = torch.autograd.grad(loss, list(student.body.parameters()))
        found.append((loss.detach(), *gradients, *student.body.buffers()))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_count_sees_a_convolution_that_is_alive():
    student, x = spiking("test_resnet"), images()
    recorder = Recorder()
    stage = student.in_training.unrolls[0].unroll
    compiled(lambda x: stage(student.body, x, 1)[0].sum(), recorder)(x)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in student.body.conv1.modules())
    assert recorder.count(recorder.forward, "convolution") == convolutions == 3
