"""What holds for all tests."""

import signal

# A shell that starts `make test &` in a script has it ignore Ctrl-C, and so would every program
# that a test starts, and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
