"""The SNN written a second time: the ANN's own graph on the folded batch (T*B, ...), activation by activation."""

import torch
from torch import fx
from torch.nn import functional as F

from ann2snn_distill.conversion.encoders import two_sided
from ann2snn_distill.conversion.rules import Role


class PlainSnn(fx.Interpreter):
    """Runs every call on T*B rows, with torch's batch norm and a loop over time; differentiable by autograd.

    `values` holds the output of every data call site by name, `inputs` what each neuron and norm was given,
    `statistics` the running mean and variance of each norm as it leaves them; the student's own stay.
    """

    def __init__(self, student, timesteps, *, training):
        super().__init__(student.body, graph=student.network.sites.trace.graph)
        self.roles = student.network.sites.roles
        self.batch_axes = {node.name: axis for node, axis in student.network.sites.trace.batch_axes.items()}
        self.neurons, self.model = student.body.neurons, student.neuron
        self.timesteps, self.training = timesteps, training
        self.values, self.inputs, self.statistics = {}, {}, {}

    def run_node(self, n):
        role = self.roles.get(n)
        x = self.env[n.args[0]] if role in (Role.NEURON, Role.NORM) else None
        if role is Role.NEURON:
            result = self._fire(x, self.neurons[n.name])
            if n.target is two_sided:
                result = result - self._fire(-x, self.neurons[n.name])
        elif role is Role.NORM:
            result = self._normalise(x, n.target)
        else:
            result = super().run_node(n)
        if role is not None:
            self.values[n.name] = result
        if x is not None:
            self.inputs[n.name] = x
        return result

    def mean(self, value, axis=0):
        return value.unflatten(axis, (self.timesteps, -1)).mean(axis)

    def _fire(self, x, neuron):
        threshold, decay = neuron.threshold, self.model.decay if neuron.decay is None else neuron.decay
        membrane, emitted = self.model.v_init * threshold, []
        for current in x.unflatten(0, (self.timesteps, -1)):
            charged = decay * membrane + current
            soft = torch.sigmoid(4 / self.model.surrogate_width * (charged / threshold - 1))
            spike = (charged >= threshold).to(charged) + (soft - soft.detach())
            if self.model.reset == "hard":
                membrane = charged * (1 - spike)
            else:
                membrane = charged - threshold * (spike.detach() if self.model.reset == "soft-detached" else spike)
            emitted.append(threshold * spike)
        return torch.cat(emitted)

    def _normalise(self, x, path):
        norm = self.fetch_attr(path)
        mean, var = self.statistics[path] = norm.running_mean.clone(), norm.running_var.clone()
        return F.batch_norm(x, mean, var, norm.weight, norm.bias, self.training, norm.momentum, norm.eps)


def plain_snn(student, frames, timesteps, *, training):
    """Run a `PlainSnn` on frames (TB, ...); return it and its logits (T, B, K)."""
    run = PlainSnn(student, timesteps, training=training)
    logits = run.run(frames)
    return run, logits.unflatten(0, (timesteps, -1))
