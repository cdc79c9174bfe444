"""Flags and TOML keys become settings; what does not fit is named with its bound."""

from pathlib import Path

import pytest

from ann2snn_distill.cli.schema import properties
from ann2snn_distill.config import (
    BatchSettings,
    BenchSettings,
    ConvertSettings,
    EvalSettings,
    InspectSettings,
    TeachSettings,
)
from ann2snn_distill.errors import UsageError


def settings_of(pipeline):
    ((name, (settings, *_)),) = pipeline.calls
    assert name == "convert"
    return settings


def test_flags_reach_the_pipeline_as_settings(run, pipeline):
    flags = "--timesteps 8 --lr 1e-3 --v-init -0.5 --no-amp --overwrite --model-kwargs a=1,b=true"
    done = run("convert", "test_resnet", "--dataset", "digits", *flags.split())
    assert done.code == 0, done.err
    settings = settings_of(pipeline)
    assert (settings.model, settings.dataset, settings.timesteps) == ("test_resnet", "digits", 8)
    assert (settings.lr, settings.v_init, settings.amp, settings.overwrite) == (1e-3, -0.5, False, True)
    assert settings.model_kwargs == {"a": 1, "b": True}
    assert settings.torchcompile is None
    assert not settings.download


def test_a_run_is_gone_on_with_by_its_folder_alone(run, pipeline, tmp_path):
    (tmp_path / "config.toml").write_text('model = "test_resnet"\ndataset = "digits"\ntimesteps = 6\nlr = 0.5\n')
    done = run("convert", "--resume", tmp_path, "--lr", 0.25)
    assert done.code == 0, done.err
    settings = settings_of(pipeline)
    assert (settings.model, settings.timesteps, settings.lr) == ("test_resnet", 6, 0.25)
    assert settings.resume == str(tmp_path)
    for folder, told in ((tmp_path / "none", "there is no run in "), ("auto", "MODEL is missing")):
        missing = run("convert", "--resume", folder)
        assert missing.code == 2
        assert told in missing.err


def test_lists_that_do_not_fit_are_told_what_would(run, pipeline):
    for flag, value, wanted in (
        ("--timesteps", "2,x", "whole numbers of at least 1"),
        ("--batch-size", "-1", "whole numbers of at least 1"),
        ("--method", "foo", "hybrid, rate, bptt or ann"),
    ):
        done = run("bench", "resnet18", flag, value)
        assert done.code == 2
        assert f"{flag} must be {wanted}, separated by commas, not {value}" in done.err


def test_saying_no_to_learnt_decays_is_the_same_as_saying_nothing(run, pipeline):
    for flags in ("--no-learn-decay", "", "--learn-decay"):
        assert run("convert", "test_resnet", "--dataset", "digits", *flags.split()).code == 0
    assert [settings.learn_decay for _, (settings, *_) in pipeline.calls] == [None, None, True]


@pytest.mark.parametrize("key", ["batch-size", "batch_size"])
def test_flags_beat_the_file_and_the_rest_of_the_file_holds(run, pipeline, tmp_path, key):
    file = tmp_path / "run.toml"
    file.write_text(
        f'model = "test_resnet"\ndataset = "digits"\nmodel_kwargs = {{a = 1}}\nseed = 3\namp = true\n{key} = 64\n'
    )
    done = run("convert", "--config", str(file), "--seed", "5", "--no-amp")
    assert done.code == 0, done.err
    settings = settings_of(pipeline)
    assert (settings.model, settings.batch_size, settings.seed, settings.amp) == ("test_resnet", 64, 5, False)
    assert settings.model_kwargs == {"a": 1}


HOME_IN_FILE = """
model = "test_resnet"
dataset = "~/shades"
data_dir = "~/data"
checkpoint = "~/teacher.pth"
output = "~/run"
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_tilde_in_a_file_is_the_home_folder_in_every_path(run, pipeline, home):
    (home / "run.toml").write_text(HOME_IN_FILE)
    done = run("convert", "--config=~/run.toml")
    assert done.code == 0, done.err
    settings = settings_of(pipeline)
    assert (settings.dataset, settings.data_dir) == (str(home / "shades"), home / "data")
    assert (settings.checkpoint, settings.output) == (home / "teacher.pth", home / "run")
    assert settings.model == "test_resnet"


@pytest.mark.parametrize(
    ("settings", "required"),
    [
        (ConvertSettings, {"model": "test_resnet"}),
        (TeachSettings, {"model": "test_resnet"}),
        (BenchSettings, {"model": "test_resnet"}),
        (InspectSettings, {}),
        (EvalSettings, {"checkpoint": "x"}),
        (BatchSettings, {"runs": "x"}),
    ],
)
def test_a_tilde_is_the_home_folder_wherever_a_file_or_folder_may_be_named(home, settings, required):
    known = properties(settings)
    paths = {field for field in known if known[field].metavar == "PATH"}
    paths |= {"dataset", "resume"} & known.keys() | ({"model"} if settings is InspectSettings else set())
    assert paths
    for field in paths:
        found = getattr(settings.model_validate({**required, field: "~/x"}), field)
        assert Path(found) == home / "x", field
        plain = getattr(settings.model_validate({**required, field: "auto"}), field)
        assert str(plain) == "auto"


BAD_FLAGS = {
    "--timesteps 0": "--timesteps must be at least 1, not 0",
    "--timesteps 4.5": "--timesteps must be a whole number, not 4.5",
    "--timesteps four": "--timesteps must be a whole number, not four",
    "--timesteps 5000": "--timesteps must be at most 1024, not 5000",
    "--lr 0": "--lr must be above 0, not 0",
    "--lr nan": "--lr must be a finite number, not nan",
    "--val-split 1": "--val-split must be below 1, not 1",
    "--neuron li": "--neuron must be 'lif' or 'if', not li",
    "--neuron if --decay 0.5": "decay belongs to lif, as an if neuron keeps its whole membrane; give --neuron lif",
    "--coverage full --decay 0.5": "decay belongs to lif, as an if neuron keeps its whole membrane; give --neuron lif",
    "--neuron if --stage-decays act1=1": "stage_decays belongs to lif, as an if neuron keeps its whole membrane; "
    "give --neuron lif",
    "--neuron if --learn-decay": "learn_decay belongs to lif, as an if neuron keeps its whole membrane; "
    "give --neuron lif",
    "--learn-decay --decay 1": "learn_decay starts strictly between 0 and 1; give another decay",
    "--learn-decay --decay 0": "learn_decay starts strictly between 0 and 1; give another decay",
    "--resume auto --overwrite": "resume and overwrite exclude each other; give one of them",
    "--threshold 2e6": "--threshold must be at most 1e+06, not 2e6",
    "--surrogate-width 2e6": "--surrogate-width must be at most 1e+06, not 2e6",
    "--model-kwargs a=70000": "--model-kwargs must be short and plain values without a number above 65536, "
    "not {'a': 70000}",
    "--model-kwargs a=(70000,)": "--model-kwargs must be short and plain values without a number above 65536, "
    "not {'a': (70000,)}",
    "--model-kwargs a={1:2}": "--model-kwargs must be short and plain values without a key that is no text, or too "
    "long, not {'a': {1: 2}}",
    "--model-kwargs a={1}": "--model-kwargs must be short and plain values without a set, not {'a': {1}}",
    "--model-kwargs a": "--model-kwargs takes key=value pairs separated by commas, not 'a'",
    "--model-kwargs a=1,a=2": "--model-kwargs names a twice; give it once",
}


@pytest.mark.parametrize("flags", BAD_FLAGS)
def test_a_flag_out_of_bounds_is_named_with_its_bound(run, pipeline, flags):
    done = run("convert", "test_resnet", "--dataset", "digits", *flags.split())
    assert (done.code, done.out, done.err) == (2, "", f"error: {BAD_FLAGS[flags]}\n")
    assert not pipeline.calls


def test_an_empty_value_is_refused(run, pipeline):
    done = run("convert", "test_resnet", "--dataset", "digits", "--output", "")
    assert (done.code, done.err) == (2, "error: --output is empty; give a value or leave it out\n")


@pytest.mark.parametrize("command", ["convert", "teach"])
def test_what_is_missing_is_said_with_what_it_may_be(run, pipeline, command):
    assert run(command).err == "error: MODEL is missing: timm name, or hf-hub:org/name\n"
    done = run(command, "test_resnet")
    assert done.code == 2
    assert done.err.startswith("error: --dataset is missing: data set name, or a folder with train/")


BAD_FILES = {
    "timestep = 4": "unknown key `timestep` in {file}; did you mean `timesteps`",
    "colour = 4": "unknown key `colour` in {file}",
    "timesteps = 0": "`timesteps` in {file} must be at least 1, not 0",
    "timesteps = true": "`timesteps` in {file} takes a value, not true",
    "batch_size = 1\nbatch-size = 2": "`batch-size` stands twice in {file}",
    "timesteps": "the settings file {file} is not TOML: ",
    "model = 4": "`model` in {file} must be text, not 4",
    "model_kwargs = 4": "`model_kwargs` in {file} must be key=value pairs, not 4",
    "amp = 'perhaps'": "`amp` in {file} must be true or false, not perhaps",
    "[timesteps]\na = 1": "`timesteps` in {file} must be a whole number",
}


@pytest.mark.parametrize("text", BAD_FILES)
def test_a_key_of_the_file_that_does_not_fit_is_named(run, pipeline, tmp_path, text):
    file = tmp_path / "run.toml"
    file.write_text(text)
    model = () if "model =" in text else ("test_resnet",)
    done = run("convert", *model, "--dataset", "digits", "--config", str(file))
    assert done.code == UsageError.exit_code
    assert done.err.startswith("error: " + BAD_FILES[text].format(file=file))
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(run, pipeline, tmp_path, content):
    file = tmp_path / "run.toml"
    if content is not None:
        file.write_bytes(content)
    done = run("convert", "test_resnet", "--dataset", "digits", "--config", str(file))
    assert done.code == 2
    assert str(file) in done.err
    assert done.err.count("\n") == 1
