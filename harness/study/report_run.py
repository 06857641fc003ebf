"""The study's own run in W&B, sent by whoever leaves nothing of the study waiting or running."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from harness.files import read_json
from harness.records import ACTIVE
from harness.study.interruption import Interruption
from harness.study.mirror import Mirror
from harness.study.overview import overview
from harness.study.planning import Planned

PATIENCE_S = 120.0


def send_report(
    order: list[Planned], statuses: list[str], interruption: Interruption, say: Callable[[str], None]
) -> None:
    """Send the report of a study that is over, and wait for that a while; what is wrong with it is only told."""
    modes = [mode for planned in order if (mode := planned.point.config.record.wandb) != "disabled"]
    ran = any(status != "skipped" for status in statuses)
    study_dir = order[0].point.study_dir
    if not modes or not ran or interruption.ended() or "pending" in statuses or goes_on(study_dir):
        return
    served = all(planned.point.config.faults.kind != "wandb_down" for planned in order)
    with suppress(OSError, ValueError):  # a disk that is full or gone is no matter of the points'
        words = ("harness.publish.report_run", str(study_dir), f"--mode={modes[0]}")
        mirror = Mirror(words, study_dir / "mirror.log", served, PATIENCE_S)
        mirror.finish(interruption)
        state = read_json(study_dir / "mirror.json") or {}
        if state.get("pid") != mirror.process.pid:
            log = study_dir / "mirror.log"
            say(f"W&B report nowhere: it did not come to sending, see {log}; `harness publish wandb` sends it")
        elif state.get("reason"):
            say(f"W&B report {state.get('mode_used') or 'nowhere'}: {state['reason']}")


def goes_on(study_dir: Path) -> bool:
    """Whether another controller or a job runs or will run points of the study."""
    try:
        points = overview(study_dir)["points"]
    except (OSError, ValueError):
        return False
    return any(point["status"] in ACTIVE and not point["lost"] for point in points)
