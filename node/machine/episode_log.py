"""Episodes of abnormal sound, from the windows of a running node to the events that tell of them.

What an episode is, `node.machine.episodes` says; here each is kept in the state folder, so that it
goes on across a restart, and becomes the message `Event` and a line in the log.
"""

import logging
from collections.abc import Mapping

from contract.messages import Event, Window
from contract.states import EpisodePhase, MachineState
from node.machine.episodes import Episode, Episodes
from node.machine.machine_watch import MachineWatch
from node.machine.site_store import SiteStore
from node.scoring.detector import Detector
from node.scoring.scorer import Evidence

logger = logging.getLogger(__name__)


class EpisodeLog:
    """Follows one machine's episodes.

    Args:
        store: the node's memory; an episode that it holds goes on.
        boot: id of this start of the node.
    """

    def __init__(self, store: SiteStore, *, boot: str) -> None:
        self._store = store
        self._episodes = Episodes(boot, store.episode())

    @property
    def machine(self) -> MachineState:
        """The machine's state by the episode that is open; unknown if none is."""
        episode = self._episodes.open
        return MachineState.UNKNOWN if episode is None else episode.state

    def hear(
        self, window: Window, evidence: Evidence | None, watch: MachineWatch, detector: Detector
    ) -> Event | None:
        """Take in the next window; gives what there is to tell of an episode, if anything.

        Args:
            window: as it is published.
            evidence: of its score; None if it has none.
            watch: has judged it.
            detector: of the release that has scored it.
        """
        end_us = window.start_us + window.duration_us
        phase = self._episodes.hear(
            seq=window.seq,
            end_us=end_us,
            state=window.state,
            rule=watch.rule,
            score=window.score,
        )
        if phase is None:
            return None
        if phase is not EpisodePhase.CLOSED and evidence is not None:
            self._episodes.note_bands(watch.strongest_bands_hz(evidence, detector))
        episode = self._episodes.open
        assert episode is not None
        if phase is EpisodePhase.CLOSED:
            self._episodes.forget()
        # First kept, then told: whoever heard it open hears it close, whatever happens to us now.
        self._store.keep_episode(self._episodes.open)
        if phase is EpisodePhase.CLOSED:
            logger.info("%s", _in_words(episode, phase, window.state))
        else:
            logger.warning("%s", _in_words(episode, phase, window.state))
        return Event(
            node=window.node,
            boot=window.boot,
            at_us=end_us,
            episode_id=episode.id,
            phase=phase,
            state=window.state,
            opened_us=episode.opened_us,
            rule=episode.rule,
            peak_score=episode.peak_score,
            windows=episode.windows,
            bands_hz=episode.bands_hz,
            model=window.model,
        )

    def restamp(self, ends_us: Mapping[int, int]) -> None:
        """Correct the times of an episode that opened before the clock was right.

        Args:
            ends_us: by what a window's end was taken for, what it is.
        """
        episode = self._episodes.open
        if episode is not None and episode.opened_us in ends_us:
            self._episodes.restamp(ends_us)
            self._store.keep_episode(self._episodes.open)


def _in_words(episode: Episode, phase: EpisodePhase, machine: MachineState) -> str:
    """For example "WARNING: 183 times the threshold, most of it near 1200 Hz (episode ...)"."""
    times = f"{episode.peak_score:.3g} times the threshold"
    name = f"episode {episode.id} {phase}"
    if phase is EpisodePhase.CLOSED:
        return f"the machine is {machine} again; at its worst it was {times} ({name})"
    bands = " and ".join(f"{hz:.0f}" for hz in episode.bands_hz)
    near = f", most of it near {bands} Hz" if bands else ""
    return f"{machine.upper()}: {times}{near} (by the {episode.rule} rule; {name})"
