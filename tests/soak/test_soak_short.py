"""A short form of `make soak`: a point is disturbed in several ways and is what it would have been."""

import os
from pathlib import Path

from soak import Form, soaked

SHORT = Form(
    ranks=2,
    steps=60,
    every=5,
    kinds=("torn record", "SIGKILL of torchrun", "full disk", "SIGKILL of the controller"),
    hang_s=60,
)


def test_a_point_that_is_disturbed_again_and_again_is_what_it_would_have_been(tmp_path: Path) -> None:
    checks, measured = soaked(SHORT, tmp_path, tmp_path / "kept")
    assert [check for check in checks if not check.ok] == [], measured["wrong"]
    assert len(measured["faults"]) == len(SHORT.kinds) - (os.geteuid() != 0)
