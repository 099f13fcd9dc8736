"""When a release has proven itself."""

from node.updates.proof import Proof


def test_proof_takes_scored_windows_and_the_brokers_word() -> None:
    """Each alone is none, and it is complete once."""
    proof = Proof("1" * 64, windows=2)

    heard = [
        proof.hear(scored=True, confirmed=7),
        proof.hear(scored=False, confirmed=8),
        proof.hear(scored=True, confirmed=8),
        proof.hear(scored=True, confirmed=9),
    ]

    assert heard == [False, False, True, False]


def test_windows_without_the_brokers_word_prove_nothing() -> None:
    """What it had taken before the release ran does not count."""
    proof = Proof("1" * 64, windows=1)

    assert not any(proof.hear(scored=True, confirmed=7) for _ in range(5))
