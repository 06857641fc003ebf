"""What is asked of Slurm about an allocation; its commands are stand-ins that answer as Slurm 22.05 does."""

from pathlib import Path

import pytest

from launch.allocation import Host, allocation, ask, seconds

SCONTROL = """\
#!/bin/bash
case "$*" in
    "show hostnames n[1-2]") printf 'n1\\nn2\\n' ;;
    "show node --oneliner n[1-2]")
        echo "NodeName=n1 Arch=x86_64 NodeAddr=10.0.0.1 NodeHostName=n1 Version=22.05.8"
        echo "NodeName=n2 Arch=x86_64 NodeAddr=$SECOND NodeHostName=n2 Version=22.05.8" ;;
esac
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A job on two hosts."""
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.setenv("SECOND", "10.0.0.2")
    return monkeypatch


def test_hosts_are_reached_at_their_node_addresses(job: pytest.MonkeyPatch) -> None:
    assert allocation().hosts == (Host("n1", "10.0.0.1"), Host("n2", "10.0.0.2"))


def test_a_host_without_an_address_is_no_localhost(job: pytest.MonkeyPatch) -> None:
    job.setenv("SECOND", "(null)")
    with pytest.raises(ValueError, match=r"^n2: Slurm knows no NodeAddr of it; set one in slurm\.conf"):
        allocation()


def test_outside_of_a_job_there_is_none(job: pytest.MonkeyPatch) -> None:
    job.delenv("SLURM_JOB_ID")
    with pytest.raises(ValueError, match="must run inside a Slurm allocation; start it by salloc or sbatch"):
        allocation()


def test_without_slurm_the_missing_command_is_named(job: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "scontrol").unlink()
    job.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"^scontrol: not in PATH"):
        allocation()


def test_what_slurm_complains_of_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "sbatch: error: invalid partition specified: nope\\nallocation failure: Invalid partition name specified\\n"
    (tmp_path / "sbatch").write_text(f"#!/bin/bash\nprintf '{said}' >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ValueError) as raised:
        ask("sbatch", "--test-only")
    assert str(raised.value) == "sbatch: invalid partition specified: nope; Invalid partition name specified"


@pytest.mark.parametrize(
    ("left", "told"),
    [("59:58", 3598), ("2:03:04", 7384), ("1-02:03:04", 93784), ("UNLIMITED", None), ("INVALID", None), ("", None)],
)
def test_durations_are_read_as_slurm_writes_them(left: str, told: float | None) -> None:
    assert seconds(left) == told
