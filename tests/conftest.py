"""What all tests rely on."""

import signal

import torch

# A shell that starts a program in the background may have it ignore Ctrl-C, and its children with it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Where other programs keep cores busy, as many threads as cores wait for each other; small tensors need few.
torch.set_num_threads(min(torch.get_num_threads(), 4))
