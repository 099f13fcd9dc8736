"""What `python -m collector` can do: one module for each command.

Each has a `SUMMARY` for the list of commands, `add_arguments` for its options, and `run`, which
gives the exit code. What only one command needs is imported in its `run`: `run` itself works
without rich.
"""

COMMANDS = ("run", "watch", "command", "ledger", "health", "check")

EXIT_NOT_DONE = 1
"""A node has said no; windows are missing; the collector is not healthy."""
