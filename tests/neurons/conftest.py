"""Neurons written a second time, as plainly as possible: loops over numbers, and autograd for every derivative."""

import math

import pytest
import torch


def unrolled_by_autograd(current_TB, threshold, model):
    """Return the spikes (T, B, ...); their slope is the derivative of a sigmoid that autograd differentiates."""
    membrane, spikes = model.v_init * threshold, []
    for current_B in current_TB:
        charged = model.decay * membrane + current_B
        soft = torch.sigmoid(4 / model.surrogate_width * (charged / threshold - 1))
        spike = (charged >= threshold).to(charged) + (soft - soft.detach())
        if model.reset == "hard":
            membrane = charged * (1 - spike)
        elif model.reset == "soft":
            membrane = charged - threshold * spike
        else:
            membrane = charged - threshold * spike.detach()
        spikes.append(spike)
    return torch.stack(spikes)


def fired_by_numbers(currents, threshold, model):
    """Return the spike train of one neuron for a list of T currents."""
    membrane, train = model.v_init * threshold, []
    for current in currents:
        membrane = model.decay * membrane + current
        fires = membrane >= threshold
        train.append(1.0 if fires else 0.0)
        if fires:
            membrane = 0.0 if model.reset == "hard" else membrane - threshold
    return train


def slope_by_numbers(charged, threshold, width):
    q = 1 / (1 + math.exp(-4 / width * (charged / threshold - 1)))
    return 4 / (width * threshold) * q * (1 - q)


@pytest.fixture
def by_autograd():
    return unrolled_by_autograd


@pytest.fixture
def by_numbers():
    return fired_by_numbers


@pytest.fixture
def slope_of():
    return slope_by_numbers
