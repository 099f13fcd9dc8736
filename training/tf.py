"""TensorFlow, loaded without its chatter; whoever imports this module waits some seconds.

TensorFlow has no types: what leaves the modules that import it are arrays and bytes.
"""

import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import Any


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what TensorFlow's two halves say off the terminal, unless the block fails.

    Its C++ side writes to the process's standard error, its Python side prints paths of temporary
    files and warns of its own deprecations: nothing that our users can do anything about.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            with redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except Exception:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


# Read when the library loads; 3 leaves only fatal errors. That there is no GPU is no news.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with quietly():
    tf: Any = import_module("tensorflow")

tf.get_logger().setLevel("ERROR")
