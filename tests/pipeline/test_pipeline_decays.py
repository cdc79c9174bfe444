"""`--learn-decay`: what is learnt is in the file's header, and the file alone gives the run's accuracy."""

import pytest

from ann2snn_distill.checkpoint import load_checkpoint


def student_of(folder):
    return load_checkpoint(folder / "student.safetensors")


@pytest.mark.parametrize("flags", ["--method rate", "--method hybrid --model-ema 0.5", "--method bptt --reset hard"])
def test_learnt_decays_are_in_the_header_and_eval_measures_with_them(command, tiny, tmp_path, flags):
    options = ("--learn-decay", "--decay", 0.4, "--lr", 0.2, *flags.split(), "--output", tmp_path / "run")
    done = command("convert", *tiny, *options)
    assert done.code == 0, done.err
    header, tensors = student_of(tmp_path / "run")
    assert (header.format_version, header.neuron.decay) == (2, 0.4)
    assert header.decays.keys() == header.thresholds.keys()
    assert all(0.2 < decay < 0.6 for decay in header.decays.values())
    moved = [name for name, decay in header.decays.items() if decay != pytest.approx(0.4, abs=1e-6)]
    assert len(moved) > len(header.decays) / 2
    assert not [name for name in tensors if "decay" in name]
    done = command("eval", tmp_path / "run" / "student.safetensors", "--device", "cpu")
    assert "equal to the report, to the digit" in done.out


def test_the_decays_of_a_moving_average_are_those_that_are_evaluated(converting, tiny_settings, tmp_path):
    decays = []
    for average in (0.0, 0.9):
        folder = tmp_path / str(average)
        converting(tiny_settings(method="rate", init="scratch", learn_decay=True, model_ema=average, output=folder))
        decays.append(student_of(folder)[0].decays)
    live, averaged = decays
    moved = [sum(abs(decay - 0.2) for decay in each.values()) for each in (averaged, live)]
    assert 0 < moved[0] < moved[1]
    assert averaged != live


def test_without_the_flag_the_file_is_of_format_1_and_names_no_decays(command, tiny, tmp_path):
    for flags in ((), ("--no-learn-decay",)):
        done = command("convert", *tiny, *flags, "--overwrite", "--output", tmp_path / "run")
        assert done.code == 0, done.err
        header, _ = student_of(tmp_path / "run")
        assert (header.format_version, header.decays) == (1, None)
        assert b"decays" not in (tmp_path / "run" / "student.safetensors").read_bytes()
        assert "learn_decay" not in (tmp_path / "run" / "config.toml").read_text()


def test_pairs_of_neurons_learn_their_decays(converting, tiny_settings, tmp_path):
    encoding = {"model": "test_vit", "img_size": 32, "coverage": "full", "neuron": "lif", "v_init": 0.3}
    converting(tiny_settings(method="rate", learn_decay=True, output=tmp_path / "run", epochs=1, **encoding))
    header, _ = student_of(tmp_path / "run")
    assert header.format_version == 2
    assert any(decay != pytest.approx(0.2, abs=1e-7) for decay in header.decays.values())
