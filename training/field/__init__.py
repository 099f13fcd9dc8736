"""What a node would do with a release in the field, in simulated time."""
