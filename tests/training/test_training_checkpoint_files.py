"""A checkpoint is there whole or not at all, and a damaged one is passed over by all ranks alike."""

import json
import math
import multiprocessing
import pickle
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import tiny_training as tiny
import torch
import torch.distributed as dist
from checkpointed_training import build, go_on, keep_writing, numbers_of, opened, steps
from ranks import run_ranks
from study_command import wait_for

from harness.parallel import zero_files
from harness.parallel.storage import Reader
from harness.training import manifest
from harness.training.checkpoint import reason

MOST = 40
"""More steps than a writer takes before it is killed."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def written(folder: str, last: int, keep: int) -> list[dict]:
    trained, _ = build(("fsdp", {}))
    checkpoints, told = opened(trained, Path(folder), keep=keep)
    for step, _ in steps(trained, range(1, last + 1)):
        checkpoints.write(step)
    assert checkpoints.error is None
    return told


def restored(folder: str) -> tuple[int, list[dict]]:
    trained, _ = build(("fsdp", {}))
    checkpoints, told = opened(trained, Path(folder))
    return checkpoints.restore(), told


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The checkpoints of steps 2 to 4."""
    run_ranks(2, written, str(tmp_path / "checkpoints"), 4, 3)
    return tmp_path / "checkpoints"


def test_the_last_are_kept_and_told_of(tmp_path: Path) -> None:
    first, second = run_ranks(2, written, str(tmp_path), 4, 2)
    assert names(tmp_path) == ["step-00000003", "step-00000004"]
    assert [record["step"] for record in first] == [1, 2, 3, 4] == [record["step"] for record in second]
    for record in first[2:]:
        path = tmp_path / f"step-{record['step']:08d}"
        files = {str(file.relative_to(path)): file for file in path.rglob("*") if file.is_file()}
        listed = json.loads(files.pop("manifest.json").read_text())["files"]
        assert listed.keys() == files.keys()
        assert record["bytes"] == sum(file.stat().st_size for file in files.values())
        assert 0 < record["stall_s"] == record["write_s"]


def change_a_byte(path: Path) -> None:
    data = bytearray((path / "__1_0.distcp").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "__1_0.distcp").write_bytes(data)


def cut_off(path: Path) -> None:
    data = (path / "__0_0.distcp").read_bytes()
    (path / "__0_0.distcp").write_bytes(data[:-1])


def into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def edited(path: Path, change: Callable[[dict], object]) -> None:
    """Change what the manifest says; of files that are listed the size and digest of what is there now."""
    document = json.loads((path / "manifest.json").read_text())
    change(document)
    document["files"] = {name: manifest.listed(path / name) for name in document["files"]}
    (path / "manifest.json").write_text(json.dumps(document))


def emptied(path: Path) -> None:
    edited(path, lambda said: said["files"].clear())
    for file in path.iterdir():
        if file.name != "manifest.json":
            file.unlink()


DAMAGES = {
    "__1_0.distcp has changed": change_a_byte,
    "bytes of": cut_off,
    ".metadata is missing": lambda path: (path / ".metadata").unlink(),
    "manifest.json is missing": lambda path: (path / "manifest.json").unlink(),
    "manifest.json is not readable": lambda path: (path / "manifest.json").write_text("{"),
    "manifest.json is not readable (Is a directory)": lambda path: into_a_folder(path / "manifest.json"),
    "__0_0.distcp is not readable (Is a directory)": lambda path: into_a_folder(path / "__0_0.distcp"),
    "manifest.json is that of step 3": lambda path: shutil.copy(path.parents[1] / "step-00000003/manifest.json", path),
    "manifest.json does not list .metadata": lambda path: edited(path, lambda said: said["files"].pop(".metadata")),
    "manifest.json does not list any files": lambda path: emptied(path),
    "manifest.json has schema 99": lambda path: edited(path, lambda said: said.update(schema=99)),
    "it is no folder": lambda path: (shutil.rmtree(path), path.touch()),
}


def test_a_damaged_one_is_passed_over_with_a_warning(folder: Path) -> None:
    change_a_byte(folder / "step-00000004")
    (first, told), (second, _) = run_ranks(2, restored, str(folder))
    assert first == second == 3
    message = "checkpoints/step-00000004 is damaged and passed over: __1_0.distcp has changed"
    assert told == [{"kind": "warning", "message": message}]
    assert names(folder) == ["damaged-step-00000004", "step-00000002", "step-00000003"]


def test_damage_of_any_kind_is_found(folder: Path) -> None:
    whole = folder / "step-00000004"
    for said, spoil in DAMAGES.items():
        spoilt = shutil.copytree(whole, folder / "spoilt" / whole.name)
        spoil(spoilt)
        files, damage = manifest.read(spoilt)
        assert said in (damage or manifest.damage(spoilt, files, sorted(files)))
        spoilt.unlink() if spoilt.is_file() else shutil.rmtree(spoilt)
    (whole / ".nfs0000000000000001").touch()
    files, damage = manifest.read(whole)
    assert (damage, manifest.damage(whole, files, sorted(files))) == (None, None)


@pytest.mark.parametrize("files", [None, [], "a", {"a": {}}, {"a": None}, {"a": {"bytes": 1}}], ids=str)
def test_a_manifest_that_lists_no_files_with_size_and_digest_is_damage(tmp_path: Path, files: object) -> None:
    path = tmp_path / "step-00000004"
    path.mkdir()
    (path / "manifest.json").write_text(json.dumps({"schema": manifest.SCHEMA, "step": 4, "files": files}))
    assert manifest.read(path) == ({}, "manifest.json is not readable")


def of_another_model(path: Path) -> None:
    edited(path, lambda said: said["of"].update({"model.layers": 5}))


def beyond_the_last_step(path: Path) -> None:
    edited(path, lambda said: said.update(step=400))
    path.rename(path.with_name("step-00000400"))


def a_pickle_for_tensors(path: Path) -> None:
    torch.save(Planted(), path / "__0_0.distcp")
    edited(path, lambda said: None)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (of_another_model, "it is of another point (model.layers=5, here 2)"),
        (beyond_the_last_step, "it stands after step 400 of 100"),
        (a_pickle_for_tensors, "could not load it"),
    ],
)
def test_one_that_is_whole_and_cannot_be_gone_on_from_is_passed_over(folder: Path, monkeypatch, spoil, said) -> None:
    monkeypatch.chdir(folder.parent)
    spoil(folder / "step-00000004")
    (folder / ".step-00000005").touch()
    (first, told), (second, _) = run_ranks(2, restored, str(folder))
    assert first == second == 3
    assert said in told[0]["message"] and "passed over" in told[0]["message"]
    assert not Path("planted").exists() and not (folder / ".step-00000005").exists()


def test_training_does_not_begin_with_part_of_a_checkpoint(folder: Path) -> None:
    for path in manifest.whole(folder):
        a_pickle_for_tensors(path)
    with pytest.raises(Exception, match="no checkpoint could be loaded; started again, the point begins anew"):
        run_ranks(2, restored, str(folder))
    assert not manifest.whole(folder)


def test_where_none_is_whole_training_begins_at_its_start(folder: Path) -> None:
    for path in manifest.whole(folder):
        change_a_byte(path)
    (step, told), _ = run_ranks(2, restored, str(folder))
    assert step == 0 and len(told) == 3


def on_a_full_disk(folder: str, kind: str, mode: str) -> tuple[str, list[dict]]:
    trained, _ = build((kind, {}))
    checkpoints, told = opened(trained, Path(folder), mode)
    for step, _ in steps(trained, range(1, 3)):
        checkpoints.wait()
        if step == 2 and dist.get_rank() == 1:
            # to its writes this is what a full disk is: so much and no more
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        checkpoints.write(step)
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return str(checkpoints.error), told


@pytest.mark.parametrize(("kind", "mode"), [("fsdp", "sync"), ("fsdp", "async"), ("zero1", "sync")])
def test_a_write_that_fails_on_one_rank_is_told_by_all_and_leaves_the_one_before(tmp_path: Path, kind, mode) -> None:
    (first, told), (second, _) = run_ranks(2, on_a_full_disk, str(tmp_path), kind, mode)
    assert first == second
    assert str(tmp_path) in first and "step 2" in first and "rank 1: " in first and "\n" not in first
    assert "rank 0" not in first and "enforce" not in first
    assert [record["step"] for record in told] == [1]
    assert names(tmp_path) == ["step-00000001"]


def test_a_full_disk_is_named_where_torch_does_not_say_so(tmp_path: Path, monkeypatch) -> None:
    problem = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
    assert reason(problem, tmp_path) == "a file could not be written whole"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**30, 2**30, 0))
    assert reason(problem, tmp_path) == "No space left on device"


class Planted:
    def __reduce__(self):
        return Path.touch, (Path("planted"),)


def test_nothing_but_tensors_is_loaded(folder: Path, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    path = folder / "step-00000004"
    metadata = Reader(path).read_metadata()
    metadata.planner_data = Planted()
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(pickle.UnpicklingError, match="no part of a checkpoint"):
        Reader(path).read_metadata()
    torch.save({"optimizer_state_dict": Planted()}, "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    with pytest.raises(pickle.UnpicklingError):
        zero_files.load_plain("zero_pp_rank_0_mp_rank_00_optim_states.pt")
    assert not Path("planted").exists()


@pytest.mark.parametrize("name", [".metadata", "random-00001.pt"])
def test_one_with_another_type_in_it_is_passed_over_and_nothing_of_it_is_run(folder: Path, tmp_path, name) -> None:
    path = folder / "step-00000004"
    planted = {"planted": Touching(str(tmp_path / "planted"))}
    torch.save(planted, path / name) if name.endswith(".pt") else (path / name).write_bytes(pickle.dumps(planted))
    document = json.loads((path / "manifest.json").read_text())
    document["files"][name] = manifest.listed(path / name)
    (path / "manifest.json").write_text(json.dumps(document))
    (first, told), (second, _) = run_ranks(2, restored, str(folder))
    assert first == second == 3
    assert f"damaged and passed over: {name} holds more than tensors and plain values" in told[0]["message"]
    assert not (tmp_path / "planted").exists()


class Touching:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def killed(root: str, seconds: float, mode: str) -> int:
    """Kill two ranks that write one checkpoint after another, so long after the first; the last that was told of.

    `nan` is the moment at which there is a draft.
    """
    writers = multiprocessing.get_context("fork").Process(target=both_write, args=(root, mode))
    writers.start()
    wait_for(lambda: (Path(root) / "told").exists() and (Path(root) / "told").read_text() not in ("", "0"), 60)
    processes = [*psutil.Process(writers.pid).children(), writers]
    if math.isnan(seconds):
        while not any(name.startswith(".") for name in names(Path(root) / "checkpoints")):
            time.sleep(0.001)
    else:
        time.sleep(seconds)
    for process in processes:
        process.kill()
    writers.join()
    return int((Path(root) / "told").read_text() or 0)


def both_write(root: str, mode: str) -> None:
    run_ranks(2, keep_writing, root, mode, MOST)


def each_leaves_a_state(tmp_path: Path, moments: list[float], mode: str) -> None:
    numbers = run_ranks(2, numbers_of, MOST + 1)[0]
    cut_off = 0
    for index, seconds in enumerate(moments):
        root = tmp_path / str(index)
        root.mkdir()
        told = killed(str(root), seconds, mode)
        cut_off += any(name.startswith(".") for name in names(root / "checkpoints"))
        step, after = run_ranks(2, go_on, str(root))[0]
        assert step >= max(told, 1)
        assert tiny.agree([after], [numbers[step]]), (step, after, numbers[step])
        assert not any(name.startswith(".") for name in names(root / "checkpoints"))
    assert cut_off, "no writer was killed while it wrote"


def test_a_writer_killed_at_any_moment_leaves_a_state_to_go_on_from(tmp_path: Path) -> None:
    draw = random.Random(1)
    each_leaves_a_state(tmp_path, [draw.uniform(0, 0.5), draw.uniform(0, 0.5), math.nan], "sync")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_writer_killed_at_twenty_moments_leaves_a_state_to_go_on_from(tmp_path: Path, mode: str) -> None:
    draw = random.Random(2)
    each_leaves_a_state(tmp_path, [draw.uniform(0, 1.0) for _ in range(20)], mode)
