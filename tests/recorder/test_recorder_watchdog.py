"""A rank without a sign of progress ends and leaves behind where it stood; real ranks, with limits of a few seconds."""

import ctypes
import json
import multiprocessing
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from run_dirs import validator

from harness.config import Config
from harness.place import Place
from harness.recorder.dump import Dump
from harness.recorder.files import Files
from harness.recorder.progress import Progress
from harness.recorder.watchdog import LIMITS, Watchdog, grace, patience, watched
from harness.study.diagnosis import diagnose, printed, read

LIMIT_S = 3.0


def _rank(rank: int, world: int, folder: str, work: Callable[[Dump], None], limits: dict[str, float]) -> None:
    """A rank of a world with a watchdog, in a process of its own."""
    torch.set_num_threads(1)
    os.dup2(os.open(f"{folder}/stderr{rank}", os.O_WRONLY | os.O_CREAT), 2)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", world), rank=rank, world_size=world)
    place = Place(rank, world, rank, world, 1, "cpu")
    dump = Dump(Path(folder) / "flight", 0, place, "here", Progress(None, 0, "step"))
    Watchdog(limits, dump, place)
    work(dump)


def run(folder: Path, world: int, work: Callable[[Dump], None], limit_s: float = LIMIT_S) -> tuple[list[int], float]:
    """The exit codes of the ranks, and how long they took."""
    context, limits = multiprocessing.get_context("fork"), dict.fromkeys(LIMITS, limit_s)
    ranks = [context.Process(target=_rank, args=(r, world, str(folder), work, limits)) for r in range(world)]
    begin = time.monotonic()
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=60)
        process.kill()
    return [process.exitcode for process in ranks], time.monotonic() - begin


def one_sleeps(dump: Dump) -> None:
    everyone = dist.new_group([0, 1, 2])
    dump.labels = {everyone.group_name: ("dp", 3)}
    numbers = torch.ones(10)
    for _ in range(4):
        dist.all_reduce(numbers, group=everyone)
    dump.progress.step_done(7, 0.0, lambda mark: True)
    if dist.get_rank() == 1:
        sleeps_here()
    dist.all_reduce(numbers, group=everyone)


def sleeps_here() -> None:
    time.sleep(60)


def test_every_rank_of_a_hang_tells_where_it_stood_and_ends(tmp_path: Path) -> None:
    codes, seconds = run(tmp_path, 3, one_sleeps)
    assert codes == [1, 1, 1]
    assert seconds < 3 * LIMIT_S
    dumps = read(tmp_path)
    assert sorted(dumps) == [0, 1, 2]
    told = dumps[1]
    for dump in dumps.values():
        validator().validate(dump)
    assert (told["cause"], told["phase"], told["step"], told["finished"]) == ("timeout", "step", 7, 7)
    # it may have seen another one's dump first
    assert LIMIT_S / 2 < told["waited_s"] < 1.5 * LIMIT_S
    assert {thread["name"] for thread in told["threads"]} >= {"MainThread", "watchdog"}
    hang = diagnose(dumps, None, lambda rank: [], lambda rank: "")
    assert hang is not None
    line = sleeps_here.__code__.co_firstlineno + 1
    assert hang.rank == 1
    assert hang.communicates
    assert hang.reason.startswith(
        "rank 1 did not join all_reduce 5 of dp (3 ranks) within 3 s, in step 8; it stood in "
    )
    assert hang.reason.endswith(f"tests/recorder/test_recorder_watchdog.py:{line} sleeps_here")


def keeps_the_interpreter(dump: Dump) -> None:
    ctypes.PyDLL(None).sleep(60)


def test_a_rank_whose_interpreter_is_kept_prints_its_stack_and_ends(tmp_path: Path) -> None:
    codes, seconds = run(tmp_path, 1, keeps_the_interpreter, 2.0)
    assert codes == [1]
    assert seconds < 10
    assert read(tmp_path) == {}
    file, _, function = printed([tmp_path / "stderr0"])[0]
    assert (file, function) == (__file__, "keeps_the_interpreter")
    hang = diagnose({}, 0, lambda rank: [tmp_path / f"stderr{rank}"], lambda rank: "")
    assert hang is not None and "test_recorder_watchdog.py" in hang.reason and not hang.communicates


def test_progress_in_a_step_is_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    now, done = [100.0], set()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(None, 0, "compile_and_first_step")
    for step in (1, 2, 3):  # the host runs ahead
        now[0] += 1
        progress.step_done(step, step, done.__contains__)
    assert progress.standing() == ("compile_and_first_step", 3.0)
    done.add(1)
    now[0] += 5
    assert progress.standing() == ("step", 0.0)
    now[0] += 5
    assert progress.standing() == ("step", 5.0)
    progress.enter("checkpoint_stall")
    assert progress.standing() == ("checkpoint_stall", 0.0)


class Lost(RuntimeError):
    """What a collective raises."""


def raises_here(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (Lost("Connection closed by peer\nmore"), "error"),
        (MemoryError("no room"), "oom"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), "oom"),
        (ValueError("a person's mistake"), None),
    ],
)
def test_an_error_leaves_a_dump_of_where_it_was_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, cause: str | None
) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)  # no watchdog in the tests' own process
    monkeypatch.setattr(threading.Thread, "join", lambda thread: None)
    place = Place(1, 2, 1, 2, 1, "cpu")
    files = Files(tmp_path, 0, place)
    with pytest.raises(type(error)), watched(Config(), 0, place, files):
        raises_here(error)
    if cause is None:
        assert not (tmp_path / "flight").exists()
        return
    told = json.loads((tmp_path / "flight" / "rank1.json").read_text())
    assert (told["cause"], told["error"]) == (cause, f"{type(error).__name__}: {str(error).splitlines()[0]}")
    assert (told["peak_memory_bytes"] or 0) > (2**20 if cause == "oom" else -1)
    assert told["threads"][0]["frames"][0] == [__file__, raises_here.__code__.co_firstlineno + 1, "raises_here"]


@pytest.mark.parametrize(
    ("nodes", "said", "waits"),
    [
        (2, "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.3]:51", True),
        (2, "a shape does not fit", False),
        (1, "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.3]:51", False),
    ],
)
def test_a_rank_that_lost_a_peer_lets_the_peers_host_speak_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: int, said: str, waits: bool
) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)  # no watchdog in the tests' own process
    monkeypatch.setattr(threading.Thread, "join", lambda thread: None)
    waited: list[float] = []
    place = Place(0, 2, 0, 2 // nodes, nodes, "cpu")
    with pytest.raises(RuntimeError), watched(Config(), 0, place, Files(tmp_path, 0, place), waited.append):
        raise RuntimeError(said)
    assert bool(waited) == waits


def test_of_a_large_world_only_ranks_that_wait_for_nobody_are_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "local"))
    waiting = [{"state": "scheduled"}]
    for rank, under_way in ((5, waiting), (64, waiting), (65, [])):
        dump = Dump(tmp_path / "flight", 0, Place(rank, 128, 0, 1, 128, "cpu"), "here", Progress(None, 0, "step"))
        monkeypatch.setattr(dump, "document", lambda *_, under_way=under_way: {"operations": under_way})
        dump.write("timeout", 1.0)
    assert sorted(path.name for path in (tmp_path / "flight").iterdir()) == ["rank5.json", "rank65.json"]
    assert [path.name for path in tmp_path.glob("local/*/*")] == ["rank64.json"]


def test_pytorchs_own_timeouts_come_later_than_ours() -> None:
    config = Config()
    config.watchdog.step_s = 7200.0
    assert patience(config).total_seconds() > 7200 + grace(7200)


def test_a_dump_for_which_there_is_no_room_leaves_no_part_of_itself(tmp_path):
    kept, limits = tmp_path / "rank0.json", resource.getrlimit(resource.RLIMIT_FSIZE)
    kept.write_text("x" * 1000)
    dump = Dump(tmp_path / "flight", 0, Place(0, 1, 0, 1, 1, "cpu"), "here", Progress(None, 0, "step"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            dump.collect(kept)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "flight").iterdir()) == []
