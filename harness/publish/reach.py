"""Whether W&B can be reached: asked once, and not by each run in turn.

`python -m harness.publish.reach FOLDER` is a process of its own for the W&B client's sake, and its logs go there.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import wandb

from harness.publish.client import sentence
from harness.publish.process import begin, leave

ASK_S = 10
# The client's start comes to that.
LONGEST_S = 20


def unreachable() -> str | None:
    """Why no run can be sent now, as the client says it; None where a server answers and knows who asks."""
    with TemporaryDirectory(prefix="harness-reach-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "harness.publish.reach", folder]
        nothing = subprocess.DEVNULL
        try:
            asked = subprocess.run(command, stdin=nothing, stdout=subprocess.PIPE, stderr=nothing, timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            return f"no answer within {LONGEST_S} s"
    said = asked.stdout.decode(errors="replace").strip()
    return None if asked.returncode == 0 else said or "the W&B client ended without a word"


def main() -> int:
    """Ask as a run would that is to be sent from a folder. Environment variables are read and set in `begin`."""
    begin(Path(sys.argv[1]))
    try:
        wandb.Api(timeout=ASK_S)  # without a key it asks nobody
    # The client fails in many ways when its server does.
    except Exception as error:
        print(sentence(error), flush=True)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    leave(main())
