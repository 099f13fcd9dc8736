"""The long stories: `train` and `reproduce`."""
