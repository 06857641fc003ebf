"""What a point's processes see, what of it is recorded, and what never is."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.plan.nccl import VARIABLES
from launch import torchrun
from launch.environment import Environment, build, changed, masked, secret

SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "AWS_SECRET_ACCESS_KEY": "verysecret1",
    "HF_TOKEN": "verysecret2",
    "TORCH_AUTH_TOKEN": "verysecret3",
    "SLURM_JWT": "verysecret4",
}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*os.environ,):
        if name.startswith(("NCCL_", "TORCH_NCCL", "OMP_", "SLURM_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def made(requested: dict[str, Any] | None = None, clear: bool = False, gpus: int = 1, calls: int = 10) -> Environment:
    return build(requested or {}, clear, Path("/s/p/slug"), Path("/s/p/slug/attempts/0/logs"), gpus, calls)


def test_ambient_variables_stay_and_a_requested_value_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_ALGO", "Tree")
    monkeypatch.setenv("NCCL_IB_DISABLE", "1")
    environment = made({"NCCL_ALGO": "allreduce:ring"})
    assert environment.ambient == {"NCCL_ALGO": "Tree", "NCCL_IB_DISABLE": "1"}
    assert environment.requested == {"NCCL_ALGO": "allreduce:ring"}
    assert environment.effective["NCCL_ALGO"] == environment.variables["NCCL_ALGO"] == "allreduce:ring"
    assert environment.effective["NCCL_IB_DISABLE"] == "1"


def test_ambient_variables_can_be_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_IB_DISABLE", "1")
    environment = made({"NCCL_ALGO": "allreduce:ring"}, clear=True)
    assert (environment.ambient, environment.cleared) == ({"NCCL_IB_DISABLE": "1"}, ["NCCL_IB_DISABLE"])
    assert "NCCL_IB_DISABLE" not in environment.variables


@pytest.mark.parametrize(
    ("value", "text"), [(True, "1"), (False, "0"), (4194304, "4194304"), ("=mlx5_0:1", "=mlx5_0:1")]
)
def test_values_become_text(value: object, text: str) -> None:
    assert made({"NCCL_X": value}).variables["NCCL_X"] == text


def test_torchrun_passes_signals_on_and_leaves_ranks_their_time() -> None:
    """In the form of variables, which a version of torchrun without such words passes over."""
    variables = build({}, False, Path("/p"), Path("/p/logs"), 0, 0, grace_s=90.5).variables
    assert "SIGUSR2" in variables["PET_SIGNALS_TO_HANDLE"].split(",")
    assert variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "91"
    assert made().variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "30"


def test_measuring_variables_are_for_gpus_and_yield_to_the_person(monkeypatch: pytest.MonkeyPatch) -> None:
    assert made().added["TORCH_NCCL_ENABLE_TIMING"] == "1"
    assert made().added["NCCL_DEBUG_FILE"] == "/s/p/slug/attempts/0/logs/nccl.%h.%p.log"
    assert not any("NCCL" in name for name in made(gpus=0).added)
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    monkeypatch.setenv("NCCL_DEBUG_FILE", "/tmp/elsewhere")
    assert made().effective["NCCL_DEBUG"] == "INFO"
    assert made().effective["NCCL_DEBUG_FILE"].endswith("logs/nccl.%h.%p.log")
    assert made().ambient["NCCL_DEBUG"] == "WARN"
    assert made({"NCCL_DEBUG": "TRACE"}).effective["NCCL_DEBUG"] == "TRACE"


def test_what_times_collectives_by_itself_has_no_events_of_pytorch_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_NCCL_ENABLE_TIMING", raising=False)
    assert "TORCH_NCCL_ENABLE_TIMING" not in made(calls=0).variables
    assert "TORCH_FR_BUFFER_SIZE" in made(calls=0).added


def test_a_rank_has_its_devices_share_of_the_cores_or_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert made(gpus=4).added["OMP_NUM_THREADS"] == "16"
    assert made(gpus=128).added["OMP_NUM_THREADS"] == "1"
    assert made(gpus=0).added["OMP_NUM_THREADS"] == "1"


STEPS = """
import resource

faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(20):
    if step == 10:
        begin = faults()
    kept = [bytearray(1 << 20) for _ in range(8)]
    del kept
print(faults() - begin)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc reads these variables")
def test_the_kernel_need_not_clear_what_a_cpu_rank_frees_anew_in_each_step() -> None:
    def faults(variables: dict[str, str]) -> int:
        command = [sys.executable, "-c", STEPS]
        return int(subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout)

    kept, given_back = made(gpus=0).variables, made(gpus=4).variables
    assert faults(kept) < 100 < faults({name: value for name, value in given_back.items() if "MALLOC" not in name})


HOSTILE = ("=mlx5_0:1,mlx5_1:1", "^lo,docker0", 'a "quoted" one', "it's two words", "", "$(x); `y`", "two\nlines")


@pytest.mark.parametrize("value", HOSTILE)
def test_variables_that_arrive_as_they_are_recorded_are_unchanged(value: str) -> None:
    environment = made({"NCCL_X": value})
    document = json.loads(json.dumps(environment.document()))
    assert changed(document, {**environment.variables, "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"}) == []
    [told] = changed(document, {**environment.variables, "NCCL_X": value + " "})
    assert told.startswith(f"NCCL_X is {json.dumps(value + ' ')} on this rank, where {json.dumps(value)} was asked for")
    assert "\n" not in told


def test_missing_different_and_additional_variables_are_told_by_name() -> None:
    environment = made({"NCCL_A": "1", "NCCL_B": "^lo", "NCCL_C": ""}, gpus=0)
    assert changed(environment.document(), {"NCCL_B": "eth0", "NCCL_C": "", "NCCL_D": "=a,b", "OTHER": "x"}) == [
        'NCCL_A is not set on this rank, where "1" was asked for',
        'NCCL_B is "eth0" on this rank, where "^lo" was asked for',
        'NCCL_D is "=a,b" on this rank, where none was asked for',
    ]


def test_of_a_secret_only_the_presence_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_PSK", "hunter2")
    document = made(gpus=0).document()
    assert changed(document, {"NCCL_PSK": "hunter3"}) == []
    [missing] = changed(document, {})
    [additional] = changed({"effective": {}}, {"NCCL_PSK": "hunter2"})
    assert missing == "NCCL_PSK is not set on this rank, where one was asked for"
    assert additional == "NCCL_PSK is set on this rank, where none was asked for"


def test_an_images_label_is_no_change() -> None:
    assert changed({"effective": {"NCCL_VERSION": "2.27"}}, {"NCCL_VERSION": "2.28"}) == []
    assert changed({"effective": {}}, {"NCCL_VERSION": "2.28"}) == []


@pytest.mark.parametrize("nodes", [1, 2])
def test_ranks_are_bound_where_that_is_asked_for(nodes: int) -> None:
    words = torchrun.command(torchrun.Ranks(["module", "x"], "name", nodes, 4, "core-complex"), Path("/logs"))
    assert "--numa-binding=core-complex" in words[: words.index("-m", 3)], "a word of torchrun's, not of the module"
    plain = torchrun.command(torchrun.Ranks(["module", "x"], "name", nodes, 4), Path("/logs"))
    assert not any("numa" in word for word in plain)


def test_the_flight_recorder_holds_the_steps_that_are_read() -> None:
    assert made(calls=10).added["TORCH_FR_BUFFER_SIZE"] == "2000"
    assert made(gpus=0, calls=10).added["TORCH_FR_BUFFER_SIZE"] == "256"
    for gpus in (0, 1):
        assert made(gpus=gpus, calls=1000).added["TORCH_FR_BUFFER_SIZE"] == "8000"


def test_hidden_files_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".nccl.conf").write_text("NCCL_ALGO=Ring\n")
    files = {entry["path"]: entry for entry in made().document()["files"]}
    assert files[str(tmp_path / ".nccl.conf")] == {
        "path": str(tmp_path / ".nccl.conf"),
        "exists": True,
        "sha256": hashlib.sha256(b"NCCL_ALGO=Ring\n").hexdigest(),
        "lines": ["NCCL_ALGO=Ring"],
    }
    assert set(files) == {"/etc/nccl.conf", str(tmp_path / ".nccl.conf")}
    monkeypatch.setenv("NCCL_CONF_FILE", "/somewhere.conf")
    assert [entry["path"] for entry in made().document()["files"]] == ["/etc/nccl.conf", "/somewhere.conf"]


def test_the_record_is_an_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"CUDA_VISIBLE_DEVICES": "0,1", "PYTHONDONTWRITEBYTECODE": "1", "SLURM_JOB_ID": "17"}
    for name, value in {**SECRETS, **told, "PRIVATE": "private"}.items():
        monkeypatch.setenv(name, value)
    environment = made()
    assert environment.variables["HF_TOKEN"] == "verysecret2"
    document = environment.document()
    assert document["other"] == told
    written = json.dumps(document) + torchrun.script(["true"], environment, Path("/s/p/slug"))
    for planted in (*SECRETS.values(), "private"):
        assert planted not in written


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("model=1b", "model=1b"),
        ("data=tokens", "data=tokens"),
        ("wandb.api_key=abc", "wandb.api_key=***"),
        ("x=https://me:pass@host/path?token=1", "x=https://host/path"),
        ("0123456789abcdef0123456789abcdef01234567", "***"),
    ],
)
def test_a_command_line_loses_its_secrets(word: str, shown: str) -> None:
    assert masked([word]) == [shown]


@pytest.mark.parametrize(
    "value",
    [
        "hf_plantedplantedplanted",
        "https://me:planted@host",
        "https://host/x?X-Amz-Signature=planted",
        "/a:/b?password=planted",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.planted",
        "-----BEGIN RSA PRIVATE KEY-----planted",
        "Bearer plantedplantedplanted",
    ],
)
def test_what_looks_like_a_secret_is_one_under_any_name(value: str) -> None:
    assert secret("launcher.partition", value)


@pytest.mark.parametrize(
    "value", ["asia-southeast-gpu-partition", "https://host/x?page=2", "mlx5_0:1,mlx5_1:1", "task"]
)
def test_plain_values_are_none(value: str) -> None:
    assert not secret("launcher.partition", value)


def test_of_what_nccl_documents_only_secrets_are_hidden() -> None:
    assert [name for name, known in VARIABLES.items() if secret(name, "1") != known.secret] == []
    assert secret("MYAPPKEY", "1")
    requested = {"NCCL_IB_PKEY": "3"}
    environment = made(requested)
    assert environment.document()["requested"] == requested
    assert "export NCCL_IB_PKEY=3\n" in torchrun.script(["true"], environment, Path("/s/p/slug"))


def test_the_script_survives_hostile_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a; touch pwned $(touch pwned)"
    folder.mkdir()
    (folder / "config.yaml").write_text("x: 1\n")
    monkeypatch.chdir(tmp_path)
    hostile = "$(touch pwned); `touch pwned` 'touch pwned' \"x"
    environment = build({"NCCL_X": hostile}, False, folder, folder / "logs", 0, 10)
    command = ["sh", "-c", 'printf "%s\\n" "$NCCL_X" "$1" "$HARNESS_POINT" "$2"', "sh", hostile, f"--log={folder}/logs"]
    (tmp_path / "command.sh").write_text(torchrun.script(command, environment, folder))
    ended = subprocess.run(["sh", "command.sh"], capture_output=True, text=True, check=True)
    value, word, point, log, new = ended.stdout.splitlines()
    assert value == word == hostile
    assert (point, log) == (new, f"--log={new}/logs")
    assert (Path(new) / "config.yaml").exists()
    assert not list(tmp_path.rglob("pwned"))


def test_ambient_threads_do_not_make_ranks_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert made(gpus=0).variables["OMP_NUM_THREADS"] == "1"


def test_a_secret_among_nccls_variables_reaches_the_ranks_and_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_PSK", "hunter2")
    environment = made()
    assert environment.variables["NCCL_PSK"] == "hunter2"
    assert "hunter2" not in json.dumps(environment.document())
    assert "hunter2" not in torchrun.script(["true"], environment, Path("/s/p/slug"))
