"""Whole studies through the command, with the real worker on this machine's CPUs."""

import json
import os
import signal
import subprocess
from pathlib import Path

import jsonschema
import psutil
import pytest
from study_command import QUICK, Command, wait_for

import harness
from harness.study.outcome import outcome
from launch.devices import machine
from launch.local import marked

SWEEP = ("run", "-m", "study=s", "parallel=ddp,fsdp", "gpus_per_node=2,65", *QUICK)


@pytest.fixture(scope="module")
def secrets() -> dict[str, str]:
    return {"WANDB_API_KEY": "f" * 40, "SOME_TOKEN": "hush-hush", "NCCL_IB_DISABLE": "1"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, secrets: dict[str, str]) -> Command:
    """A study of two points that run and two that this machine cannot run."""
    folder = tmp_path_factory.mktemp("study")
    if harness_sees_gpus():
        pytest.skip("tries a scale that CPUs do not have")
    command = Command(folder, secrets)
    ended = command(*SWEEP)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (folder / "first.txt").write_text(ended.stdout)
    return command


def harness_sees_gpus() -> bool:
    return bool(machine().gpus)


def validator() -> jsonschema.Draft202012Validator:
    path = Path(harness.__file__).parent / "records.schema.json"
    return jsonschema.Draft202012Validator(json.loads(path.read_text()))


def test_impossible_points_are_invalid_and_the_others_run(study: Command) -> None:
    found = {slug.rpartition("-")[0]: status for slug, status in study.status("s").items()}
    assert {name: status["status"] for name, status in found.items()} == {
        "tiny-ddp-n1x2-default-r0": "ok",
        "tiny-fsdp-n1x2-default-r0": "ok",
        "tiny-ddp-n1x65-default-r0": "invalid",
        "tiny-fsdp-n1x65-default-r0": "invalid",
    }
    assert "gpus_per_node=65" in found["tiny-ddp-n1x65-default-r0"]["reason"]


def test_a_line_says_when_a_point_starts_and_how_it_ends(study: Command) -> None:
    lines = (study.folder / "first.txt").read_text().splitlines()
    started = [line for line in lines if line.endswith(": started, 2 ranks")]
    ended = [line for line in lines if ": ok, " in line]
    assert len(started) == len(ended) == 2
    assert all("tokens/s, loss " in line and line.endswith(" s") for line in ended)
    assert lines[-1] == "4 points: 2 ok, 2 invalid" or lines[-1] == "4 points: 2 invalid, 2 ok"


def test_records_keep_to_the_schema(study: Command) -> None:
    schema = validator()
    positions = set()
    for path in study.points("s").values():
        status = json.loads((path / "status.json").read_text())
        schema.validate(status)
        if status["status"] == "ok":
            launch = json.loads((path / "attempts" / "0" / "launch.json").read_text())
            schema.validate(launch)
            assert launch["exit_code"] == 0
            assert launch["start"] < launch["end"]
            positions.add(launch["position"])
            assert {"config.yaml", "provenance.json", "env.json", "command.sh"} <= {
                file.name for file in path.iterdir()
            }
        assert not list(path.glob("*lease*"))
    assert len(positions) == 2
    schema.validate(document := json.loads((study.folder / "studies" / "s" / "study.json").read_text()))
    assert document["name"] == "s"


def test_provenance_and_environment_say_what_ran(study: Command) -> None:
    path = next(path for slug, path in study.points("s").items() if "n1x2" in slug)
    provenance = json.loads((path / "provenance.json").read_text())
    assert provenance["versions"]["torch"].startswith("2.")
    assert provenance["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert provenance["command"][1:] == list(SWEEP)
    environment = json.loads((path / "env.json").read_text())
    assert environment["ambient"] == environment["effective"] == {"NCCL_IB_DISABLE": "1"}
    assert environment["added"]["HARNESS_POINT"] == str(path)


def test_no_secret_reaches_a_file(study: Command, secrets: dict[str, str]) -> None:
    written = b"".join(path.read_bytes() for path in study.files() if path.is_file())
    assert secrets["WANDB_API_KEY"].encode() not in written
    assert secrets["SOME_TOKEN"].encode() not in written


def test_the_command_can_be_run_by_hand_and_leaves_the_record_alone(study: Command) -> None:
    path = next(path for slug, path in study.points("s").items() if "ddp-n1x2" in slug)
    before = (path / "attempts" / "0" / "events.jsonl").read_bytes()
    ended = subprocess.run(["sh", path / "command.sh"], cwd="/", capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    again = Path(ended.stdout.splitlines()[-1]) / "attempts" / "0"
    assert outcome(again, 0, ["here"], 2).status == "ok"
    assert (path / "attempts" / "0" / "events.jsonl").read_bytes() == before


def test_status_is_told_to_people_and_to_programs(study: Command) -> None:
    shown = study("status", "s")
    assert shown.stdout.splitlines()[0] == "study s: 2 ok, 2 invalid" or "2 invalid, 2 ok" in shown.stdout
    document = json.loads(study("status", str(study.folder / "studies" / "s"), "--json").stdout)
    validator().validate(document)
    assert document["counts"] == {"ok": 2, "invalid": 2}
    assert all(point["holder"] is None and not point["lost"] for point in document["points"])


def test_a_report_ends_with_its_page_and_is_one_document_for_programs(study: Command) -> None:
    page = Path(study("report", "s").stdout.splitlines()[-1])
    assert page == study.folder / "studies" / "s" / "report" / "index.html"
    assert page.is_file()
    document = json.loads(study("report", "s", "--json").stdout)
    assert {point["status"] for point in document["points"]} == {"ok", "invalid"}


def test_a_second_run_skips_what_is_ok_and_growing_renames_nothing(study: Command) -> None:
    before = {slug: (path / "status.json").read_bytes() for slug, path in study.points("s").items() if "n1x2" in slug}
    ended = study("run", "-m", "study=s", "parallel=ddp,fsdp", "gpus_per_node=2,66", *QUICK)
    assert ended.returncode == 0
    assert ended.stdout.count(": skipped, ok already") == 2
    after = study.points("s")
    assert len(after) == 6
    assert before == {slug: (after[slug] / "status.json").read_bytes() for slug in before}


def test_rerun_keeps_the_old_record_aside(study: Command) -> None:
    words = ("run", "study=s", "parallel=ddp", "gpus_per_node=2", *QUICK, "rerun=true")
    old = next(path for slug, path in study.points("s").items() if "ddp-n1x2" in slug)
    record = (old / "attempts" / "0" / "events.jsonl").read_bytes()
    ended = study(*words, stand_in="ok")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    kept = old.with_name(f"{old.name}~1")
    assert f"was ok, kept as {kept.name}" in ended.stdout
    assert (kept / "attempts" / "0" / "events.jsonl").read_bytes() == record
    assert (old / "attempts" / "0" / "events.jsonl").read_bytes() != record
    assert old.with_name(f"{old.name}~1").name not in study("status", "s").stdout


def test_a_killed_rank_is_named(tmp_path: Path) -> None:
    command = Command(tmp_path, {})
    process = command.start("run", "gpus_per_node=2", *QUICK, "steps=100000")

    def second_rank() -> psutil.Process | None:
        points = list(tmp_path.glob("studies/default/points/*/attempts/0/events.jsonl"))
        if not points or '"step"' not in points[0].read_text():
            return None
        ranks = [p for p in marked(str(points[0].parents[2])) if p.environ().get("RANK") == "1"]
        return ranks[0] if ranks else None

    wait_for(second_rank).send_signal(signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    [status] = command.status().values()
    assert (status["status"], status["rank"], status["reason"]) == ("failed", 1, "rank 1: ended with SIGKILL")
    assert "rank 1: ended with SIGKILL" in out


def test_a_hostile_name_touches_nothing(tmp_path: Path) -> None:
    command = Command(tmp_path, {})
    for word in ('model.name="x; touch pwned $(touch pwned)"', 'study="x; touch pwned"', 'data.path="$(touch pwned)"'):
        assert command("run", word, *QUICK, stand_in="ok").returncode == 2
    assert command.files() == []
