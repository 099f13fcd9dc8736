"""Recordings as data: which there are, what is wrong with them, their features. Door: `dataset`."""
