"""`profile=torch` from the command line to the trace, on two ranks."""

import gzip
import json
from pathlib import Path

import pytest
from run_dirs import validator
from study_command import QUICK, Command

CHOSEN = ("profile=torch", "profile.ranks=1", "profile.first_step=5", "profile.steps=2")


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The attempts of one point, with a profiler and without, which are one and the same work."""
    command = Command(tmp_path_factory.mktemp("profile"), {"CUDA_VISIBLE_DEVICES": ""})
    found = {}
    for study, words in (("with", CHOSEN), ("without", ())):
        ended = command("run", f"study={study}", "gpus_per_node=2", *QUICK, "steps=16", *words)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        [(slug, run_dir)] = command.points(study).items()
        found[study] = run_dir / "attempts" / "0"
        found.setdefault("slug", slug)
        assert found["slug"] == slug, "a profiler makes a point no other work"
    again = command("run", "study=without", "gpus_per_node=2", *QUICK, "steps=16", *CHOSEN)
    assert "ok already (warning: it ran without profile=torch; rerun=true runs it again)" in again.stdout
    return found


@pytest.fixture(scope="module")
def trace(attempts: dict[str, Path]) -> dict:
    with gzip.open(attempts["with"] / "profile" / "rank1.trace.json.gz", "rt") as file:
        return json.load(file)


def events(attempt: Path, kind: str) -> list[dict]:
    everything = [json.loads(line) for line in (attempt / "events.jsonl").read_text().splitlines()]
    return [record for record in everything if record["kind"] == kind]


def spans(trace: dict, category: str) -> list[dict]:
    return sorted((e for e in trace["traceEvents"] if e.get("cat") == category), key=lambda e: e["ts"])


def inside(event: dict, outer: dict) -> bool:
    return outer["ts"] <= event["ts"] and event["ts"] + event["dur"] <= outer["ts"] + outer["dur"]


def test_there_is_a_trace_of_the_chosen_rank_and_nothing_else(attempts) -> None:
    assert [path.name for path in (attempts["with"] / "profile").iterdir()] == ["rank1.trace.json.gz"]
    assert not (attempts["without"] / "profile").exists()


def test_every_event_is_one_of_the_chrome_trace_format(trace) -> None:
    """As Perfetto reads it: complete events with start and duration, instants, and names of processes and threads."""
    assert trace["displayTimeUnit"] in ("ms", "ns")
    for event in trace["traceEvents"]:
        assert event["ph"] in "XiMsf"
        assert isinstance(event["name"], str) and "pid" in event and "tid" in event
        if event["ph"] == "X":
            assert event["ts"] >= 0 and event["dur"] >= 0
            assert set(event.get("args", {})) <= {"correlation", "stream", "device", "grid", "block", "bytes"}
    names = [e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"]
    assert any("python" in name for name in names)


def test_it_holds_the_chosen_steps_with_what_they_are_made_of(trace) -> None:
    ranges = spans(trace, "user_annotation")
    steps = [event for event in ranges if event["name"].startswith(("step ", "first"))]
    assert [event["name"] for event in steps] == ["step 5", "step 6"]
    operators = spans(trace, "cpu_op")
    for step in steps:
        told = [event for event in ranges if inside(event, step)]
        ours = [e for e in told if e["name"] in ("data", "forward", "loss", "backward", "optimizer")]
        assert [e["name"] for e in ours] == ["data", "forward", "loss", "backward", "optimizer"]
        for name, operator in (("forward", "aten::mm"), ("backward", "aten::mm"), ("optimizer", "aten::_foreach_")):
            (range_,) = (e for e in ours if e["name"] == name)
            assert any(operator in e["name"] and inside(e, range_) for e in operators), (name, operator)
        assert any(e["name"] == "gloo:all_reduce" for e in told), "gradients are exchanged within the step"


def test_profiled_steps_are_outside_the_window_and_counted(attempts) -> None:
    roles = {record["step"]: record["role"] for record in events(attempts["with"], "step")}
    assert [step for step, role in roles.items() if role == "profiled"] == [5, 6]
    # 8 and 14 are sampled every 6th step after the warm-up
    assert [step for step, role in roles.items() if role == "sampled"] == [8, 14]
    assert [step for step, role in roles.items() if role == "measured"] == [3, 4, 7, *range(9, 14), 15, 16]
    for record in events(attempts["with"], "step"):
        validator().validate(record)
    measured = [r["duration_s"] for r in events(attempts["with"], "step") if r["role"] == "measured"]
    window = events(attempts["with"], "ranks")[-1]["window_s"]
    assert sum(measured) <= window + 1e-6
    assert len(measured) == 10


def test_writing_the_trace_is_no_part_of_a_step(attempts) -> None:
    steps = {record["step"]: record for record in events(attempts["with"], "step")}
    pauses = [record for record in events(attempts["with"], "phase") if record["name"] == "profiling"]

    def paused(before: int) -> float:
        """How long the pauses between a step and the one after it were: the recorder's own, then the profiler's."""
        end = steps[before]["start"] + steps[before]["duration_s"]
        return sum(p["duration_s"] for p in pauses if end - 1e-3 < p["start"] < steps[before + 1]["start"] - 1e-6)

    # rank 0 is not profiled and waits there for rank 1, which writes; its next step does not hold that
    assert paused(6) == pytest.approx(steps[7]["start"] - steps[6]["start"] - steps[6]["duration_s"], abs=1e-3)
    assert paused(6) > 0.01
    assert steps[7]["duration_s"] < paused(6) + 0.1


def test_losses_are_the_same_with_a_profiler_and_without(attempts) -> None:
    one, other = (
        [(r["step"], r["loss"], r["grad_norm"]) for r in events(attempts[study], "step")]
        for study in ("with", "without")
    )
    assert one == other
