"""Ranks meet at a port that nobody can have taken from them."""

import subprocess
from pathlib import Path

from launch.environment import build
from launch.torchrun import Ranks, command

# what a rank finds where it is to meet the others, before any of them listens at anything
ASKING = """import os, torch.distributed as dist
store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
store.set(os.environ["RANK"], "here")
store.wait(["0", "1"])
print("met")
"""


def test_ranks_meet_where_torchrun_listens_itself(tmp_path: Path) -> None:
    """A port that is only looked for, and listened at by rank 0 seconds later, is sometimes another's by then."""
    (tmp_path / "asking.py").write_text(ASKING)
    environment = build({}, False, tmp_path, tmp_path, 0, 0)
    variables = environment.variables | {"PYTHONPATH": str(tmp_path)}
    words = command(Ranks(["asking"], "asking", nodes=1, per_node=2), tmp_path / "logs")
    subprocess.run(words, env=variables, check=True, capture_output=True, timeout=120)
    assert [log.read_text() for log in (tmp_path / "logs").rglob("stdout.log")] == ["met\n"] * 2
