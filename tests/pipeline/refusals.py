"""What every refusal has in common."""

DIGITS = ("--dataset", "digits", "--device", "cpu")


def refused(done, code, *texts):
    assert (done.code, done.out) == (code, ""), done.err
    lines = done.err.splitlines()
    assert lines[-1].startswith("error: ")
    assert sum(line.startswith("error: ") for line in lines) == 1
    for text in texts:
        assert text in lines[-1], lines[-1]
