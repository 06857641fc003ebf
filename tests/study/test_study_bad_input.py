"""What a person gets for a mistake: one sentence with the field, exit 2, and nothing started or written."""

import json
from pathlib import Path

import pytest
from study_command import Command


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
    ("scaling=strong global_batch=3 gpus_per_node=2", "global_batch=3: must be a multiple"),
    ("model.kv_heads=3", "model.kv_heads=3: must divide model.heads=4"),
    ("gpus_per_node=65", "gpus_per_node=65"),
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
    ("-m experiment=dmeo", "did you mean 'demo'?"),
    ("-m seed=0,0", "twice in this sweep"),
    ("-m study=a,b", "one run writes one study"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_one_sentence_and_nothing_else(command: Command, words: str, sentence: str) -> None:
    ended = command("run", *words.split())
    assert ended.returncode == 2
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert line.startswith("harness: ")
    assert sentence in line
    assert command.files() == []


@pytest.mark.parametrize("study", ["x; touch pwned", "$(touch pwned)", "a\nb", ".", "..", ".hidden", "a" * 65])
def test_a_study_that_is_no_folder_name_is_refused(command: Command, study: str) -> None:
    ended = command("run", f'study="{study}"')
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
