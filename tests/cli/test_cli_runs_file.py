"""RUNS.toml: defaults, runs and grids; what does not fit is refused in one sentence."""

import pytest

from ann2snn_distill.cli.runs_file import read_runs
from ann2snn_distill.errors import UsageError

DEFAULTS = '[defaults]\nmodel = "test_resnet"\ndataset = "digits"\n'


@pytest.fixture
def read(tmp_path):
    def runs(text: str):
        path = tmp_path / "runs.toml"
        path.write_text(text)
        return read_runs(path)

    return runs


def test_a_grid_is_every_combination_in_the_order_of_its_lists(read):
    runs = read(DEFAULTS + "epochs = 9\n[[grid]]\ntimesteps = [2, 4]\nseed = [0, 1, 2]\nmethod = 'rate'\n")
    assert [(r.settings.timesteps, r.settings.seed) for r in runs] == [(t, s) for t in (2, 4) for s in (0, 1, 2)]
    assert {(r.settings.method, r.settings.epochs) for r in runs} == {("rate", 9)}
    assert [r.varied for r in runs][:2] == [{"timesteps": 2, "seed": 0}, {"timesteps": 2, "seed": 1}]


def test_runs_and_grids_keep_the_order_of_the_file_and_beat_the_defaults(read):
    runs = read(DEFAULTS + "alpha = 0.1\n[[grid]]\nalpha = [0.2, 0.3]\n[[run]]\n[[run]]\nalpha = 0.9\n")
    assert [r.settings.alpha for r in runs] == [0.2, 0.3, 0.1, 0.9]


def test_models_and_maps_can_be_lists_of_a_grid(read):
    runs = read(
        DEFAULTS + "[[grid]]\nmodel = ['resnet18', 'resnet34']\nmodel-kwargs = [{width = 1}, 'drop_rate=0.1']\n"
    )
    assert [r.settings.model for r in runs] == ["resnet18", "resnet18", "resnet34", "resnet34"]
    assert [r.settings.model_kwargs for r in runs][:2] == [{"width": 1}, {"drop_rate": 0.1}]


def test_names_say_what_a_run_is_and_what_varies(read):
    runs = read(DEFAULTS + "[[grid]]\nseed = [0, 1]\nneuron = ['lif', 'if']\n")
    assert [r.name for r in runs] == [
        "test_resnet-digits-t4-s0-neuron_lif",
        "test_resnet-digits-t4-s0-neuron_if",
        "test_resnet-digits-t4-s1-neuron_lif",
        "test_resnet-digits-t4-s1-neuron_if",
    ]
    runs = read(DEFAULTS + "[[run]]\nname = 'mine'\n[[grid]]\nname = 'soft'\ntimesteps = [1]\nmethod = ['rate']\n")
    assert [r.name for r in runs] == ["mine", "soft-t1-rate"]


def test_what_a_user_leaves_open_and_what_computes_nothing_stays_out_of_names(read):
    runs = read(DEFAULTS + "[[run]]\nthreshold = 2.0\nmin_accuracy = 99\n[[run]]\nworkers = 1\n")
    assert [r.name for r in runs] == ["test_resnet-digits-t4-s0-threshold_2.0", "test_resnet-digits-t4-s0"]


def test_a_tilde_is_the_home_folder(read, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (run,) = read(DEFAULTS + "checkpoint = '~/teacher.pth'\n[[run]]\ndata-dir = '~/data'\ndataset = '~/shades'\n")
    settings = run.settings
    assert (settings.checkpoint, settings.data_dir) == (tmp_path / "teacher.pth", tmp_path / "data")
    assert (run.name, settings.dataset) == ("test_resnet-shades-t4-s0", str(tmp_path / "shades"))


def test_a_name_never_leaves_the_folder(read):
    (run,) = read("[[run]]\nmodel = 'hf-hub:../../evil'\ndataset = '/etc/../x y'\n")
    assert run.name == "hf-hub_.._.._evil-x_y-t4-s0"
    assert "/" not in run.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no run; add a [[run]] or a [[grid]]"),
        ("x = 1", "unknown part `x` in"),
        ("[run]\nseed = 1", "[run] in"),
        ("defaults = 3", "is no table"),
        ("[[run]]\n[[run.seed]]\n", "is a list; lists belong into a [[grid]]"),
        ("run = [1]", "run 1 of"),
        ("[defaults]\nname = 'x'\n[[run]]", "would name every run alike"),
        (DEFAULTS + "[[run]]\ntimestep = 2", "unknown key `timestep` in run 1 of"),
        (DEFAULTS + "[[run]]\ntimestep = 2", "did you mean `timesteps` or `train_timesteps`?"),
        (DEFAULTS + "[[run]]\ntimesteps = 0", "`timesteps` in run 1 of"),
        (DEFAULTS + "[[run]]\ntimesteps = 0", "must be at least 1, not 0"),
        (DEFAULTS + "[[run]]\nseed = [0, 1]", "lists belong into a [[grid]]"),
        (DEFAULTS + "[[grid]]\nseed = []", "is an empty list"),
        (DEFAULTS + "[[grid]]\nseed = [0, 'x']", "`seed` in grid 1 of"),
        (DEFAULTS + "[[grid]]\nseed = [[0]]", "`seed` in grid 1 of"),
        (DEFAULTS + "[[run]]\noutput = 'x'", "`output` in run 1 of"),
        (DEFAULTS + "[[run]]\noverwrite = true", "cannot be set"),
        (DEFAULTS + "[[run]]\nresume = 'auto'", "goes on where it was"),
        (DEFAULTS + "[[run]]\nmin-accuracy = 1\nmin_accuracy = 1", "stands twice"),
        (DEFAULTS + "[[run]]\nname = '../x'", "must be letters, digits, dots"),
        (DEFAULTS + "[[run]]\nname = 3", "must be letters, digits, dots"),
        ("[[run]]\ndataset = 'digits'", "model in run 1 of"),
        ("[[run]]\nmodel = 'resnet18'", "`dataset` in run 1 of"),
        ("[[run]\n", "is not TOML"),
        (DEFAULTS + "[[grid]]\nseed = [" + "0," * 200 + "]\nalpha = [" + "0.5," * 200 + "]", "has 40000 combinations"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(read, text, message):
    with pytest.raises(UsageError) as caught:
        read(text)
    assert message.replace("model in run", "`model` in run") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_a_pipe_and_a_huge_file_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read RUNS.toml .*No such file"):
        read_runs(tmp_path / "none.toml")
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is no regular file"):
        read_runs(tmp_path / "pipe")
    (tmp_path / "huge").write_bytes(b"#" * 1_000_001)
    with pytest.raises(UsageError, match="1,000,001 bytes, too many for settings"):
        read_runs(tmp_path / "huge")
