"""Whether a point can still end before its allocation does."""

from harness.study.planning import Planned
from launch.launchers import Launcher


class Remaining:
    """What is left of an allocation's time, against what points take: as planned, or as long as the longest so far."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self.longest = 0.0

    def took(self, seconds: float) -> None:
        """Note how long a point's turn was."""
        self.longest = max(self.longest, seconds)

    def lacks(self, planned: Planned) -> str | None:
        """Why the point must not start now, or None where it fits."""
        needed, left = planned.possible.seconds or self.longest, self.launcher.left_s()
        if left is None or needed <= left:
            return None
        return f"takes about {needed:.0f} s, and the allocation has {left:.0f} s left"
