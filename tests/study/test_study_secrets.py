"""Secrets of whoever starts a study are in nothing that comes of it."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_dirs import make_config
from study_command import QUICK, Command

from harness.files import write_text
from harness.stored import stored_config
from harness.study.point import Point
from harness.study.rundir import yaml_of

# Not one of them looks like another; where a name, not the value, tells that it is secret, the value is plain.
SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HF_TOKEN": "hf_plantedplantedplantedplanted",
    "AWS_SECRET_ACCESS_KEY": "planted/aws+secret",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDPLANTED00",
    "NCCL_PSK": "planted-pre-shared-key-of-32-characters",
    "NCCL_SITE_TOKEN": "planted-site-token",
    "NCCL_SITE_SERVER": "https://site:planted-site-password@server",
    "TORCH_HUB_PASSWORD": "planted-torch-password",
    "UCX_SITE": "tcp://ucx:planted-ucx-password@server",
    "MY_OWN": "planted-without-a-telling-name",
    "HTTPS_PROXY": "http://me:planted-proxy-password@127.0.0.1:9",
    "https_proxy": "http://me:planted-proxy-password@127.0.0.1:9",
}
REMOTE = "https://oauth2:planted@git@password@example.org/team/harness.git?private_token=planted-query"
PLANTED = (*SECRETS.values(), "planted")
OVERRIDE = "nccl.env.NCCL_OVERRIDE_SECRET=planted-override"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """A study with a point that ran, mirrored, and one that its override makes impossible; its report and bundle."""
    folder = tmp_path_factory.mktemp("work")
    repository = tmp_path_factory.mktemp("git")
    for words in (("init", "--quiet"), ("remote", "add", "origin", REMOTE)):
        subprocess.run(["git", "-C", str(repository), *words], check=True)
    hidden = tmp_path_factory.mktemp("home")
    (hidden / ".nccl.conf").write_text("NCCL_DEBUG=WARN\nNCCL_PSK = planted-in-a-hidden-file\n")
    environment = {**SECRETS, "GIT_DIR": str(repository / ".git"), "HOME": str(hidden)}
    command = Command(folder, environment)
    words = ("run", "-m", "study=s", "gpus_per_node=2", *QUICK, "record.wandb=offline")
    ended = command(*words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    impossible = command(*words, OVERRIDE)
    report = command("report", "s")
    assert (impossible.returncode, report.returncode) == (0, 0)
    bundle = command("publish", "bundle", "s")
    assert bundle.returncode == 0, bundle.stderr
    shutil.unpack_archive(folder / "s.tar.gz", folder / "opened")
    said = [text for one in (ended, impossible, report, bundle) for text in (one.stdout, one.stderr)]
    (folder / "said.txt").write_text("".join(said))
    return command


def leaks(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else str(path).encode()
        for planted in PLANTED:
            if planted.encode() in content:
                where = content.index(planted.encode())
                yield f"{path.relative_to(folder)}: {content[max(0, where - 60) : where + 60]!r}"


def test_no_file_of_a_study_holds_a_secret(study: Command) -> None:
    assert list(leaks(study.folder)) == []
    names = {path.name for path in study.files()}
    assert {"env.json", "command.sh", "events.jsonl", "mirror.log", "launcher.log", "index.html", "points.csv"} <= names
    assert [path for path in study.files() if path.suffix == ".wandb"]
    assert len(study.points("s")) == 2
    # what is in the bundle, and in the study's own run
    assert [path for path in study.files() if path.parts[-3:] == ("opened", "s", "SHA256SUMS")]
    assert list(study.folder.glob("studies/s/wandb/offline-run-*/*.wandb"))


def test_what_is_left_of_them_says_that_they_were_there(study: Command) -> None:
    [ran] = [path for path in study.points("s").values() if (path / "env.json").exists()]
    environment = (ran / "env.json").read_text()
    assert '"NCCL_PSK": "***"' in environment
    assert '"NCCL_SITE_SERVER": "***"' in environment
    assert "https://example.org/team/harness.git" in (ran / "provenance.json").read_text()


@pytest.mark.parametrize(
    "word",
    [
        "data.path=https://me:planted@server/tokens",
        "nccl.env.NCCL_IB_HCA=hf_plantedplantedplanted",
        "ghp_plantedplantedplanted",
        'study="${oc.env:MY_OWN}"',
        "model.name=${oc.env:MY_OWN}",
        "-m seed=0,${oc.env:MY_OWN}",
    ],
)
def test_a_word_that_holds_or_asks_for_a_secret_is_refused_without_telling_it(tmp_path: Path, word: str) -> None:
    command = Command(tmp_path, {"MY_OWN": "planted"})
    ended = command("run", *word.split())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "planted" not in ended.stderr
    assert command.files() == []


def test_a_stored_configuration_brings_no_variable_into_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_OWN", "planted")
    text = yaml_of(Point(make_config(gpus=2)))
    write_text(tmp_path / "config.yaml", text)
    assert stored_config(tmp_path).model.name == "tiny"
    write_text(tmp_path / "config.yaml", text.replace("name: tiny", "name: ${oc.env:MY_OWN}"))
    with pytest.raises(ValueError, match="refers to other values"):
        stored_config(tmp_path)
    run = f"!!python/object/apply:os.system ['touch {tmp_path}/pwned']"
    write_text(tmp_path / "config.yaml", text.replace("name: tiny", f"name: {run}"))
    with pytest.raises(Exception, match="could not determine a constructor"):
        stored_config(tmp_path)
    assert not (tmp_path / "pwned").exists()
