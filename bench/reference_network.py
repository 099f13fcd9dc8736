"""The reference design's network, built anew: converted its way, and ours.

    python -m bench.reference_network FOLDER

leaves there `reference.tflite` (open batch, dynamic range: as the reference design ships it) and
the same weights as releases with a batch of one, `static-dynamic`, `static-int8` and
`static-float32`. It is trained on a few seconds of a calculated fan: enough to give something like
its input back, so that two errors that agree say something.
"""

import sys
from pathlib import Path

import msgspec
import numpy as np

from contract.feature_params import FeatureParams
from contract.features import FeatureExtractor
from node.sound.synthetic import MachineSound, Synthesizer
from training.detector.autoencoders import Trained, train
from training.detector.quantize import to_tflite
from training.recipes import Quantisation, read_recipe
from training.release.import_model import ImportRequest, import_model
from training.tf import quietly, tf

DYNAMIC_BATCH = "reference.tflite"
STATIC: tuple[Quantisation, ...] = ("dynamic", "int8", "float32")
_WINDOWS = 16
_EPOCHS = 100


def build(folder: Path) -> None:
    """Write all of them."""
    recipe = read_recipe("reference")
    params = FeatureParams()
    extract = FeatureExtractor(params)
    sound = Synthesizer(MachineSound(), sample_rate_hz=params.sample_rate_hz)
    windows = [sound.read(params.window_samples) for _ in range(_WINDOWS)]
    features = np.stack([extract(window) for window in windows])
    (model,) = recipe.models
    briefly = msgspec.structs.replace(model, epochs=_EPOCHS)
    network = train(briefly, features, features[:2], seed=7, on_epoch=lambda _: None)
    (folder / DYNAMIC_BATCH).write_bytes(open_batch(network))
    for quantisation in STATIC:
        file = folder / f"static-{quantisation}.tflite"
        file.write_bytes(to_tflite(network, quantisation, features))
        request = ImportRequest(
            file=file,
            threshold=9.0,
            out=folder / f"static-{quantisation}",
            name=f"reference-{quantisation}",
            version=1,
            description=None,
            overwrite=False,
            command="python -m bench.reference_network",
        )
        import_model(request)


def open_batch(network: Trained) -> bytes:
    """As the reference design's notebook converts it: batch left open, weights to int8."""
    (core,) = [part for part in network.graph.layers if isinstance(part, tf.keras.Sequential)]
    with quietly():
        converter = tf.lite.TFLiteConverter.from_keras_model(core)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return bytes(converter.convert())


if __name__ == "__main__":
    build(Path(sys.argv[1]))
