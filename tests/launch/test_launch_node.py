"""Hosts of a step meet at a port that is free on the first, and never at that of another step."""

import json
import socket
from pathlib import Path

import pytest

from launch import node


@pytest.fixture(autouse=True)
def step(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_STEP_ID", "3")
    return monkeypatch


def test_a_port_that_is_taken_is_not_chosen(tmp_path: Path, step: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as given_back:
        used, free = taken.getsockname()[1], given_back.getsockname()[1]
        given_back.close()
        tried = iter([used, used, free])
        step.setattr(node.random, "choice", lambda ports: next(tried))
        node.open_meeting(tmp_path / "meeting.json", "127.0.0.1")
    assert node.find_meeting(tmp_path / "meeting.json") == f"127.0.0.1:{free}"
    assert list(tried) == []


def test_the_meeting_of_an_earlier_step_is_not_taken_for_this_one(tmp_path: Path, step: pytest.MonkeyPatch) -> None:
    (tmp_path / "meeting.json").write_text(json.dumps({"address": "10.0.0.9", "port": 1, "step": "7.2"}))
    step.setattr(node, "WAIT_S", 0.3)
    with pytest.raises(SystemExit, match=r"sees no .*meeting\.json of the first host; the study's folder must be on"):
        node.find_meeting(tmp_path / "meeting.json")


def test_a_folder_that_this_host_does_not_see_is_not_waited_for_as_long_as_an_image(
    tmp_path: Path, step: pytest.MonkeyPatch
) -> None:
    step.setattr(node, "FOLDER_S", 0.3)
    with pytest.raises(SystemExit, match="the study's folder must be on all hosts"):
        node.find_meeting(tmp_path / "elsewhere" / "meeting.json")


def test_an_address_that_this_host_does_not_have_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"cannot listen at 192\.0\.2\.1, which Slurm has as its NodeAddr"):
        node.open_meeting(tmp_path / "meeting.json", "192.0.2.1")
