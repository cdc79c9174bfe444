"""What could not be read again at the end is refused at the beginning."""

import pytest

from ann2snn_distill.errors import BadInputError, UnsupportedModelError
from ann2snn_distill.pipeline import planning


def test_a_student_whose_file_could_not_be_read_again_is_refused_before_it_is_trained(
    tiny_settings, converting, tmp_path, monkeypatch
):
    def refuse(name, **header):
        assert (name, header["classes"], header["stem"]) == ("test_resnet", 3, "small")
        raise BadInputError("timm cannot build it without values")

    monkeypatch.setattr(planning, "check_rebuild", refuse)
    folder = tmp_path / "run"
    with pytest.raises(UnsupportedModelError, match=r"test_resnet would be saved in could not be read again: timm can"):
        converting(tiny_settings(output=folder))
    assert not folder.exists()
