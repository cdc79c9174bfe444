"""What all tests rely on."""

import signal

# A shell that starts a program in the background may have it ignore Ctrl-C, and its children with it.
signal.signal(signal.SIGINT, signal.default_int_handler)
