"""The controller of one point, in the job that was submitted for it."""

import argparse
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from harness.stored import stored_config
from harness.study import lease
from harness.study.controller import run_all
from harness.study.planning import plan_all
from harness.study.point import Point
from harness.study.preflight import look
from harness.study.progress import Progress
from harness.study.rundir import read_status, write_status
from harness.study.turn import PATIENCE_S
from launch.container import container
from launch.launchers import Srun, launcher


def main() -> int:
    parser = argparse.ArgumentParser(prog="harness.study.job", description="Runs a point in its job.")
    parser.add_argument("run_dir", type=Path)
    run_dir = parser.parse_args().run_dir
    config = stored_config(run_dir)
    # planned for the hosts that the job has got
    point = Point(replace(config, launcher=replace(config.launcher, kind="srun")))
    assert point.run_dir == run_dir, (point.run_dir, run_dir)
    inside = container(config.launcher.container_image, config.launcher.container_mounts, point.study_dir)
    try:
        started_by = launcher("srun", container=inside)
        assert isinstance(started_by, Srun)
        here, hosts = look([point], started_by, point.study_dir)
        order = plan_all([point], here, len(started_by.hosts))
    except ValueError as error:
        with lease.acquire_within(run_dir, PATIENCE_S) or nullcontext():
            if (read_status(run_dir) or {}).get("status") != "ok":
                write_status(run_dir, "failed", str(error))
        raise
    return run_all(order, False, here, started_by, hosts, Progress(), own_job=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.stderr.write(f"harness: {error}\n")
        sys.exit(2)
