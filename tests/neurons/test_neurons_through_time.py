"""A neuron over time fires as the equations say, and its gain is BPTT's for a shift common to all timesteps."""

import pytest
import torch

from ann2snn_distill.neurons.equations import IF, LIF, surrogate_slope
from ann2snn_distill.neurons.pairs import observe_pair, unroll_pair
from ann2snn_distill.neurons.temporal import observe_neuron, unroll_neuron

EXACT = {"rtol": 1e-12, "atol": 1e-12}
MODELS = {"lif": LIF, "if": IF}

each_model = pytest.mark.parametrize("name", MODELS)
each_reset = pytest.mark.parametrize("reset", ["soft", "soft-detached", "hard"])
each_threshold = pytest.mark.parametrize("threshold", [0.3, 1.0, 2.5])
each_length = pytest.mark.parametrize("timesteps", [1, 2, 4, 8])


def currents(timesteps, *shape, threshold=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = 0.8 * threshold
    return scale * torch.randn(timesteps, *shape, generator=generator, dtype=torch.float64) + 0.4 * threshold


def number(value):
    return torch.tensor(value, dtype=torch.float64)


@each_model
@each_reset
@each_threshold
@each_length
def test_gain_is_bptt_for_a_shift_common_to_all_timesteps(by_autograd, name, reset, threshold, timesteps):
    model = MODELS[name]._replace(reset=reset, surrogate_width=1.3)
    current_TB = currents(timesteps, 3, 50, threshold=threshold)
    shift = torch.zeros(3, 50, dtype=torch.float64, requires_grad=True)
    rate = by_autograd(current_TB + shift, number(threshold), model).mean(0)
    (gain,) = torch.autograd.grad(rate.sum(), shift)

    _, record = observe_neuron(current_TB.flatten(0, 1), number(threshold), timesteps, static=False, model=model)

    assert 0.05 < rate.mean() < 0.95
    torch.testing.assert_close(record.value_B, threshold * rate.detach(), **EXACT)
    torch.testing.assert_close(record.slope_B, threshold * gain, **EXACT)


@each_model
@each_reset
@each_threshold
@each_length
@pytest.mark.parametrize("static", [False, True])
def test_slope_by_the_decay_is_bptts(by_autograd, name, reset, threshold, timesteps, static):
    model = MODELS[name]._replace(reset=reset, surrogate_width=1.3, decay=number(0.6))
    current_TB = currents(1 if static else timesteps, 3, 50, threshold=threshold)
    decay_B = torch.full((3, 50), 0.6, dtype=torch.float64, requires_grad=True)
    moving_TB = current_TB.expand(timesteps, -1, -1)
    rate = by_autograd(moving_TB, number(threshold), model._replace(decay=decay_B)).mean(0)
    (slope_B,) = torch.autograd.grad(threshold * rate.sum(), decay_B)

    _, record = observe_neuron(current_TB.flatten(0, 1), number(threshold), timesteps, static=static, model=model)

    assert slope_B.any() == (timesteps > 1 or model.v_init != 0)
    torch.testing.assert_close(record.value_B, threshold * rate.detach(), **EXACT)
    torch.testing.assert_close(record.decay_slope_B, slope_B, **EXACT)


@each_reset
def test_the_unrolled_gradient_by_the_decay_is_autograds_through_time(by_autograd, reset):
    threshold, decays = number(0.7), [number(0.6).requires_grad_() for _ in range(2)]
    models = [LIF._replace(reset=reset, v_init=0.2, decay=decay) for decay in decays]
    current_TB = currents(4, 60, seed=2)
    weight_TB = torch.randn(4, 60, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    emitted = unroll_neuron(current_TB.flatten(), threshold, 4, static=False, model=models[0]).view(4, 60)
    expected = threshold * by_autograd(current_TB, threshold, models[1])
    (emitted * weight_TB).sum().backward()
    (expected * weight_TB).sum().backward()
    assert decays[1].grad != 0
    torch.testing.assert_close(decays[0].grad, decays[1].grad, **EXACT)


@each_reset
def test_a_pairs_slope_by_the_decay_is_bptts(reset):
    """One decay for both neurons, and the off neuron counts negatively."""
    decay, threshold = number(0.6).requires_grad_(), number(0.7)
    model, current = LIF._replace(reset=reset, v_init=0.2, decay=decay), currents(4, 60, seed=2).flatten()
    emitted = unroll_pair(current, threshold, 4, static=False, model=model)
    (wanted,) = torch.autograd.grad(emitted.view(4, 60).mean(0).sum(), decay)
    _, record = observe_pair(current, threshold, 4, static=False, model=model._replace(decay=decay.detach()))
    assert wanted != 0
    torch.testing.assert_close(record.decay_slope_B.sum(), wanted, **EXACT)


def test_nothing_is_recorded_for_a_decay_that_is_a_number():
    _, record = observe_neuron(currents(4, 60).flatten(), number(1.0), 4, static=False, model=LIF)
    assert record.decay_slope_B is None


@each_model
@each_reset
@each_threshold
@each_length
def test_unrolled_neuron_fires_like_a_loop_over_numbers(by_numbers, name, reset, threshold, timesteps):
    model = MODELS[name]._replace(reset=reset)
    current_TB = currents(timesteps, 40, threshold=threshold, seed=1)
    emitted = unroll_neuron(current_TB.flatten(), number(threshold), timesteps, static=False, model=model)
    expected = [by_numbers(train, threshold, model) for train in current_TB.T.tolist()]
    assert torch.equal(emitted.view(timesteps, 40), threshold * torch.tensor(expected, dtype=torch.float64).T)
    observed, _ = observe_neuron(current_TB.flatten(), number(threshold), timesteps, static=False, model=model)
    assert torch.equal(observed, emitted)


@each_model
@each_reset
@each_length
def test_unrolled_gradient_is_autograds_through_time(by_autograd, name, reset, timesteps):
    model, threshold = MODELS[name]._replace(reset=reset), number(0.7)
    current_TB = currents(timesteps, 60, seed=2).requires_grad_()
    weight_TB = torch.randn(timesteps, 60, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    emitted = unroll_neuron(current_TB.flatten(), threshold, timesteps, static=False, model=model)
    (found,) = torch.autograd.grad((emitted.view(timesteps, 60) * weight_TB).sum(), current_TB)
    expected = threshold * by_autograd(current_TB, threshold, model)
    (wanted,) = torch.autograd.grad((expected * weight_TB).sum(), current_TB)
    torch.testing.assert_close(found, wanted, **EXACT)


@each_model
@each_reset
def test_a_static_current_stands_for_equal_timesteps(name, reset):
    model, threshold = MODELS[name]._replace(reset=reset), number(0.9)
    current_B = currents(1, 5, 7)[0]
    moving = torch.cat([current_B] * 6)
    static_out, static = observe_neuron(current_B, threshold, 6, static=True, model=model)
    moving_out, moved = observe_neuron(moving, threshold, 6, static=False, model=model)
    assert torch.equal(static_out, moving_out)
    assert torch.equal(static.value_B, moved.value_B)
    assert torch.equal(static.slope_B, moved.slope_B)
    assert torch.equal(unroll_neuron(current_B, threshold, 6, static=True, model=model), moving_out)


@pytest.mark.parametrize("timesteps", [1, 2, 4, 8, 16])
def test_if_rounds_a_constant_current_to_its_levels(timesteps):
    current = torch.linspace(-0.5, 1.5, 4001, dtype=torch.float64) + 1e-6
    _, record = observe_neuron(current, number(1.0), timesteps, static=True, model=IF)
    rounded = (timesteps * current + 0.5).floor().clamp(0, timesteps) / timesteps
    torch.testing.assert_close(record.value_B, rounded, **EXACT)
    assert len(record.value_B.unique()) == timesteps + 1


@pytest.mark.parametrize(("name", "error"), [("if", 0.071), ("lif", 0.383)])
def test_rate_errors_are_those_of_the_method_page(name, error):
    current = 0.5 * torch.randn(400_000, generator=torch.Generator().manual_seed(4), dtype=torch.float64).abs()
    _, record = observe_neuron(current, number(1.0), 4, static=True, model=MODELS[name])
    found = (record.value_B - current.clamp(0, 1)).square().mean().sqrt()
    assert float(found) == pytest.approx(error, abs=0.001)


@pytest.mark.parametrize(
    ("reset", "timesteps", "mean"),
    [("soft-detached", 4, 2.3), ("soft-detached", 16, 7.2), ("soft", 4, 0.96), ("soft", 16, 0.97)],
)
def test_if_gain_stays_near_one_only_when_the_reset_is_differentiated(reset, timesteps, mean):
    current = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    model = IF._replace(reset=reset)
    _, record = observe_neuron(current, number(1.0), timesteps, static=True, model=model)
    assert float(record.slope_B.mean()) == pytest.approx(mean, abs=0.06 * mean)


@pytest.mark.parametrize(("timesteps", "deviations"), [(2, 1.69), (4, 2.13), (8, 2.53)])
@pytest.mark.parametrize("share", [1.0, 0.4, 0.2])
def test_an_if_pair_hardly_amplifies_gradients_at_any_strength_of_its_current(timesteps, deviations, share):
    """At the threshold fitted to a normal current, deep students deliver a fraction of it; width 1 gave up to 1.4."""
    current = share * torch.randn(20_000, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    _, record = observe_pair(current, number(deviations), timesteps, static=True, model=IF)
    assert float(record.slope_B.square().mean().sqrt()) < 1.07


def test_lif_is_all_or_none_for_a_constant_current():
    """Below 0.8 it never fires, from 1 on it always does (method page, section 1)."""
    current = torch.tensor([0.3, 0.79, 1.0, 1.4], dtype=torch.float64)
    _, record = observe_neuron(current, number(1.0), 200, static=True, model=LIF)
    assert record.value_B.tolist() == pytest.approx([0.0, 0.0, 1.0, 1.0], abs=1e-12)


@each_threshold
@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_surrogate_slope_is_the_sigmoids_derivative(slope_of, threshold, width):
    charged = torch.linspace(-3, 5, 41, dtype=torch.float64)
    found = surrogate_slope(charged, number(threshold), LIF._replace(surrogate_width=width))
    expected = torch.tensor([slope_of(u, threshold, width) for u in charged.tolist()], dtype=torch.float64)
    torch.testing.assert_close(found, expected, **EXACT)
    peak = surrogate_slope(number(threshold), number(threshold), LIF)
    assert float(peak) == pytest.approx(1 / threshold, rel=1e-12)


@each_model
@each_reset
def test_scaling_threshold_and_current_together_scales_the_output_alone(name, reset):
    """threshold * gain has no unit, so that calibrating a threshold leaves the gradients' size."""
    model = MODELS[name]._replace(reset=reset)
    current = currents(4, 90).flatten()
    _, unit = observe_neuron(current, number(1.0), 4, static=False, model=model)
    _, large = observe_neuron(8 * current, number(8.0), 4, static=False, model=model)
    torch.testing.assert_close(large.value_B, 8 * unit.value_B, **EXACT)
    torch.testing.assert_close(large.slope_B, unit.slope_B, **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_membranes_are_float32_when_activations_are_narrower(dtype):
    current = currents(4, 500).flatten().to(dtype)
    narrow, record = observe_neuron(current, torch.tensor(0.7), 4, static=False, model=IF)
    wide, wide_record = observe_neuron(current.float(), torch.tensor(0.7), 4, static=False, model=IF)
    assert narrow.dtype is dtype
    assert record.value_B.dtype is torch.float32
    assert torch.equal(record.value_B, wide_record.value_B)
    assert torch.equal(record.slope_B, wide_record.slope_B)
    assert torch.equal(narrow, wide.to(dtype))
