"""What an operator does: keys, releases on their way, and who may talk to the broker."""

# All of them run with the packages of requirements/fleet.txt alone: on a server, without
# TensorFlow.

SUMMARY = "sign, push and roll out releases; enrol nodes"

COMMANDS = (
    "keys",
    "inspect",
    "push",
    "rollout",
    "promote",
    "rollback",
    "withdraw",
    "retire",
    "secrets",
    "enroll",
    "revoke",
)

REQUIREMENTS = "fleet"
INTERRUPTED = "interrupted; what was sent stays, and the same command may be given again"

# What happens to the connection, `training.fleet.broker` tells.
QUIET = ("contract.session",)
