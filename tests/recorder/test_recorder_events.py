"""Records reach the file whole, or somebody hears of it."""

import json
import resource
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from harness.analysis.read import read_lines
from harness.place import Place
from harness.recorder.events import EventWriter
from harness.recorder.files import Files


def test_every_record_is_one_line(tmp_path):
    writer = EventWriter(tmp_path / "events.jsonl", attempt=2)
    for step in range(500):
        writer.write("step", step=step)
    writer.close()
    records = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(500))
    assert {(record["schema"], record["kind"], record["attempt"]) for record in records} == {(1, "step", 2)}


def test_numbers_that_json_lacks_become_null(tmp_path):
    writer = EventWriter(tmp_path / "events.jsonl", attempt=0)
    writer.write("step", loss=float("nan"), nested={"all": [float("inf"), 1.5]})
    writer.close()
    record = json.loads((tmp_path / "events.jsonl").read_text())
    assert record["loss"] is None
    assert record["nested"] == {"all": [None, 1.5]}


def test_after_a_flush_all_records_so_far_are_in_the_file(tmp_path):
    writer = EventWriter(tmp_path / "events.jsonl", attempt=0)
    for step in range(500):
        writer.write("step", step=step)
    writer.flush()
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 500
    writer.close()
    lost = EventWriter(Path("/dev/full"), attempt=0)
    lost.write("step")
    with pytest.raises(OSError):
        lost.flush()


def test_a_record_reaches_the_file_though_nobody_asks(tmp_path):
    path = tmp_path / "events.jsonl"
    path.touch()
    writer = EventWriter(path, attempt=0)
    writer.write("step", step=1)
    until = time.monotonic() + 20
    while not path.read_text() and time.monotonic() < until:
        time.sleep(0.05)
    assert json.loads(path.read_text())["step"] == 1
    writer.close()


def test_a_second_writer_appends(tmp_path):
    for step in (1, 2):
        writer = EventWriter(tmp_path / "events.jsonl", attempt=0)
        writer.write("step", step=step)
        writer.close()
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 2


def test_a_disk_that_is_full_is_heard_of_at_the_next_record_and_holds_nothing_up():
    writer = EventWriter(Path("/dev/full"), attempt=0)
    heard = []

    def train():
        try:
            while True:
                writer.write("step", step=1)
        except OSError as error:
            heard.append(str(error))

    training = threading.Thread(target=train, daemon=True)
    training.start()
    training.join(20)
    assert heard == ["[Errno 28] No space left on device: '/dev/full'"]
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        writer.close()


def test_a_record_that_no_longer_fits_leaves_no_part_of_itself(tmp_path):
    path = tmp_path / "events.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # as on a disk that becomes full: the write that reaches the limit is cut short, the next one fails
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        writer = EventWriter(path, attempt=0)
        for step in range(40):
            with suppress(OSError):
                writer.write("step", step=step)
        with pytest.raises(OSError, match="File too large"):
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    text = path.read_text()
    assert text.endswith("}\n")
    assert [json.loads(line)["step"] for line in text.splitlines()] == list(range(text.count("\n")))
    assert 0 < text.count("\n") < 20


def test_a_record_behind_a_torn_one_is_a_line_of_its_own(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"schema": 1, "kind": "step"}\n{"schema": 1, "ki')
    writer = EventWriter(path, attempt=0)
    writer.write("end")
    writer.close()
    records, warning = read_lines(path)
    assert [record["kind"] for record in records] == ["step", "end"]
    assert warning == "events.jsonl: skipped 1 malformed line (2)"


def test_a_full_disk_hides_no_other_reason_of_a_ranks_end(tmp_path):
    place = Place(0, 1, 0, 1, 1, "cpu")
    (tmp_path / "nodes" / "000").mkdir(parents=True)
    (tmp_path / "nodes" / "000" / f"{socket.gethostname()}.jsonl").symlink_to("/dev/full")

    def run(failing):
        with Files(tmp_path, 0, place) as files:
            files.node.write("sample")
            if failing:
                raise MemoryError("out of memory")

    with pytest.raises(MemoryError):
        run(failing=True)
    (tmp_path / "events.jsonl").unlink()
    with pytest.raises(OSError, match="No space left"):
        run(failing=False)
