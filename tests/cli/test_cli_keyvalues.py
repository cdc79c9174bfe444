import tomllib

import pytest
import tomli_w

from ann2snn_distill.cli.keyvalues import parse_keyvalues
from ann2snn_distill.config import ConvertSettings, as_written
from ann2snn_distill.errors import UsageError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=1", {"a": 1}),
        ("a=1,b=true,c=[1,2]", {"a": 1, "b": True, "c": [1, 2]}),
        ("a=False, b=none", {"a": False, "b": None}),
        ("act_layer=relu,rate=1e-3", {"act_layer": "relu", "rate": 1e-3}),
        ("a='x,y',b={'k': (1, 2)}", {"a": "x,y", "b": {"k": (1, 2)}}),
        ("a=b=c", {"a": "b=c"}),
        ("a=", {"a": ""}),
        ("a=__import__('os')", {"a": "__import__('os')"}),
    ],
)
def test_literals_are_values_and_the_rest_is_text(text, values):
    assert parse_keyvalues(text) == values


@pytest.mark.parametrize("text", ["a", "1a=2", "a=1,", "=1", "a-b=1"])
def test_a_pair_without_a_key_is_refused(text):
    with pytest.raises(UsageError, match="key=value pairs"):
        parse_keyvalues(text)


@pytest.mark.parametrize(
    "arguments",
    [
        {"rate": None},
        {"rate": 0.1, "name": "it's, 'both'", "deep": {"none": [1, None]}, "on": True},
        {"rate": 1e-30, "name": "no, none"},
    ],
)
def test_arguments_are_the_same_when_they_come_back_from_a_settings_file(arguments):
    file = tomli_w.dumps(as_written(ConvertSettings(model="test_resnet", model_kwargs=arguments)))
    found = tomllib.loads(file)["model_kwargs"]
    assert (parse_keyvalues(found) if isinstance(found, str) else found) == arguments
