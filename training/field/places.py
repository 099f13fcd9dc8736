"""Where normal sound is of one kind, as far as a data set's names tell: its places."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from training.errors import DataError
from training.made.harden import original_of, planted_in
from training.sound.dataset import Clip, Dataset

# A half with a single clip would be that clip over and over.
_FEWEST_CLIPS = 4


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where normal sound is of one kind, as far as names tell."""

    name: str
    normals: tuple[Clip, ...]
    """Held out, in order of name."""
    anomalies: tuple[Clip, ...]


def find_places(dataset: Dataset, new_places: Sequence[str] = ()) -> list[Place]:
    """The places of a data set's test clips.

    A session is a place; where all are too small, or names do not tell, a section's domain is. In
    hard data sets a planted fault belongs to the place of its original. Other anomalies belong to
    the session of their name or, if it has no normal clips, to all places of their domain.

    Args:
        dataset: with labelled test clips.
        new_places: names of normal files with which another place begins, in order of name.

    Raises:
        DataError: no place has enough normal clips, or there is no such file.
    """
    normals = [clip for clip in dataset.test if clip.label == "normal"]
    unknown = set(new_places) - {clip.path.name for clip in normals}
    if unknown:
        raise DataError(f"{dataset.folder}: no normal test clip is called {min(unknown)}")
    sessions = _grouped(normals, new_places, by_session=True)
    large = {name: clips for name, clips in sessions.items() if len(clips) >= _FEWEST_CLIPS}
    if not large:
        by_domain = _grouped(normals, new_places, by_session=False)
        large = {name: clips for name, clips in by_domain.items() if len(clips) >= _FEWEST_CLIPS}
    if not large:
        raise DataError(
            f"{dataset.folder}: expected at least {_FEWEST_CLIPS} normal test clips of one session"
            f" or domain, got {max(map(len, sessions.values()), default=0)}"
        )
    anomalies = [clip for clip in dataset.test if clip.label == "anomaly"]
    heard = {clip.session for clip in normals}
    return [
        Place(
            name=name,
            normals=tuple(clips),
            anomalies=tuple(clip for clip in anomalies if _belongs(clip, clips, heard)),
        )
        for name, clips in large.items()
    ]


def _grouped(
    clips: Sequence[Clip], new_places: Sequence[str], *, by_session: bool
) -> dict[str, list[Clip]]:
    groups: dict[str, list[Clip]] = {}
    parts: Counter[str] = Counter()
    for clip in clips:
        name = f"{clip.section}/{clip.domain}"
        if by_session and clip.session is not None:
            name = f"{name} {clip.session.removeprefix(name + '/')}"
        # The first part keeps the plain name.
        parts[name] += clip.path.name in new_places and name in groups
        groups.setdefault(f"{name} part {parts[name] + 1}" if parts[name] else name, []).append(
            clip
        )
    return groups


def _belongs(anomaly: Clip, normals: Sequence[Clip], heard: set[str | None]) -> bool:
    if planted_in(anomaly) is not None:
        return original_of(anomaly) in {str(clip.path) for clip in normals}
    first = normals[0]
    if (anomaly.section, anomaly.domain) != (first.section, first.domain):
        return False
    return anomaly.session not in heard or any(clip.session == anomaly.session for clip in normals)
