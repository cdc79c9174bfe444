"""The process of one run of a batch: `snn-distill`, asked to stop and save its state when the batch's process ends.

Started as `python -m ann2snn_distill.cli.run_of_batch PID ARGUMENTS`, PID that of the batch.
"""

import ctypes
import os
import signal
import sys

from ann2snn_distill.cli.process import main

_PR_SET_PDEATHSIG = 1
"""From Linux's <sys/prctl.h>. Elsewhere a run outlives a batch that is killed, and the batch's lock says so."""


def end_with(parent: int) -> None:
    """Have SIGTERM sent to this process when `parent` ends, however that ends; now if it has."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    main(sys.argv[2:])
