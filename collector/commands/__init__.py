"""What the collector can do: one module for each command."""
