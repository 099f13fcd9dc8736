"""When a release that runs has proven itself: live windows scored, and the broker reached. Pure."""


class Proof:
    """Collects what a release has to show before it is committed.

    Args:
        manifest_sha256: of the release.
        windows: how many it has to score.
    """

    def __init__(self, manifest_sha256: str, *, windows: int) -> None:
        self.manifest_sha256 = manifest_sha256
        self._wanted = windows
        self._windows = 0
        self._confirmed_before: int | None = None
        self._complete = False

    def hear(self, *, scored: bool, confirmed: int) -> bool:
        """Take in a window; gives whether the proof is complete with it, which is so only once.

        Args:
            scored: whether the release has scored it: else it proves nothing.
            confirmed: publications that the broker has taken since the node started.
        """
        self._windows += scored
        if self._confirmed_before is None:
            self._confirmed_before = confirmed
        reached = confirmed > self._confirmed_before
        if self._complete or not reached or self._windows < self._wanted:
            return False
        self._complete = True
        return True
