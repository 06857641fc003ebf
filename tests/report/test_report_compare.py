"""Two studies side by side: ratios of what did the same work, what changed, and what has no partner."""

import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from run_dirs import EPOCH, add_point, make_attempt, make_config, make_start, make_study, record, validator
from study_command import Command

from harness.publish.bundle import bundle, comparable
from harness.report.compare import compare, side_by_side

STEADY = [0.1, 0.101, 0.099, 0.1, 0.102, 0.098] * 3
VERSIONS = make_start(make_config(), EPOCH)["versions"]


def add(study, config, scale=1.0, nccl="2.27.3", **more):
    begin = {"versions": VERSIONS | {"nccl": nccl}}
    return add_point(study, config, [make_attempt(config, [s * scale for s in STEADY], begin=begin)], **more)


@pytest.fixture
def studies(tmp_path):
    """ddp at 1, 2 and 4 ranks: of the new study a fifth slower at 2, with other sequences at 4. Each has more alone."""
    old, new = make_study(tmp_path, "june"), make_study(tmp_path, "july")
    for gpus in (1, 2, 4):
        add(old, make_config(gpus=gpus))
        add(new, make_config(gpus=gpus, seq_len=256 if gpus == 4 else 128), {2: 1.25}.get(gpus, 1.0), "2.28.9")
    add(old, make_config("fsdp", 2))
    add(new, make_config(gpus=8), status="oom", reason="no memory")
    return old, new


def printed(document):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(side_by_side(document))
    return console.export_text()


def test_ratios_are_new_over_old_with_intervals(studies):
    document = compare(*studies)
    validator().validate(json.loads(json.dumps(document, allow_nan=False)))
    one, two, four = document["pairs"]
    assert (one["gpus"], one["tokens_per_s_gpu"]["value"], one["efficiency"]) == (1, pytest.approx(1), None)
    rate = two["tokens_per_s_gpu"]
    assert rate["value"] == pytest.approx(0.8)
    assert rate["lo"] < 0.8 < rate["hi"] < 0.9
    assert rate["kind"] == "within-run"
    assert two["efficiency"]["value"] == pytest.approx(0.8)
    assert two["efficiency"]["hi"] - two["efficiency"]["lo"] > rate["hi"] - rate["lo"], "baselines are uncertain, too"
    assert four["gpus"] == 4


def test_other_work_has_no_ratio_and_the_field_is_named(studies):
    four = compare(*studies)["pairs"][2]
    assert (four["tokens_per_s_gpu"], four["efficiency"]) == (None, None)
    assert {change["field"]: (change["old"], change["new"]) for change in four["refused"]} == {
        "seq_len": ("128", "256"),
        "tokens_per_step": ("128 per rank", "256 per rank"),
    }


def test_what_changed_is_said_first_and_what_has_no_partner_last(studies):
    document = compare(*studies)
    changed = {change["title"]: (change["old"], change["new"]) for change in document["changed"]}
    assert changed["NCCL"] == ("2.27.3", "2.28.9")
    assert changed["seq_len"] == ("128", "256")
    assert [(one["study"], one["label"].split()[0]) for one in document["unpaired"]] == [
        ("june", "tiny-fsdp-n1x2"),
        ("july", "tiny-ddp-n1x8"),
    ]
    assert document["unpaired"][1]["reason"] == "is oom"
    text = printed(document)
    assert text.startswith("What changed from june to july:\n")
    assert "  NCCL: 2.27.3 → 2.28.9\n" in text
    assert "  seq_len: 128 → 256 (in 1 of 3 pairs)\n" in text
    assert "0.800 [" in text
    assert (
        text.index("NCCL: 2.27.3")
        < text.index("slower")
        < text.index("Not paired from june (july has no other ok point")
    )


def test_a_study_is_as_fast_as_itself_and_nothing_changed(studies):
    old, _ = studies
    document = compare(old, old)
    assert document["changed"] == document["unpaired"] == []
    assert [pair["tokens_per_s_gpu"]["value"] for pair in document["pairs"]] == [pytest.approx(1)] * 4
    assert printed(document).startswith("Nothing known changed from ")


def test_ranks_on_cpus_are_called_that(studies):
    text = printed(compare(*studies))
    assert "┃ ranks ┃ tokens/s/rank ┃" in text and "hosts and ranks)" in text and "GPU" not in text


def test_what_has_no_partner_in_a_study_beside_itself_is_said_once(studies):
    _, new = studies
    document = compare(new, new)
    assert [one["label"] for one in document["unpaired"]] == ["tiny-ddp-n1x8 seq_len=128"]


def test_nothing_changed_from_a_study_without_a_measured_point(studies, tmp_path):
    empty = make_study(tmp_path, "empty")
    add_point(empty, make_config(gpus=2), status="invalid", reason="no")
    document = compare(empty, studies[0])
    assert document["changed"] == []
    assert printed(document).startswith("What changed from empty to june is not known: no ok point in empty.\n")


def test_nothing_is_written(studies):
    old, new = studies
    compare(old, new)
    assert not (old / "report").exists() and not (new / "report").exists()


def test_studies_without_a_common_scale_have_no_pairs(tmp_path):
    old, new = make_study(tmp_path, "small"), make_study(tmp_path, "large")
    add(old, make_config(gpus=1))
    add(new, make_config(gpus=64), nccl="2.28.9")
    document = compare(old, new)
    assert document["pairs"] == []
    assert len(document["unpaired"]) == 2
    assert [change["title"] for change in document["changed"]] == ["NCCL"]
    assert "No two points could be paired." in printed(document)


def test_of_several_that_fit_the_most_alike_are_paired(tmp_path):
    old, new = make_study(tmp_path, "a"), make_study(tmp_path, "b")
    for compiled in (False, True):
        add(old, make_config(gpus=2, compile=compiled))
        add(new, make_config(gpus=2, compile=compiled), nccl="2.28.9")
    for pair in compare(old, new)["pairs"]:
        assert [change["field"] for change in pair["changed"]] == ["nccl_version"]


def test_a_damaged_point_costs_no_other_its_comparison(studies):
    old, new = studies
    for folder in sorted((old / "points").iterdir())[:1]:
        (folder / "config.yaml").unlink()
    document = compare(old, new)
    assert len(document["pairs"]) == 2
    assert any("has no config.yaml" in warning for warning in document["warnings"])


def test_the_verb_prints_and_takes_folders_and_names(studies, tmp_path):
    command = Command(tmp_path, {})
    shown = command("compare", "june", str(studies[1]), "--root", ".")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("What changed from june to july:")
    document = json.loads(command("compare", "june", "july", "--root", ".", "--json").stdout)
    validator().validate(document)
    wrong = command("compare", "june", "august", "--root", ".")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "august: no study of that name" in wrong.stderr
    wrong = command("report", "june", "--root", ".", "--join=power")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("harness: --join=power: no field that keeps points apart; ")


def test_a_bundle_is_compared_like_the_study_that_it_was_made_of(studies, tmp_path):
    old, new = studies
    for point in (old / "points").iterdir():  # what a bundle hides is no difference
        files = [{"path": "/etc/nccl.conf", "exists": True, "sha256": "a" * 64, "lines": []}]
        texts = {name: {} for name in ("requested", "effective", "other", "added", "ambient")}
        (point / "env.json").write_text(
            json.dumps(record("environment", EPOCH, None, **texts, cleared=[], files=files))
        )
    sent = bundle(old, tmp_path / "sent.tar.gz")
    with comparable([sent, old]) as folders:
        document = compare(*folders, [sent, old])
    validator().validate(document)
    assert (document["changed"], document["unpaired"], len(document["pairs"])) == ([], [], 4)
    assert (document["old"]["path"], document["new"]["study"]) == (str(sent), str(old))
    shown = Command(tmp_path, {})("compare", "sent.tar.gz", str(new))
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("What changed from june to july:")
    damaged = tmp_path / "damaged.tar.gz"
    damaged.write_bytes(sent.read_bytes()[:2000])
    wrong = Command(tmp_path, {})("compare", "damaged.tar.gz", "june", "--root", ".")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("harness: damaged.tar.gz: is no whole bundle")


def test_the_example_of_the_docs_prints_what_it_shows():
    root = Path(__file__).parents[2]
    page = (root / "docs" / "comparability.md").read_text()
    [(words, shown)] = re.findall(r"```\n\$ harness (compare .*)\n((?:.*\n)*?)…\n```", page)
    printed = Command(root, {})(*words.split()).stdout.splitlines()
    lines = shown.splitlines()
    assert [line.rstrip() for line in printed[: len(lines)]] == lines
