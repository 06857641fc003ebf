"""What a person gets wrong with Slurm: one sentence, exit 2, and no half-started study."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lab import HOSTS, SCALE, SOURCE, Cluster
from study import WORDS

pytestmark = pytest.mark.cluster

HARNESS = (sys.executable, "-m", "harness.cli")


def refused(cluster: Cluster, root: Path, *words: str, **variables: str) -> str:
    """The one sentence of a command that has to be refused, with nothing written."""
    command = ["bash", str(HOSTS), "exec", *HARNESS, "run", f"root={root}", "study=wrong", *WORDS, *words]
    done = subprocess.run(
        command, env={**cluster.variables, **variables}, cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert not (root / "wrong").exists()
    (line,) = done.stderr.strip().splitlines()
    return line


def inside(cluster: Cluster, root: Path, *words: str, nodes: int = 2) -> str:
    """What a command prints in an allocation, and its exit code after it."""
    command = [
        "bash",
        "-c",
        '"$@" 2>&1; echo "exit $?"',
        "_",
        *HARNESS,
        "run",
        *words,
        f"root={root}",
        "study=wrong",
        *WORDS,
    ]
    return cluster.slurm("salloc", "--quiet", f"--nodes={nodes}", "--exclusive", *command, cwd=root, check=False)


def test_an_unknown_partition(cluster: Cluster, tmp_path: Path) -> None:
    said = refused(cluster, tmp_path, "launcher=sbatch", "launcher.partition=nope")
    assert "partition" in said


def test_more_hosts_than_the_cluster_has(cluster: Cluster, tmp_path: Path) -> None:
    assert "nodes=5" in refused(cluster, tmp_path, "launcher=sbatch", "nodes=5")


def test_more_gpus_than_a_host_has(cluster: Cluster, tmp_path: Path) -> None:
    said = refused(cluster, tmp_path, "launcher=sbatch", "launcher.gres=gpu:9")
    assert "gpu:9" in said


def test_more_ranks_than_a_host_has_gpus(cluster: Cluster, tmp_path: Path) -> None:
    said = refused(cluster, tmp_path, "launcher=sbatch", "hardware=h100_sxm", "gpus_per_node=9")
    assert "--gpus-per-node=9" in said


def test_srun_outside_an_allocation(cluster: Cluster, tmp_path: Path) -> None:
    assert "salloc or sbatch" in refused(cluster, tmp_path, "launcher=srun")


def test_more_hosts_than_the_allocation(cluster: Cluster, tmp_path: Path) -> None:
    said = inside(cluster, tmp_path, "launcher=srun", "nodes=4")
    assert "nodes=4: must be at most 2, the hosts of this allocation" in said
    assert said.endswith("exit 2")
    assert not (tmp_path / "wrong").exists()


def test_one_scale_of_many_beyond_the_allocation(cluster: Cluster, tmp_path: Path) -> None:
    words = (f"--output={tmp_path}/log", str(SCALE), f"root={tmp_path}", "study=wrong", *WORDS)
    job = cluster.submit("--nodes=2", *words, cwd=tmp_path, NODES="1 8")
    cluster.wait([job])
    assert (tmp_path / "log").read_text() == "harness: nodes=8: must be at most 2, the hosts of this allocation\n"
    assert "ExitCode=2:0" in cluster.slurm("scontrol", "show", "job", "--oneliner", job)
    assert not (tmp_path / "wrong").exists()


def test_a_folder_that_one_host_does_not_see(cluster: Cluster, tmp_path: Path) -> None:
    cluster.run("on", "node2", "mount", "-t", "tmpfs", "none", str(tmp_path))
    try:
        said = inside(cluster, tmp_path, "launcher=srun", "nodes=2")
    finally:
        cluster.run("on", "node2", "umount", str(tmp_path))
    assert f"node2: does not see {tmp_path}" in said
    assert said.endswith("exit 2")
    assert not (tmp_path / "wrong").exists()


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A source tree of which the cluster's own site.sh can be written, in a path with a space."""
    copy = tmp_path / "a copy"
    copy.mkdir()
    for name in ("slurm", "launch", "harness", "conf", ".venv"):
        (copy / name).symlink_to(SOURCE / name)
    (copy / "slurm").unlink()
    shutil.copytree(SOURCE / "slurm", copy / "slurm")
    return copy


def scaled(cluster: Cluster, folder: Path, *words: str, **variables: str) -> str:
    """What a study says that is submitted in a folder, and refused by its own first words."""
    job = cluster.submit("--nodes=1", f"--output={folder.parent}/%j.log", *words, cwd=folder, **variables)
    cluster.wait([job])
    return (folder.parent / f"{job}.log").read_text()


SCRIPT = "slurm/scale.sh"
PATHS = ("nosuch=1", "nccl.env.NCCL_TOPO_FILE=/x/y.sh", "a b")


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (SCRIPT, PATHS),
        (f"COPY/{SCRIPT}", PATHS),
        (f"--chdir=/ {SCRIPT}", PATHS),
        ("elsewhere", PATHS),
        (SCRIPT, ("nosuch=1",)),
        (SCRIPT, ("nosuch=",)),
    ],
)
def test_the_source_tree_is_found_however_the_script_was_named(
    cluster: Cluster, copied: Path, named: str, words: tuple[str, ...]
) -> None:
    (copied / "slurm" / "site.sh").write_text(
        "echo at $SCALING_HARNESS\nscript=x source_tree=x gpus=x counts=x nodes=x\n"
    )
    (copied / "elsewhere").symlink_to("slurm/scale.sh")
    asked = [word.replace("COPY", str(copied)) for word in named.split()]
    said = scaled(cluster, copied, *asked, *words)
    assert said.startswith(f"at {copied}\nharness: "), said


def test_a_script_without_a_path_is_refused(cluster: Cluster, copied: Path) -> None:
    submit = "exec sbatch --parsable --nodes=1 --output=log < slurm/scale.sh"
    cluster.wait([cluster.slurm("bash", "-c", submit, cwd=copied)])
    assert (copied / "log").read_text().startswith("scale.sh: cannot tell where it lies; submit it by its path")


def test_a_site_that_fails_is_named(cluster: Cluster, copied: Path) -> None:
    (copied / "slurm" / "site.sh").write_text("false\n")
    assert scaled(cluster, copied, "slurm/scale.sh") == "scale.sh: slurm/site.sh ended with exit code 1\n"


def test_ranks_are_as_many_as_gpus_were_asked_for(cluster: Cluster, copied: Path) -> None:
    said = scaled(cluster, copied, "--gpus-per-node=2", "slurm/scale.sh", "launcher.dry=true", f"root={copied.parent}")
    assert "tiny-ddp-n1x2-" in said


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("study=x; touch pwned", "study="),
        ("study=$(touch pwned)", "study="),
        ("'study=$(touch pwned)'", "study="),
        ("nodes=$(touch pwned)", "nodes="),
        ("model.name=$(touch pwned)", "model.name="),
        ("launcher.account='$(touch pwned)'", "launcher.account="),
        ("nccl.env.NCCL_TOPO_DUMP_FILE='$(touch pwned)'", "ok"),
    ],
)
def test_hostile_names_and_overrides_start_nothing(cluster: Cluster, tmp_path: Path, word: str, told: str) -> None:
    words = (word, f"root={tmp_path}", *WORDS, "steps=6")
    job = cluster.submit("--nodes=1", f"--output={tmp_path}/log", str(SCALE), *words, cwd=tmp_path)
    cluster.wait([job])
    said = (tmp_path / "log").read_text()
    assert told in said, said
    assert not list(tmp_path.rglob("pwned"))
