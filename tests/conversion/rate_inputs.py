"""What the rate program computes at every call site, before a record answers for it."""

from torch import fx

from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.neurons.rate import answer, neuron_rate, norm_eval_rate, norm_train_rate

NORMS = (norm_train_rate, norm_eval_rate)


class RateRun(fx.Interpreter):
    """Runs a stage's rate graph and keeps every value; `replaced` puts other functions in place of its own."""

    def __init__(self, student, program, replaced):
        super().__init__(student.body, graph=program.graph)
        self.replaced = replaced
        self.values, self.neuron_inputs, self.norm_inputs, self.answers = {}, [], [], {}

    def run_node(self, n):
        result = super().run_node(n)
        self.values[n.name] = result
        if n.target is answer:
            self.answers[n.args[0].name] = result
        return result

    def call_function(self, target, args, kwargs):
        if target is neuron_rate:
            self.neuron_inputs.append(args[0])
        elif target in NORMS:
            self.norm_inputs.append(args[0])
        return super().call_function(self.replaced.get(target, target), args, kwargs)


def rate_values(student, x_B, records, *, training, replaced=None):
    """Return the rate pass's value at every site by name, and its logits.

    A neuron and a norm stand for their input, computed by the convolutions on rates; an operation that does not
    commute with the mean stands for its answer; a synapse for its output before any record answers for it.
    """
    programs = student.in_training if training else student.in_inference
    found = {}
    for stage, pair, recorded in zip(programs.stages, programs.pairs, records, strict=True):
        run = RateRun(student, pair.rate, replaced or {})
        x_B = run.run(x_B, recorded)
        neurons, norms = iter(run.neuron_inputs), iter(run.norm_inputs)
        for node in stage.nodes:
            role = student.network.sites.roles.get(node)
            if role is Role.NEURON:
                found[node.name] = next(neurons)
            elif role is Role.NORM:
                found[node.name] = next(norms)
            elif role is Role.ANALOG and node in student.network.sites.trace.shapes:
                found[node.name] = run.answers[node.name]
            elif role is Role.SYNAPSE:
                found[node.name] = run.values[node.name]
        assert not [*neurons, *norms]
    return found, x_B


def site_errors(found, plain):
    """Return, by site, the largest error relative to the largest value of the plain SNN's mean over time.

    Where silent neurons leave nothing but zeros, the error is absolute.
    """
    errors = {}
    for name, value in found.items():
        expected = plain.mean(plain.inputs.get(name, plain.values[name]), plain.batch_axes[name])
        assert value.shape == expected.shape, name
        largest = float(expected.abs().max())
        errors[name] = float((value - expected).abs().max()) / (largest or 1.0)
    return errors
