"""Whether a point can still end before its allocation does."""

from harness.study.planning import Planned
from launch.launchers import Launcher


class Remaining:
    """What is left of an allocation's time, against what points take.

    A point takes what its plan says and as much beside it as any has so far, for its start and its preflight; one
    without such a plan takes as long as the longest so far.
    """

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self.longest = self.beside = 0.0

    def took(self, planned: Planned, seconds: float) -> None:
        """Note how long a point's turn was."""
        self.longest = max(self.longest, seconds)
        self.beside = max(self.beside, seconds - (planned.possible.seconds or seconds))

    def lacks(self, planned: Planned) -> str | None:
        """Why the point must not start now, or None where it fits."""
        plan, left = planned.possible.seconds, self.launcher.left_s()
        needed = self.longest if plan is None else plan + self.beside
        if left is None or needed <= left:
            return None
        return f"takes about {needed:.0f} s, and the allocation has {left:.0f} s left"
