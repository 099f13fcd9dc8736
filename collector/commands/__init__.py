"""A collector: stores what the nodes say, shows it, and accounts for every window."""

# What only one command needs is imported in its `run`: `run` itself works without rich.

SUMMARY = "store what the nodes say, show it, and account for every window"

COMMANDS = ("run", "watch", "command", "ledger", "health", "check")

REQUIREMENTS = "collector"

# The service and `watch` tell of the connection themselves.
QUIET = ("contract.session",)

EXIT_NOT_DONE = 1
"""A node has said no; windows are missing; the collector is not healthy."""
