"""How a window of sound becomes features: the parameters, without the arithmetic.

`FeatureParams` travels inside every release, so that a node can never compute other features than
its model was trained with. Whoever only reads releases needs no NumPy; what computes the features
is in `contract.features`.
"""

from typing import Literal

import msgspec

from contract.errors import FeatureError


class FeatureParams(msgspec.Struct, frozen=True, kw_only=True):
    """How a window of sound becomes features. Defaults are the reference design's.

    Raises:
        FeatureError: the values contradict each other.
    """

    kind: Literal["mfcc", "logmel"] = "mfcc"
    sample_rate_hz: int = 16_000
    window_samples: int = 32_000
    """Length of one scored window, in samples."""
    n_fft: int = 2048
    frame_hop_samples: int = 512
    """Distance between two spectra inside a window, in samples (librosa: hop_length)."""
    n_mels: int = 128
    n_mfcc: int = 40
    """Number of cepstral coefficients; not used by `logmel`."""
    fmin_hz: float = 0.0
    fmax_hz: float | None = None
    """Upper edge of the mel filters; None is half the sample rate."""
    top_db: float = 80.0
    """Values more than this below the window's own maximum are raised to it."""
    frames: int = 64
    """Columns of the array; spectra beyond the sound's own are zeros."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be {low} to {high}, got {value}"
            for name, value, low, high in (
                ("sample_rate_hz", self.sample_rate_hz, 1_000, 192_000),
                ("window_samples", self.window_samples, 256, 4_000_000),
                ("n_fft", self.n_fft, 64, 65_536),
                ("frame_hop_samples", self.frame_hop_samples, 16, 65_536),
                ("n_mels", self.n_mels, 4, 512),
                ("n_mfcc", self.n_mfcc, 1, self.n_mels if self.kind == "mfcc" else 512),
                ("fmin_hz", self.fmin_hz, 0, self.sample_rate_hz / 2),
                ("fmax_hz", self.top_frequency_hz, self.fmin_hz + 1, self.sample_rate_hz / 2),
                ("top_db", self.top_db, 1, 200),
                ("frames", self.frames, self.sound_frames, 65_536),
            )
            if not low <= value <= high
        ]
        if problems:
            raise FeatureError("feature parameters: " + "; ".join(problems))

    @property
    def top_frequency_hz(self) -> float:
        """Upper edge of the mel filters, in Hz."""
        return self.sample_rate_hz / 2 if self.fmax_hz is None else self.fmax_hz

    @property
    def sound_frames(self) -> int:
        """Spectra that one window gives, before zero columns are added."""
        return 1 + self.window_samples // max(self.frame_hop_samples, 1)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the feature array: (coefficients or bands, frames)."""
        return (self.n_mfcc if self.kind == "mfcc" else self.n_mels, self.frames)

    @property
    def window_us(self) -> int:
        """Length of one window in microseconds."""
        return self.window_samples * 1_000_000 // self.sample_rate_hz
