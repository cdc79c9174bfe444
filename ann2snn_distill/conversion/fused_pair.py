"""Both programs of a stage with norms and residual sums inside their neuron's operation (neurons/fused.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx

from ann2snn_distill.conversion.fusion import Drive, DriveTerm
from ann2snn_distill.conversion.norms import norm_module, norm_state
from ann2snn_distill.neurons.fused import Term, affine_by_batch, affine_by_running, observe_terms
from ann2snn_distill.neurons.norm import NormRecord
from ann2snn_distill.neurons.rate import norm_eval_rate, norm_train_rate

if TYPE_CHECKING:
    from ann2snn_distill.conversion.programs import Pair


@dataclass
class FusedPair:
    """Writes neurons by their drives, and leaves every other call site to the plain pair.

    Attributes:
        plain: the pair whose graphs are written.
        drives: neuron -> its drive.
    """

    plain: Pair
    drives: dict[fx.Node, Drive]

    def __post_init__(self) -> None:
        self._absorbed = {node for drive in self.drives.values() for node in drive.absorbed}

    def emit(self, node: fx.Node) -> None:
        """Add a call site to both graphs; one that runs inside a neuron's operation is added with the neuron."""
        if node in self.drives:
            self._neuron(node, self.drives[node])
        elif node not in self._absorbed:
            self.plain.emit(node)

    def _neuron(self, node: fx.Node, drive: Drive) -> None:
        time, rate = self.plain.time, self.plain.rate
        maps = [self._map(term) for term in drive.terms]
        terms = tuple(
            Term(time.data(term.source), None if mapped is None else time.item(mapped, 0), time.is_static(term.source))  # type: ignore[arg-type]
            for term, mapped in zip(drive.terms, maps, strict=True)
        )
        threshold = time.threshold(node)
        model = time.model(node, self.plain.neuron)
        result = time.call(observe_terms, (terms, threshold, time.timesteps), {"model": model})
        self.plain.define_neuron(node, result)
        inputs, norms = time.item(result, 2), {}
        for index, (term, mapped) in enumerate(zip(drive.terms, maps, strict=True)):
            if term.norm is not None and mapped is not None:
                norms[term.norm] = (time.item(inputs, index), time.item(mapped, 1), time.item(mapped, 2))
        for inner in drive.absorbed:
            if inner in norms:
                self._answer_norm(inner, norms[inner])
            else:
                rate.copy(inner, cheap=True)
        self.plain.answer_neuron(node, time.item(result, 1))

    def _map(self, term: DriveTerm) -> fx.Node | None:
        """Add the call that gives a norm's map, mean and 1 / deviation."""
        if term.norm is None:
            return None
        time = self.plain.time
        module, state = norm_module(time.sites, term.norm), norm_state(time, term.norm)
        if not self.plain.training:
            return time.call(affine_by_running, (state,), {"eps": module.eps})
        options: dict[str, Any] = {
            "static": time.is_static(term.source), "eps": module.eps, "momentum": module.momentum,
        }  # fmt: skip
        return time.call(affine_by_batch, (time.data(term.source), state, time.timesteps), options)

    def _answer_norm(self, norm: fx.Node, fields: tuple[fx.Node, fx.Node, fx.Node]) -> None:
        rate = self.plain.rate
        (source,) = rate.sites.data_inputs(norm)
        record = NormRecord(*(self.plain.record(field) for field in fields))  # type: ignore[arg-type]
        answered = norm_train_rate if self.plain.training else norm_eval_rate
        rate.define(norm, rate.call(answered, (rate.data(source), norm_state(rate, norm), record)), cheap=True)
