"""Where runs go: devices are spread, processors are shared out."""

import pytest

from ann2snn_distill.batch.slots import slots
from ann2snn_distill.errors import UsageError


def visible(*arguments: object, **environment: str) -> list[str | None]:
    places = slots(*arguments, environment=environment, cpus=8)
    return [slot.environment.get("CUDA_VISIBLE_DEVICES") for slot in places]


@pytest.mark.parametrize(
    ("jobs", "devices", "expected"),
    [
        (None, None, [None]),
        (3, None, [None] * 3),
        (None, "0,1", ["0", "1"]),
        (4, "0, 1", ["0", "1", "0", "1"]),
        (3, "5", ["5", "5", "5"]),
    ],
)
def test_runs_are_spread_over_the_devices(jobs, devices, expected):
    assert visible(jobs, devices) == expected


def test_devices_are_counted_as_this_process_sees_them():
    assert visible(None, "1,0", CUDA_VISIBLE_DEVICES="4,GPU-ab,6") == ["GPU-ab", "4"]


@pytest.mark.parametrize(
    ("jobs", "devices", "environment", "text"),
    [
        (None, "a", {}, "--devices takes numbers separated by commas, as 0,1, not 'a'"),
        (None, "0,", {}, "takes numbers"),
        (None, "-1", {}, "takes numbers"),
        (None, "0,0", {}, "names 0 twice; --jobs sets how many runs share a device"),
        (1, "0,1", {}, "--jobs 1 leaves 1 of the devices 0,1 idle"),
        (None, "2", {"CUDA_VISIBLE_DEVICES": "0,1"}, "--devices 2 does not exist: CUDA_VISIBLE_DEVICES shows"),
    ],
)
def test_devices_that_do_not_fit_are_refused(jobs, devices, environment, text):
    with pytest.raises(UsageError, match=text):
        slots(jobs, devices, environment=environment)


@pytest.mark.parametrize(("jobs", "threads"), [(1, None), (2, "4"), (3, "2"), (99, "1")])
def test_processors_are_shared_out_between_runs_at_once(jobs, threads):
    assert [slot.environment.get("OMP_NUM_THREADS") for slot in slots(jobs, None, environment={}, cpus=8)] == [
        threads
    ] * jobs


def test_a_number_of_threads_that_the_user_chose_stays():
    (first, _) = slots(2, None, environment={"OMP_NUM_THREADS": "7", "HOME": "x"}, cpus=8)
    assert first.environment == {"OMP_NUM_THREADS": "7", "HOME": "x"}
