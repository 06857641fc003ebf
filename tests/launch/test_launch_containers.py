"""Ranks in a container: what they see of the host, whose variables win, and who cleans up after them."""

import os
import sys
from pathlib import Path

import pytest

from launch.container import container
from launch.environment import SOURCE, Environment, build
from launch.launchers import Launcher, launcher
from launch.torchrun import Ranks

IMAGE = "/images/pytorch.sqsh"
RANKS = Ranks(["harness.worker"], "slug", 2, 8)
STUB = """\
#!/bin/bash
printf '%s ' "$@" >> "$CALLS"
echo >> "$CALLS"
[ "$1" = --overlap ] || exit 3
"""


def contained(study_dir: Path, mounts: str | None = None) -> Launcher:
    return launcher("srun", 2, container(IMAGE, mounts, study_dir))


def made(run_dir: Path) -> Environment:
    return build({"NCCL_ALGO": "allreduce:ring"}, False, run_dir, run_dir / "logs", 8, 10)


def words(started_by: Launcher, run_dir: Path) -> list[str]:
    """A step's words before the ranks' own."""
    command = started_by.command(RANKS, run_dir / "attempts" / "0", made(run_dir))
    return command[: command.index("--")]


def option(words: list[str], name: str) -> list[str]:
    """What stands behind an option, by its commas."""
    [word] = [word for word in words if word.startswith(f"--{name}=")]
    return word.partition("=")[2].split(",")


def test_variables_of_nccl_and_of_the_harness_win_over_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_IB_HCA", "mlx5_9")
    monkeypatch.setenv("HF_TOKEN", "verysecret")
    found = words(contained(tmp_path), tmp_path)
    environment = made(tmp_path)
    assert set(option(found, "container-env")) == {"NCCL_IB_HCA", "NCCL_ALGO", *environment.added}
    assert "verysecret" not in " ".join(found)


def test_variables_that_are_cleared_are_not_taken_from_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_IB_HCA", "mlx5_9")
    cleared = build({}, True, tmp_path, tmp_path, 8, 10)
    command = contained(tmp_path).command(RANKS, tmp_path, cleared)
    assert "NCCL_IB_HCA" not in option(command, "container-env")


def test_the_interpreter_is_the_images_own(tmp_path: Path) -> None:
    found = words(contained(tmp_path), tmp_path)
    assert found[found.index("-m") - 1] == "python3"
    assert sys.executable not in found
    on_hosts = words(launcher("srun", 2), tmp_path)
    assert on_hosts[on_hosts.index("-m") - 1] == sys.executable
    assert not any("container" in word for word in on_hosts)


def test_source_study_and_working_directory_are_where_they_are_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, elsewhere = tmp_path / "studies" / "default", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    found = words(contained(study, "/data:/data:ro,/scratch:/tmp"), study / "points" / "slug")
    own = [f"{folder}:{folder}" for folder in (SOURCE, study, elsewhere)]
    assert option(found, "container-mounts") == [*own, "/data:/data:ro", "/scratch:/tmp"]
    assert option(found, "container-workdir") == [str(elsewhere)]


@pytest.mark.parametrize("within", ["source", "study"])
def test_a_working_directory_that_is_mounted_already_is_mounted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: str
) -> None:
    monkeypatch.chdir(SOURCE / "launch" if within == "source" else tmp_path)
    found = words(contained(tmp_path), tmp_path)
    assert option(found, "container-mounts") == [f"{SOURCE}:{SOURCE}", f"{tmp_path}:{tmp_path}"]


@pytest.mark.parametrize("mounts", ["/a b:/c", "/$(touch pwned):/c", "/`touch pwned`:/c", '/a":/c', "/a:/c\n/d:/e"])
def test_mounts_that_pyxis_would_hand_to_a_shell_are_refused(tmp_path: Path, mounts: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)^launcher\.container_mounts=.* must be host:container paths"):
        contained(tmp_path, mounts)


@pytest.mark.parametrize("name", ["a b", "$(touch pwned)", "one,two", "one:two"])
def test_a_folder_that_pyxis_cannot_mount_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^launcher\.container_image={IMAGE}: .* cannot be mounted"):
        contained(tmp_path / name)


def test_no_image_is_no_container(tmp_path: Path) -> None:
    assert container(None, "/data:/data", tmp_path) is None


def test_what_a_step_leaves_behind_is_ended_on_the_hosts_and_not_in_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "srun").write_text(STUB)
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    started_by, environment = contained(tmp_path), made(tmp_path)
    command = started_by.command(RANKS, tmp_path, environment)
    with started_by.start(command, environment, tmp_path / "log", 2) as step:
        step.process.wait(20)
    ranks, sweep = (tmp_path / "calls").read_text().splitlines()
    assert f"--container-image={IMAGE}" in ranks
    assert "container" not in sweep.replace(str(tmp_path), "")
    assert f"{sys.executable} -m launch.sweep {tmp_path}" in sweep
