"""The keys that sign releases and orders."""

SUMMARY = "make and show the keys that sign releases and orders"

COMMANDS = ("create", "show")

INTERRUPTED = "interrupted; nothing was written"
