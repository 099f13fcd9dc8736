"""Recordings of a healthy machine in, a release that a node can run out."""
