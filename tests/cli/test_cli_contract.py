"""What scripts may rely on: commands, flags and exit codes, frozen."""

import subprocess
import sys

import pytest
import typer

from ann2snn_distill import errors
from ann2snn_distill.cli.app import app

NETWORK = (
    "--dataset --data-dir --download --img-size --model-kwargs --stem --pretrained --no-pretrained "
    "--checkpoint --checkpoint-match --skip-bad-images --seed --device --workers --limit --val-split "
)
FIT = (
    "--epochs --teacher-epochs --batch-size --lr --weight-decay --opt --warmup-epochs --grad-accum-steps "
    "--amp --no-amp --amp-dtype --torchcompile --no-torchcompile --cuda-graph --no-cuda-graph --deterministic --aa "
    "--cutout --mixup --cutmix --mixup-prob --mixup-off-epoch --smoothing --model-ema --checkpoint-interval "
)
FLAGS = {
    "convert": NETWORK
    + FIT
    + "--timesteps --train-timesteps --student --output --overwrite --method --neuron --decay --threshold --v-init "
    "--reset --surrogate-width --init --equalize --no-equalize --alpha --branches --beta --temperature --coverage "
    "--maxpool --resume --val-interval --sampled-branches --projection-init --projection-lr --finish-epochs "
    "--quantized-epochs --stage-decays --learn-decay --no-learn-decay --clip-grad --clip-mode --sam --min-accuracy "
    "--max-drop --config --dry-run --json",
    "eval": "--dataset --data-dir --timesteps --device --batch-size --workers --skip-bad-images --json",
    "inspect": "--all --img-size --model-kwargs --stem --classes --timesteps --batch-size --coverage --maxpool "
    "--strict --json",
    "teach": NETWORK + FIT + "--output --overwrite --config --json",
    "batch": "--output --jobs --devices --retry-failed --dry-run --json",
    "bench": "--timesteps --batch-size --method --steps --img-size --classes --model-kwargs --stem --neuron --branches "
    "--sampled-branches --dataset --data-dir --workers --device --amp --no-amp --amp-dtype --torchcompile "
    "--no-torchcompile --cuda-graph --no-cuda-graph --json",
    "env": "--json",
}


def commands():
    return typer.main.get_command(app).commands


def test_the_commands_are_frozen():
    assert list(commands()) == ["convert", "eval", "inspect", "teach", "batch", "bench", "env"]


@pytest.mark.parametrize("name", FLAGS)
def test_the_flags_of_a_command_are_frozen(name):
    options = [p for p in commands()[name].params if p.param_type_name == "option"]
    flags = {flag for option in options for flag in (*option.opts, *option.secondary_opts)} - {"--help"}
    assert flags == set(FLAGS[name].split())


def test_the_exit_codes_are_frozen():
    codes = {kind.__name__: kind.exit_code for kind in vars(errors).values() if isinstance(kind, type)}
    assert codes == {
        "SnnDistillError": 1,
        "BadInputError": 1,
        "UsageError": 2,
        "GateMissedError": 3,
        "UnsupportedModelError": 4,
        "InterruptedRunError": 130,
    }


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["--version"]])
def test_help_imports_nothing_that_takes_seconds(arguments):
    code = (
        "import sys\nfrom ann2snn_distill.cli.process import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'timm', 'torchvision'} & set(sys.modules), 'heavy imports'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "snn-distill" in done.stdout


def test_the_package_is_the_command_where_that_is_not_on_the_path():
    command = [sys.executable, "-m", "ann2snn_distill", "inspect", "no_such_model"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no_such_model" in done.stderr


def test_help_names_bounds_defaults_and_choices(run):
    text = " ".join(run("convert", "--help").out.split())
    assert "timesteps T of the SNN [at least 1, at most 1024, default 4]" in text
    assert "--neuron lif|if" in text
    assert text.index("--dataset") < text.index("--timesteps") < text.index("--epochs")


def test_without_a_command_help_is_shown(run):
    done = run()
    assert done.code == 2
    assert "Commands:" in done.out + done.err


def test_an_unknown_flag_is_wrong_usage_on_stderr(run):
    done = run("convert", "test_resnet", "--timestep", "4")
    assert (done.code, done.out) == (2, "")
    assert "--timesteps" in done.err
