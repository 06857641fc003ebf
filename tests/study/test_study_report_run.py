"""Who sends a study's report to W&B: the controller that leaves nothing of the study queued or running."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import run_dirs

from harness.config import Record
from harness.study import report_run
from harness.study.interruption import Interruption
from harness.study.report_run import send_report


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The words of every process that is started for it."""
    found: list[tuple[str, ...]] = []

    class Started:
        def __init__(self, words: tuple[str, ...], *_: object) -> None:
            found.append(words)
            self.process = SimpleNamespace(pid=1)

        def finish(self, _: Interruption) -> None:
            """It ends at once."""

    monkeypatch.setattr(report_run, "Mirror", Started)
    return found


def end(study: Path, *statuses: str, mode: str = "online", interruption: Interruption | None = None) -> None:
    """The end of a controller whose points came to these statuses."""
    config = run_dirs.make_config("ddp", record=Record("default", wandb=mode))
    planned = SimpleNamespace(point=SimpleNamespace(config=config, study_dir=study))
    send_report([planned] * len(statuses), list(statuses), interruption or Interruption(), print)  # type: ignore[list-item]


def test_it_is_sent_in_the_mode_of_the_points(
    tmp_path: Path, started: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
):
    study = run_dirs.demo_study(tmp_path)
    end(study, "ok", "failed")
    assert started == [("harness.publish.report_run", str(study), "--mode=online")]
    # it ended without a word
    assert "`harness publish wandb` sends it" in capsys.readouterr().out


def test_nothing_is_sent_before_the_study_is_over(tmp_path: Path, started: list[tuple[str, ...]]):
    study = run_dirs.demo_study(tmp_path)
    end(study, "skipped", "skipped")
    end(study, "ok", "pending")
    end(study, "ok", mode="disabled")
    stopped = Interruption()
    stopped._note(2, None)  # type: ignore[arg-type]
    end(study, "ok", interruption=stopped)
    assert started == []


def test_the_last_of_several_controllers_sends_it(tmp_path: Path, started: list[tuple[str, ...]]):
    study = run_dirs.demo_study(tmp_path)
    config = run_dirs.make_config("ddp", 4)
    theirs = run_dirs.add_point(study, config, status="running")
    held = run_dirs.record(
        "lease",
        run_dirs.EPOCH,
        None,
        host="elsewhere",
        boot="b",
        namespace="n",
        pid=1,
        started=1.0,
        job=None,
        token="t",
    )
    (theirs / "lease.json").write_text(json.dumps(held))
    end(study, "ok")
    assert started == []
    # whoever has died holds nobody up
    (theirs / "lease.json").unlink()
    end(study, "ok")
    assert len(started) == 1
