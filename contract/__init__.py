"""What node, collector and training agree on: features, topics, messages, releases, the session.

Nothing here opens a socket, reads a file or asks the time, except `session`, which is the one
MQTT session that all programs use, `talk`, which waits for what comes over one, and `command_line`,
which is how all of them are called.
"""

VERSION = "0.1.0"
"""The version of all of earshot; pyproject.toml takes it from here, so that a checkout knows it."""
