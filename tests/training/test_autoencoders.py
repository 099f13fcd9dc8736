"""The reference network and its export."""

import json
import subprocess
import sys

import pytest

from tests.training.conftest import ROOT

# TensorFlow has a process of its own: it warns at import, and its set-up for determinism cannot be
# undone. One process for all the facts, since it takes seconds to start.
_FACTS = """
import json
import numpy as np
from node.runtime import LoadedModel, find_runtime
from training.autoencoders import reference_network, train_reference

features = (20 * np.random.default_rng(0).standard_normal((40, 40, 64))).astype(np.float32)
losses = []
trained = [
    train_reference(features[:32], features[32:], seed=seed, epochs=2, batch_size=8,
                    on_epoch=losses.append)
    for seed in (1, 1, 2)
]
outputs = [network.reconstruct(features[:4]) for network in trained]
facts = {
    "parameters": reference_network().parameters,
    "same_seed": bool((outputs[0] == outputs[1]).all()),
    "other_seed": bool((outputs[0] == outputs[2]).all()),
    "epochs": [epoch.number for epoch in losses],
    "losses": [epoch.train_loss for epoch in losses[:2]],
}
for weights in ("float32", "float16"):
    content = trained[0].to_tflite(weights)
    model = LoadedModel(content, find_runtime())
    found = np.stack([model(window) for window in features[:4]])
    facts[weights] = {
        "bytes": len(content),
        "shapes": [model.input_shape, model.output_shape],
        "signature": model._interpreter.get_input_details()[0]["shape_signature"].tolist(),
        "difference": float(np.abs(found - outputs[0]).max() / np.abs(outputs[0]).max()),
    }
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def facts() -> dict[str, object]:
    """Collect what a process with TensorFlow finds out."""
    done = subprocess.run(
        [sys.executable, "-c", _FACTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Nothing of TensorFlow's chatter reaches the terminal.
    assert done.stderr == ""
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_number_of_parameters(facts: dict[str, object]) -> None:
    """The reference network has 386,529 trainable parameters."""
    assert facts["parameters"] == 386_529


def test_training_is_repeatable(facts: dict[str, object]) -> None:
    """The same seed gives the same network bit for bit; another seed another one."""
    assert facts["same_seed"] is True
    assert facts["other_seed"] is False


def test_training_reports_and_learns(facts: dict[str, object]) -> None:
    """Each epoch is reported, and the loss falls."""
    losses = facts["losses"]
    assert isinstance(losses, list)

    assert facts["epochs"] == [1, 2, 1, 2, 1, 2]
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    ("weights", "megabytes", "tolerance"), [("float32", 1.6, 1e-5), ("float16", 0.8, 5e-3)]
)
def test_export(facts: dict[str, object], weights: str, megabytes: float, tolerance: float) -> None:
    """The exported graph has a fixed batch of one and answers as the network does."""
    exported = facts[weights]
    assert isinstance(exported, dict)

    assert exported["shapes"] == [[1, 40, 64, 1], [1, 40, 64, 1]]
    assert exported["signature"] == [1, 40, 64, 1]
    assert exported["bytes"] < megabytes * 1e6
    assert exported["difference"] < tolerance
