"""What `python -m node` can do: one module for each command.

Each has a `SUMMARY` for the list of commands, `add_arguments` for its options, and `run`, which
gives the exit code. What a command needs beyond the standard library is imported in `run`, so that
`--help` is quick and a small command stays small.
"""

COMMANDS = ("init", "check", "run", "calibrate", "record", "devices", "releases", "score", "bench")
