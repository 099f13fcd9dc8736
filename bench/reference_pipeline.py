"""The reference design's way from sound to flag, in a process of its own, as its scripts go it.

    python -m bench.reference_pipeline MODEL.tflite SOUNDS RATE_HZ REPEATS

It imports what they import, takes the first window of the sounds (raw float32 in a file, two
seconds each) to its flag, does so again, and says as one line of JSON when the first was done and
what memory that took. Calls are then `window N`, `features N` and `inference N`.

    librosa.resample -> librosa.feature.mfcc -> zeros up to 64 frames -> TensorFlow's interpreter
"""

import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

# Used or not, as in the reference design's live script.
import librosa
import numpy as np
import sounddevice  # noqa: F401

from bench.served_calls import say, serve
from contract.features import Float32Array
from node.bench.memory import memory_of

# It has no types that could be held to.
tf: Any = import_module("tensorflow")

WINDOW_SECONDS = 2
_RATE_HZ = 16_000
_COEFFICIENTS = 40
_FRAMES = 64
_THRESHOLD = 9.0
"""The reference design's own."""


class ReferencePipeline:
    """Resampling, features and network as the reference design calls them, all on defaults.

    Args:
        model: the `.tflite` file.
    """

    def __init__(self, model: Path) -> None:
        self._interpreter: Any = tf.lite.Interpreter(model_path=str(model))
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def mse(self, sound: Float32Array, rate_hz: int) -> float:
        """Mean squared error of one window of sound."""
        features = self.features(self.resampled(sound, rate_hz))
        return float(np.mean((self.infer(features) - features) ** 2))

    @staticmethod
    def resampled(sound: Float32Array, rate_hz: int) -> Float32Array:
        """At 16 kHz."""
        found: Float32Array = librosa.resample(sound, orig_sr=rate_hz, target_sr=_RATE_HZ)
        return found

    @staticmethod
    def features(sound: Float32Array) -> Float32Array:
        """Shape (1, 40, 64, 1)."""
        mfcc = librosa.feature.mfcc(y=sound, sr=_RATE_HZ, n_mfcc=_COEFFICIENTS)
        missing = max(0, _FRAMES - mfcc.shape[1])
        padded = np.pad(mfcc, ((0, 0), (0, missing)))[:, :_FRAMES]
        found: Float32Array = padded[None, ..., None].astype(np.float32)
        return found

    def infer(self, features: Float32Array) -> Float32Array:
        """Of the shape of the features."""
        self._interpreter.set_tensor(self._input, features)
        self._interpreter.invoke()
        found: Float32Array = self._interpreter.get_tensor(self._output)
        return found


def main() -> None:
    """Score, say when and at what cost, then do as asked."""
    model, recording, rate_hz, repeats = sys.argv[1:]
    imported_ns = time.monotonic_ns()
    pipeline, rate = ReferencePipeline(Path(model)), int(rate_hz)
    sounds = np.fromfile(recording, np.float32).reshape(-1, WINDOW_SECONDS * rate)
    flagged = pipeline.mse(sounds[0], rate) > _THRESHOLD
    first_window_ns = time.monotonic_ns()
    for _ in range(int(repeats)):
        pipeline.mse(sounds[0], rate)
    say(
        imported_monotonic_ns=imported_ns,
        first_window_monotonic_ns=first_window_ns,
        flagged=flagged,
        peak_rss_mib=memory_of().peak_rss_mib,
    )
    heard = [pipeline.resampled(sound, rate) for sound in sounds]
    features = [pipeline.features(sound) for sound in heard]
    calls: dict[str, Callable[[int], object]] = {
        "window": lambda number: pipeline.mse(sounds[number], rate),
        "features": lambda number: pipeline.features(heard[number]),
        "inference": lambda number: pipeline.infer(features[number]),
    }
    serve(calls)


if __name__ == "__main__":
    main()
