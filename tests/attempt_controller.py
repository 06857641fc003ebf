"""A controller of one attempt: `python -m attempt_controller RUN_DIR K START_S` runs delayed_worker as attempt K.

The command is harness's own, behind a shell that notes when it was started, sleeps START_S seconds and notes that too,
in attempts/K/started and attempts/K/slept.
"""

import sys
from pathlib import Path

import yaml

from harness.study import lease
from harness.study.attempt import Deadline, run_attempt
from harness.study.interruption import Interruption
from launch import torchrun
from launch.environment import build
from launch.local import Tree

SHELL = 'date +%s.%N > "$1/started"; sleep "$2"; date +%s.%N > "$1/slept"; shift 2; exec "$@"'


def main() -> None:
    run_dir, number, start_s = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    folder = run_dir / "attempts" / number
    (folder / "logs").mkdir(parents=True)
    ranks = yaml.safe_load((run_dir / "config.yaml").read_text())["gpus_per_node"]
    program = ["delayed_worker", str(run_dir), f"--attempt={number}", "--device=cpu"]
    words = torchrun.command(torchrun.Ranks(program, run_dir.name, 1, ranks), folder / "logs")
    command = ["sh", "-c", SHELL, "sh", str(folder), start_s, *words]
    environment = build({}, False, run_dir, folder / "logs", 0, 0)
    held = lease.acquire(run_dir)
    assert held is not None
    with held, Interruption() as interruption:
        start = lambda log: Tree(command, environment, log)  # noqa: E731
        run_attempt(
            folder,
            command,
            start,
            ["here"],
            ranks,
            0,
            0.0,
            Deadline.after(200),
            held,
            interruption,
            lambda: None,
            print,
        )


if __name__ == "__main__":
    main()
