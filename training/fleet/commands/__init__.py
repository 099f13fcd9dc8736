"""What `python -m training` can do with a fleet: one module for each command, as in
`training.commands`.
"""

COMMANDS = ("keys",)
