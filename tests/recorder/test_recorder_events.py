"""Records reach the file whole, or somebody hears of it."""

import json
import threading
from pathlib import Path

import pytest

from harness.recorder.events import EventWriter


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


def test_a_second_writer_appends(tmp_path):
    for step in (1, 2):
        writer = EventWriter(tmp_path / "events.jsonl", attempt=0)
        writer.write("step", step=step)
        writer.close()
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 2


def test_a_full_disk_is_heard_of_at_the_end_and_does_not_hold_training_up():
    writer = EventWriter(Path("/dev/full"), attempt=0)
    done = threading.Event()

    def train():
        for step in range(20_000):
            writer.write("step", step=step)
        done.set()

    threading.Thread(target=train, daemon=True).start()
    assert done.wait(20)
    with pytest.raises(OSError, match="No space left"):
        writer.close()
