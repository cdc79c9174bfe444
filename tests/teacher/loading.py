"""A checkpoint read into a network, or what is said against it."""

import pytest

from ann2snn_distill.teacher import load_network

DATA = (0.1, 0.2, 0.3)


def load(path, name="test_resnet", *, classes=10, img_size=32, stem="keep", **more):
    return load_network(
        name,
        classes=classes,
        img_size=img_size,
        stem=stem,
        data_mean=DATA,
        data_std=DATA,
        checkpoint=path,
        **more,
    )


def refusal(error, path, **arguments):
    with pytest.raises(error) as caught:
        load(path, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)
