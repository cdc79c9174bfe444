"""Everything that training moves, as named tensors that are only ever written in place.

In place, because a captured step knows the tensors by address; and by name, because a restart reads them back.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from ann2snn_distill.training.gradients import Clip, go_uphill

MOMENTUM = 0.9

_LEAST_SCALE = 1.0
"""Gradients that overflow even without a scale will do so for ever: halving it further would hide a divergence."""


@dataclass(frozen=True)
class TrainState:
    """The trained modules, their optimiser, and the moving average of the first module's weights.

    Attributes:
        modules: name -> module; the first is the network that is evaluated.
        optimizer: its states exist from the start, so that nothing appears later.
        average: name -> averaged tensor of the first module's state; empty when off.
        average_decay: share of the average kept per update.
        clip: what gradients are shortened to before an update, or None.
        radius: of sharpness-aware minimisation (Foret et al. 2021, arXiv 2010.01412), 0 without: how far uphill the
            gradient is taken by which the weights move.
        scaler: of float16's gradients, or None. It halves its scale and leaves the weights alone where a gradient is
            not finite, and doubles it after 2,000 steps without one, all on the device and without waiting for it.
    """

    modules: dict[str, nn.Module]
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    average_decay: float
    scaler: GradScaler | None = None
    clip: Clip | None = None
    radius: float = 0.0

    @property
    def network(self) -> nn.Module:
        """The module that is evaluated."""
        return next(iter(self.modules.values()))

    def set_learning_rate(self, value: float) -> None:
        """Write the learning rate of every group, its share of `value`, in place and without a device sync."""
        for group in self.optimizer.param_groups:
            group["lr"].fill_(value * group["share"])

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss that is differentiated: times the scale of the gradients, if there is one."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    @contextmanager
    def uphill(self) -> Iterator[None]:
        """Let the network have weights that lie `radius` along its gradients, which are dropped.

        On leaving, it has its own weights and statistics again, to the last bit.
        """
        live = [tensor for _, tensor in _floating(self.network)]
        saved = [tensor.clone() for tensor in live]
        go_uphill([p for p in self.network.parameters() if p.grad is not None], self.radius)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            yield
        finally:
            torch._foreach_copy_(live, saved)

    def update(self) -> None:
        """Move the weights by their gradients, which `scaled` has scaled, at most `clip` long; adapt the scale."""
        if self.clip is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            self.clip.shorten([p for group in self.optimizer.param_groups for p in group["params"]])
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)  # a fused optimiser skips on the device, so that nothing waits for it
            self.scaler.update()

    def update_average(self) -> None:
        """Move the average towards the network's weights and statistics."""
        if self.average:
            live = dict(_floating(self.network))
            targets = [live[name] for name in self.average]
            torch._foreach_lerp_(list(self.average.values()), targets, 1 - self.average_decay)

    def evaluated(self) -> dict[str, Tensor]:
        """Return copies of the network's tensors as they are evaluated: the average's if it is on."""
        tensors = {name: tensor.detach().clone() for name, tensor in _tensors(self.network)}
        tensors.update({name: tensor.clone() for name, tensor in self.average.items()})
        return tensors

    @contextmanager
    def as_evaluated(self) -> Iterator[None]:
        """Let the network have, in place, the weights that `evaluated` gives; its own again on leaving."""
        live = {name: tensor for name, tensor in _floating(self.network) if name in self.average}
        saved = {name: tensor.clone() for name, tensor in live.items()}
        try:
            _write(live, self.average)
            yield
        finally:
            _write(live, saved)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that training moves, by a unique name; not copies."""
        found: dict[str, Tensor] = {}
        names: dict[nn.Parameter, str] = {}
        for prefix, module in self.modules.items():
            for name, tensor in _tensors(module):
                found[f"{prefix}.{name}"] = tensor
            names.update({parameter: f"{prefix}.{name}" for name, parameter in module.named_parameters()})
        for parameter, name in names.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"optimizer.{key}.{name}"] = value
        found.update({f"average.{name}": tensor for name, tensor in self.average.items()})
        return found | self._scale()

    def is_finite(self) -> bool:
        """Return whether everything is finite, and the gradients are at some scale; waits for the device."""
        finite = [tensor.isfinite().all() for tensor in self.tensors().values()]
        scale = self._scale().get("scaler.scale")
        return bool(torch.stack(finite).all()) and (scale is None or scale.item() >= _LEAST_SCALE)

    def _scale(self) -> dict[str, Tensor]:
        if self.scaler is None:
            return {}
        scale, growth = self.scaler._scale, self.scaler._growth_tracker  # its state_dict has copies, not tensors
        assert scale is not None
        assert growth is not None
        return {"scaler.scale": scale, "scaler.growth": growth}

    def snapshot(self) -> dict[str, Tensor]:
        """Return copies of `tensors()`."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors().items()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Write a snapshot back in place.

        Raises:
            KeyError: the snapshot lacks a tensor.
        """
        _write(self.tensors(), saved)


def train_state(
    modules: dict[str, nn.Module],
    *,
    opt: Literal["sgd", "adamw"],
    weight_decay: float,
    average_decay: float = 0.0,
    scaled: bool = False,
    clip: Clip | None = None,
    radius: float = 0.0,
    shares: Mapping[str, float] = MappingProxyType({}),
) -> TrainState:
    """Build the optimiser (no weight decay on norms and biases) and the moving average.

    Args:
        modules: name -> module; parameters that need no gradient are left alone.
        opt: sgd (momentum 0.9, Nesterov) or adamw.
        weight_decay: of weights with two dimensions or more.
        average_decay: 0 switches the average off.
        scaled: whether gradients are float16's, and so the loss is scaled for them.
        clip: what gradients are shortened to, or None.
        radius: of sharpness-aware minimisation; 0 without.
        shares: name of a module -> its learning rate over that of the others.
    """
    trained = {name: [p for p in module.parameters() if p.requires_grad] for name, module in modules.items()}
    parameters = [p for members in trained.values() for p in members]
    device = parameters[0].device
    groups = [
        {
            "params": some,
            "weight_decay": decay,
            "share": shares.get(name, 1.0),
            "lr": torch.zeros((), device=device),
        }
        for name, members in trained.items()
        for some, decay in (
            ([p for p in members if p.ndim > 1], weight_decay),
            ([p for p in members if p.ndim <= 1], 0.0),
        )
        if some
    ]
    if opt == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True, fused=True)
    else:
        optimizer = torch.optim.AdamW(groups, fused=True, capturable=device.type == "cuda")
    for parameter in parameters:
        optimizer.state[parameter] = _fresh_state(parameter, opt)
    network = next(iter(modules.values()))
    average = {name: value.detach().clone() for name, value in _floating(network)} if average_decay else {}
    return TrainState(modules, optimizer, average, average_decay, _scaler(device) if scaled else None, clip, radius)


def _scaler(device: torch.device) -> GradScaler:
    scaler = GradScaler(device.type)
    scaler.scale(torch.zeros((), device=device))  # its tensors would appear in the first step, and in its capture
    return scaler


def _fresh_state(parameter: Tensor, opt: str) -> dict[str, Tensor]:
    if opt == "sgd":
        return {"momentum_buffer": torch.zeros_like(parameter)}
    return {
        "step": torch.zeros((), device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


def _write(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(values[name])


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _floating(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, tensor.detach()) for name, tensor in _tensors(module) if tensor.is_floating_point())
