"""A sensor node: hears one machine, scores what it hears, and publishes the result."""

# What a command needs beyond the standard library is imported in its `run`, so that help is quick
# and a small command stays small.

import logging

SUMMARY = "listen to a machine: settings, checks, calibration, the service itself"

COMMANDS = ("init", "check", "run", "calibrate", "record", "devices", "releases", "score", "bench")

LOG_LEVEL = logging.INFO

REQUIREMENTS = "node"

# Before NumPy is loaded: a window's matrices are too small for a pool of threads to pay, and on a
# Pi that pool takes memory and time from everything else.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
