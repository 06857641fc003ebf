"""What hosts answer to a sweep, and what is made of srun's words, with a stand-in for srun."""

import json
from pathlib import Path

import pytest

from launch.allocation import Host
from launch.probe import ask
from launch.sweep import Answer, sweep

HOSTS = [Host("n0", "10.0.0.1"), Host("n1", "10.0.0.2")]


@pytest.fixture
def srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a stand-in for srun finds what to print, to complain of and to exit with."""
    (tmp_path / "srun").write_text(f'#!/bin/bash\ncd {tmp_path}; cat out; cat err >&2; exit "$(cat code)"\n')
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def says(srun: Path, out: str = "", err: str = "", code: int = 0) -> None:
    for name, text in {"out": out, "err": err, "code": str(code)}.items():
        (srun / name).write_text(text)


def answer(number: int, *left: int) -> str:
    return json.dumps({"number": number, "left": left, "markers": ["/studies/one"]}) + "\n"


def test_what_could_not_be_ended_is_told_with_its_host(srun: Path) -> None:
    says(srun, answer(1, 17) + answer(0))
    assert sweep(HOSTS) == [
        Answer("n0", True, ["/studies/one"], []),
        Answer("n1", True, ["/studies/one"], ["process 17 on n1"]),
    ]


def test_a_host_without_a_whole_answer_is_silent(srun: Path) -> None:
    says(srun, answer(0) + answer(1)[:20], "srun: error: Timed out\n", 1)
    assert [host.came for host in sweep(HOSTS)] == [True, False]


def test_a_job_that_slurm_ends_needs_no_sweep(srun: Path) -> None:
    says(srun, "", "srun: error: Unable to create step for job 5: Job/step already completing or completed\n", 1)
    assert sweep(HOSTS) == [Answer("n0", True), Answer("n1", True)]


def test_a_host_that_is_not_reached_is_told_by_sruns_error_and_not_by_its_remarks(srun: Path, tmp_path: Path) -> None:
    says(srun, "", "srun: no support for cpu binding\nsrun: error: Task launch failed on node n1: down\nsrun: x\n", 1)
    with pytest.raises(ValueError, match=r"not all of these hosts answered: srun: error: .* failed on node n1: down$"):
        ask(HOSTS, tmp_path)
