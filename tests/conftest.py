"""What holds for all tests."""

import signal

from hypothesis import settings

# A shell that starts `make test &` in a script has it ignore Ctrl-C, and so would every program
# that a test starts, and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No timing decides, and tests that run at once share no file.
settings.register_profile("earshot", deadline=None, database=None)
settings.load_profile("earshot")
