"""What a person gets for a mistake: one sentence with the field, exit 2, and nothing started or written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from run_dirs import demo_study, make_study, validator
from study_command import Command

from harness.study.rundir import check_study


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path, {})


MISTAKES = [
    ("model=2b", "model=2b: choose one of"),
    ("modle=1b", "did you mean 'model'?"),
    ("stpes=20", "did you mean 'steps'?"),
    ("hydra.run.dir=/tmp/x", "no key 'hydra.run.dir'"),
    ("steps", "write key=value"),
    ("steps=abc", "steps: Value 'abc'"),
    ("compile=perhaps", "compile: Value 'perhaps'"),
    ("steps=5 warmup=5", "steps=5: must be more than warmup=5"),
    ("steps=1,2", "add -m to sweep"),
    ("local_batch=0", "local_batch=0: must be at least 1"),
    ("seq_len=-1", "seq_len=-1: must be at least 1"),
    ("optimizer.lr=0", "optimizer.lr=0"),
    ("launcher.timeout_s=0", "launcher.timeout_s=0"),
    ("faults=slow faults.seconds=1e12", "faults.seconds=1000000000000.0: must be at most 31536000"),
    ("watchdog.step_s=1e15", "watchdog.step_s=1000000000000000.0: must be at most 31536000"),
    ("launcher.container_image=/x.sqsh", "launcher.container_image=/x.sqsh: is of launcher=srun or sbatch; leave it"),
    ("-m seed=0,1 launcher.time=30", "launcher.time=30: is of launcher=sbatch; leave it out with launcher=local"),
    ("scaling=strong global_batch=3 gpus_per_node=2", "global_batch=3: must be a multiple"),
    ("model.kv_heads=3", "model.heads=8: must be a multiple of model.kv_heads=3"),
    ("model.balance=bias", "model.balance=bias: must be none without experts"),
    ("model=tiny_moe model.experts_per_token=9", "model.experts_per_token=9: must be from 1 to model.experts=8"),
    ("parallel=tp gpus_per_node=3", "model.heads=8: must be a multiple of parallel.tp=3"),
    ("parallel=tp gpus_per_node=8", "model.kv_heads=4: must be a multiple of parallel.tp=8"),
    ("parallel=fsdp parallel.tp=4 gpus_per_node=2", "gpus_per_node=2: nodes x gpus_per_node = 2 must be a multiple"),
    ("parallel=ddp parallel.tp=2 gpus_per_node=2", "parallel.kind=ddp keeps every parameter whole"),
    ("parallel=zero3 parallel.cp=2 gpus_per_node=2", "parallel.kind=zero3 lets DeepSpeed own"),
    ("parallel=pp gpus_per_node=8", "parallel.pp=8: model.layers=4 must be at least"),
    (
        "parallel=pp gpus_per_node=2 parallel.schedule=interleaved parallel.virtual_stages=3",
        "model.layers=4 must be at least parallel.pp x virtual_stages = 2 x 3 = 6",
    ),
    ("parallel=pp gpus_per_node=2 scaling=strong global_batch=1", "global_batch=1: must be at least 2"),
    ("parallel=pp gpus_per_node=2 model.tied_embeddings=true", "parallel.pp=2: must be 1"),
    ("parallel=cp gpus_per_node=2 seq_len=30", "seq_len=30: must be a multiple of 2 x parallel.cp = 4"),
    ("parallel=ep gpus_per_node=2", "parallel.ep=2: must be 1, for model.name=tiny has no experts"),
    ("parallel=ep gpus_per_node=3 model=tiny_moe", "model.experts=8: must be a multiple of parallel.ep=3"),
    ("parallel=hsdp gpus_per_node=3", "parallel.replicas=2: must divide"),
    ("parallel=fsdp parallel.schedule=gpipe gpus_per_node=2", "parallel.schedule=gpipe: must be left out"),
    ("precision=float8", "precision.float8=True: must run on a GPU"),
    ("precision=float8 hardware=a100_80g launcher=dry", "known to have float8 products"),
    ("attention=cudnn", "attention=cudnn: must run on a GPU"),
    ("profile=perf", "profile=perf: choose one of ncu, none, nsys, torch"),
    ("profile=torch profile.first_step=1", "profile.first_step=1: must be at least 2"),
    ("profile=torch profile.first_step=50", "are steps 50 to 51, which must lie from 2 to steps=50"),
    ("profile=torch steps=12", "profile.first_step=null: profile.steps=2 of them are steps 12 to 13"),
    ("profile=torch profile.steps=0", "profile.steps=0: must be at least 1"),
    ("profile=torch profile.steps=21", "profile.steps=21: must be at most 20"),
    ("profile=torch profile.ranks=2 gpus_per_node=2", "profile.ranks=2: must name ranks of this point; its 2 ranks"),
    ("profile=torch profile.ranks=[0,1-9] gpus_per_node=2", "must name ranks of this point; its 2 ranks are 0 to 1"),
    ("profile=torch profile.ranks=1", "its one rank is 0"),
    ("profile=torch profile.ranks=3-1 gpus_per_node=2", "profile.ranks=3-1: a range goes upward; say 1-3"),
    ("profile=torch profile.ranks=[]", "profile.ranks=[]: must name ranks"),
    ("profile=torch profile.ranks=first", "profile.ranks=first: must be a rank, a range as 0-3, a list"),
    ("profile=torch profile.kernels=gemm2", "profile.kernels=gemm2: is of profile=ncu"),
    ("profile.steps=3", "profile.steps=3: nothing is profiled; say profile=torch, nsys or ncu"),
    (
        "profile=ncu profile.kernels=.* hardware=h200 launcher=dry",
        "profile.kernels=.*: must match none of NCCL's, such as ncclDevKernel_AllReduce",
    ),
    ("profile=ncu profile.kernels=[", "quote the value"),
    ('profile=ncu profile.kernels="[" hardware=h200 launcher=dry', "must be a regular expression"),
    ("profile=nsys", "profile=nsys: looks at CUDA kernels, and these ranks are CPU processes; say profile=torch"),
    ("profile=ncu", "profile=ncu: looks at CUDA kernels, and these ranks are CPU processes; say profile=torch"),
    ("-m profile=none,torch", "twice in this sweep"),
    ("workload=colectives", "did you mean 'collectives'?"),
    ("workload=collectives", "gpus_per_node=1: workload=collectives needs at least 2 ranks"),
    ("workload=collectives gpus_per_node=2 workload.min_bytes=2048 workload.max_bytes=1024", "must be at most"),
    ("workload=collectives gpus_per_node=2 workload.max_bytes=3000", "workload.max_bytes=3000: must be a power of two"),
    ("workload=collectives gpus_per_node=2 profile=torch", "profile=torch: looks at steps of training"),
    ("workload=collectives gpus_per_node=2 workload.op=reduce", "workload.op=reduce: choose one of all, all_reduce"),
    ("gpus_per_node=65", "gpus_per_node=65"),
    ("gpus_per_node=0", "gpus_per_node=0: must be at least 1"),
    ("gpus_per_node=1000000000000", "at most 64"),
    ("nodes=0", "nodes=0: must be at least 1"),
    ("repeats=0", "repeats=0: must be at least 1"),
    ("root=", "root=: name a folder"),
    ("root='~nouser/x'", "no such person"),
    ("seed=99999999999999999999", "seed=99999999999999999999"),
    ("optimizer.lr=inf", "optimizer.lr=inf"),
    ("model.head_dim=31", "model.head_dim=31: must be even"),
    ("nodes=2", "nodes=2"),
    ("model=405b", "GiB"),
    ("data=tokens", "data.path"),
    ("data=tokens data.path=missing.bin", "data.path=missing.bin"),
    ("root=/dev/null/studies", "root=/dev/null/studies: cannot be written"),
    ("nccl.env.NCCL_ALGOO=ring", "NCCL_ALGOO"),
    ("nccl.env.NCCL_MIN_CTAS=-3", "NCCL_MIN_CTAS"),
    ("nccl.env.NCCL_SOCKET_IFNAME=^lo", "quote the value"),
    ("study=../elsewhere", "study=../elsewhere"),
    ("study=-m", "study=-m"),
    ("repeat=1", "ask for repeats=N"),
    ("experiment=demo", "run it with -m"),
    ("experiment=null", "choose one of demo, nccl"),
    ("-m experiment=dmeo", "did you mean 'demo'?"),
    ("-m seed=0,0", "twice in this sweep"),
    ("-m study=a,b", "one run writes one study"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_one_sentence_and_nothing_else(command: Command, words: str, sentence: str) -> None:
    ended = command.forked("run", *words.split())
    assert ended.returncode == 2
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert line.startswith("harness: ")
    assert sentence in line
    assert command.files() == []


def test_in_a_sweep_a_mistake_is_an_invalid_point_beside_the_others(command: Command) -> None:
    ended = command("run", "-m", "parallel=fsdp", "parallel.tp=1,2,3", "gpus_per_node=2", "launcher=dry")
    assert ended.returncode == 0
    assert ended.stdout.count("invalid: ") == 1
    assert "invalid: gpus_per_node=2: nodes x gpus_per_node = 2 must be a multiple of" in ended.stdout
    assert "dp 1 × tp 2, 2 microbatches" in ended.stdout


@pytest.mark.parametrize("study", ["x; touch pwned", "$(touch pwned)", "a\nb", ".", "..", ".hidden", "a" * 65])
def test_a_study_that_is_no_folder_name_is_refused(command: Command, study: str) -> None:
    ended = command.forked("run", f'study="{study}"')
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert command.files() == []


def test_a_token_file_of_odd_size_is_refused(command: Command) -> None:
    (command.folder / "odd.bin").write_bytes(bytes(100_001))
    ended = command("run", "data=tokens", "data.path=odd.bin")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "data.path=odd.bin" in ended.stderr


def test_a_study_of_another_schema_is_left_alone(command: Command) -> None:
    study = command.folder / "studies" / "old"
    study.mkdir(parents=True)
    (study / "study.json").write_text(json.dumps({"schema": 99, "name": "old"}))
    before = command.files()
    for words in (("run", "study=old"), ("status", "old"), ("report", "old"), ("publish", "wandb", "old")):
        ended = command(*words)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "schema 99" in ended.stderr
    assert command.files() == before


@pytest.mark.parametrize("verb", [("status",), ("report",), ("report", "--json"), ("publish", "wandb")])
def test_a_study_that_is_not_there_is_named(command: Command, verb: tuple[str, ...]) -> None:
    ended = command(*verb, "nowhere")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("harness: nowhere: no study of that name")


@pytest.mark.parametrize("study", ["-m", ".x", "", "a/b", "a" * 65])
def test_a_study_is_opened_under_no_such_name(tmp_path: Path, study: str) -> None:
    with pytest.raises(ValueError, match=r"^study=.* must not begin with"):
        check_study(tmp_path, study)


def test_a_report_that_cannot_be_written_is_a_sentence(command: Command) -> None:
    study = demo_study(command.folder)
    (study / "report").write_text("in the way")
    ended = command("report", str(study))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"harness: {study}/report: cannot be written (File exists)\n"


def test_a_study_that_cannot_be_read_is_a_sentence(command: Command) -> None:
    study = make_study(command.folder)
    (study / "points").rmdir()
    (study / "points").write_text("in the way")
    ended = command("status", str(study))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"harness: {study}/points: Not a directory\n"


def test_a_study_without_its_points_has_none(command: Command) -> None:
    study = make_study(command.folder)
    shutil.rmtree(study / "points", ignore_errors=True)
    for verb in ("status", "watch"):
        shown = command(verb, str(study))
        assert (shown.returncode, shown.stderr) == (0, "")
        assert shown.stdout == f"study {study.name}: no points yet\n"


def test_output_to_a_full_disk_is_a_sentence(command: Command) -> None:
    study = make_study(command.folder)
    full = ["sh", "-c", 'exec "$@" > /dev/full', "sh", sys.executable, "-m", "harness.cli", "status", str(study)]
    ended = subprocess.run(full, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (2, "harness: standard output: No space left on device\n")


def test_a_point_that_nobody_may_read_is_named_with_its_file_and_the_others_are_shown(command: Command) -> None:
    study = demo_study(command.folder)
    one, *_ = sorted((study / "points").iterdir())
    (one / "status.json").unlink()
    (one / "status.json").mkdir()
    shown = command("status", str(study))
    assert "3 ok" in shown.stdout
    assert shown.stdout.endswith(f"point {one.name} is left out: status.json: Is a directory\n")


def test_damaged_points_are_named_and_the_others_shown(command: Command) -> None:
    study = demo_study(command.folder)
    one, other, *_ = sorted((study / "points").iterdir())
    (one / "status.json").write_text('{"sta')
    (other / "status.json").write_text("{}")
    shown = command("status", str(study))
    assert shown.returncode == 0
    assert "2 ok" in shown.stdout
    assert f"point {one.name} is left out: {one}/status.json: is no JSON" in shown.stdout
    assert f"point {other.name} is left out: {other}/status.json: lacks attempt, rank" in shown.stdout
    document = json.loads(command("status", str(study), "--json").stdout)
    validator().validate(document)
    assert len(document["warnings"]) == 2
