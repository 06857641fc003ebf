"""Reading studies and run directories, whole and half-written."""

import json
import subprocess
import sys

import pytest
import yaml
from node_files import make_gpu, make_poll, make_port
from run_dirs import add_point, demo_study, make_attempt, make_config, make_ranks, make_study, validator

from harness.analysis.read import read_lines, read_point, read_study
from harness.analysis.summary import summarise
from harness.report import report
from harness.schema import complete


def test_a_torn_last_line_is_skipped_and_named(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": 3')
    assert read_lines(path) == ([{"a": 1}, {"a": 2}], "events.jsonl: skipped a torn last line")


def test_malformed_lines_in_the_middle_are_skipped_and_named(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a": 1}\nnonsense\n[]\n\xff\xfe\n{"a": 2}\n')
    records, skipped = read_lines(path)
    assert records == [{"a": 1}, {"a": 2}]
    assert skipped == "events.jsonl: skipped 3 malformed lines (2, 3, 4)"
    path.write_bytes(b"nonsense\n" * 35 + b'{"a"')
    assert read_lines(path)[1] == "events.jsonl: skipped 35 malformed lines (1, 2, 3, 4, 5 …) and a torn last line"


def test_whole_and_missing_files_say_nothing(tmp_path):
    path = tmp_path / "events.jsonl"
    assert read_lines(path) == ([], None)
    path.write_text('{"a": 1}\n')
    assert read_lines(path) == ([{"a": 1}], None)


def test_a_point_reads_back(tmp_path):
    config = make_config("fsdp", 2, seed=3)
    launch, events = make_attempt(config, [0.1] * 5)
    point = read_point(add_point(make_study(tmp_path), config, [(launch, events)]))
    assert point.config == config
    assert point.launches == [launch]
    assert point.events == {0: events}
    assert point.warnings == []


def test_half_written_points_are_sane(tmp_path):
    study = make_study(tmp_path)
    config = make_config()
    path = add_point(study, config, [make_attempt(config, [0.1])])
    (path / "status.json").unlink()
    (path / "provenance.json").write_text('{"schema"')
    (path / "attempts/0/events.jsonl").unlink()
    (path / "attempts/1").mkdir()
    point = read_point(path)
    assert point.status["status"] == "pending"
    assert point.events == {0: [], 1: []}
    assert point.warnings == ["provenance.json is not readable"]


@pytest.mark.parametrize("text", ['{"reason": "\\ud800"}', "[" * 100_000, '{"time": NaN}', "[]"])
def test_a_document_that_is_no_json_is_not_readable(tmp_path, text):
    path = add_point(make_study(tmp_path), make_config())
    (path / "status.json").write_text(text)
    point = read_point(path)
    assert (point.status["status"], point.warnings) == ("pending", ["status.json is not readable"])


def test_records_of_another_schema_are_skipped_and_named(tmp_path):
    config = make_config()
    path = add_point(make_study(tmp_path), config, [make_attempt(config, [0.1])])
    with open(path / "attempts/0/events.jsonl", "a") as file:
        file.write('{"schema": 2, "kind": "step"}\n{"schema": 1, "kind": "another"}\n')
    point = read_point(path)
    assert {record["schema"] for record in point.events[0]} == {1}
    assert point.warnings == [
        "attempt 0: events.jsonl: skipped 1 record of another schema",
        "attempt 0: events.jsonl: skipped 1 record that lack time",
    ]


def test_records_that_lack_fields_are_skipped_and_named(tmp_path):
    config = make_config()
    launch, events = make_attempt(config, [0.1] * 5)
    del launch["start"], events[3]["duration_s"], events[4]["start"], events[5]["kind"]
    path = add_point(make_study(tmp_path), config, [(launch, events)])
    (path / "status.json").write_text("{}")
    (path / "env.json").mkdir()
    point = read_point(path)
    assert (point.launches, point.status["status"]) == ([], "pending")
    assert point.events == {0: events[:3] + events[6:]}
    assert point.warnings == [
        "status.json lacks kind",
        "env.json is not readable",
        "launch.json lacks start",
        "attempt 0: events.jsonl: skipped 3 records that lack duration_s, kind, start",
    ]
    summarise(point)


def test_the_quick_check_of_a_record_says_what_the_schema_says():
    config = make_config(gpus=2)
    launch, events = make_attempt(config, [0.1] * 9)
    for whole in (
        launch,
        *events,
        make_ranks(1, [0.1], 0.1),
        make_poll(1.0, [make_gpu(0, 1.0)], ports=[make_port(a=1)]),
    ):
        assert complete(whole)
        for name in whole.keys() - {"schema", "kind"}:
            for odd in (None, -1, 1, 0.5, True, "x", "measured", [], [None], [{}], {}, {"x": {}}, {"all_reduce": -1}):
                record = whole | {name: odd}
                assert complete(record) == validator().is_valid(record), (whole["kind"], name, odd)


def test_superseded_points_and_folders_without_configuration_are_left_out(tmp_path):
    study = demo_study(tmp_path)
    folders = sorted((study / "points").iterdir())
    folders[0].rename(folders[0].with_name(f"{folders[0].name}~1"))
    (folders[1] / "config.yaml").unlink()
    (folders[2] / "config.yaml").write_text("nodes: 1\nno_such_key: 2\n")
    read = read_study(study)
    assert [point.slug for point in read] == [folders[3].name]
    assert f"point {folders[1].name} is left out: it has no config.yaml" in read.warnings
    assert f"point {folders[2].name} is left out: config.yaml has a key that is none: no_such_key" in read.warnings


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"nodes: [1, 2\nmodel: }", "config.yaml is no YAML"),
        (b"- 1\n", "config.yaml has no keys"),
        (b"nodes: 1\nmodel: 3\n", "config.yaml has no keys below model"),
        (b"\xff\xfe\x00", "config.yaml is no text"),
        (b"nodes: [&a [1], *a]\n", "config.yaml is no YAML"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_a_sentence_of_plain_words(tmp_path, content, said):
    study = demo_study(tmp_path)
    path = next((study / "points").iterdir())
    (path / "config.yaml").write_bytes(content)
    with pytest.raises(ValueError) as raised:
        read_point(path)
    assert str(raised.value) == f"point {path.name} is left out: {said}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gpus_per_node": "many"}, "config.yaml gpus_per_node=many: must be int"),
        ({"gpus_per_node": None}, "config.yaml gpus_per_node=None: must be int"),
        ({"gpus_per_node": 0}, "config.yaml gpus_per_node=0: must be at least 1"),
        ({"compile": 1}, "config.yaml compile=1: must be bool"),
        ({"nccl": {"name": "x", "env": {1: 2}}}, "config.yaml nccl.env={1: 2}: must be mapping"),
        ({"model": {"name": "x"}}, "config.yaml model.dim=???: must be int"),
        ({"seq_len": 10**20}, "config.yaml has values that make no sense"),
        ({"local_batch": 2**62, "gpus_per_node": 4}, "config.yaml has values that make no sense"),
    ],
)
def test_a_point_whose_configuration_cannot_be_is_left_out_and_costs_no_other_its_figures(tmp_path, changes, said):
    study = demo_study(tmp_path)
    path = next((study / "points").iterdir()) / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    document = report(study)
    assert len(document["points"]) == 3
    assert f"point {path.parent.name} is left out: {said}" in document["warnings"]


def test_what_is_no_study_is_said_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="study nothing: there is no folder"):
        read_study(tmp_path / "nothing")
    with pytest.raises(ValueError, match="is no study: it has no readable"):
        read_study(tmp_path)
    with pytest.raises(ValueError, match="study later was written with schema 7; this version reads 1"):
        read_study(make_study(tmp_path, "later", schema=7))


def test_a_study_without_points_is_empty(tmp_path):
    study = tmp_path / "empty"
    study.mkdir()
    (study / "study.json").write_text(json.dumps({"schema": 1}))
    assert list(read_study(study)) == []


def test_the_plain_part_imports_neither_torch_nor_polars():
    program = (
        "import sys, harness.analysis.goodput, harness.analysis.summary, harness.analysis.efficiency\n"
        "assert not {'torch', 'hydra', 'polars', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
