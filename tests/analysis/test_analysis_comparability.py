"""Points that differ beyond what was asked for are no one curve, unless a person says so, and then it is seen."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_files import add_polls, make_gpu, make_poll
from run_dirs import EPOCH, add_point, make_attempt, make_config, make_start, make_study, record

from harness.analysis.comparability import Candidate, gate
from harness.analysis.fingerprint import RECORDED, gpu_links, transports
from harness.analysis.points import gather
from harness.analysis.read import read_study
from harness.report import report

STEADY = [0.1, 0.101, 0.099, 0.1, 0.102, 0.098] * 3
VERSIONS = make_start(make_config(), EPOCH)["versions"]
TOPOLOGY = """\
\tGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity
GPU0\t X \tNV18\tNV18\tPIX\t0-31
GPU1\tNV18\t X \tNV18\tSYS\t0-31
GPU2\tNV18\tNV18\t X \tSYS\t0-31
NIC0\tPIX\tSYS\tSYS\t X

Legend:
  NV#  = Connection traversing a bonded set of # NVLinks
"""


def environment(**ambient):
    texts = {"requested": {}, "effective": ambient, "other": {}, "added": {"NCCL_DEBUG": "INFO"}}
    return record("environment", EPOCH, None, **texts, ambient=ambient, cleared=[], files=[])


def add(study, gpus, *, cap=700.0, ambient=None, begin=None, status="ok", nccl="2.28.9", **config):
    """A point whose GPUs tell this power cap, in this environment."""
    made = make_config(gpus=gpus, **config)
    begin = {"versions": VERSIONS | {"nccl": nccl}} | (begin or {})
    path = add_point(study, made, [make_attempt(made, STEADY, begin=begin)], status=status)
    add_polls(path, [make_poll(EPOCH, [make_gpu(index, 1.0, power_limit_w=cap) for index in range(gpus)])])
    (path / "env.json").write_text(json.dumps(environment(**(ambient or {"NCCL_IB_DISABLE": "1"}))))
    return path


OTHER = {
    "power_cap": ({"cap": 500.0}, "power cap", "700 W", "500 W"),
    "nccl_version": ({"nccl": "2.27.3"}, "NCCL", "2.28.9", "2.27.3"),
    "nccl_ambient": (
        {"ambient": {"NCCL_ALGO": "Ring"}},
        "ambient NCCL variables",
        "NCCL_IB_DISABLE=1",
        "NCCL_ALGO=Ring",
    ),
    "tokens_per_step": ({"begin": {"tokens_per_step": 1024}}, "tokens per step", "128 per rank", "256 per rank"),
}


@pytest.fixture(params=OTHER)
def unlike(request, tmp_path):
    """Three points of which the largest differs in one field; the field, its title and both values."""
    other, *words = OTHER[request.param]
    study = make_study(tmp_path)
    add(study, 1)
    add(study, 2)
    add(study, 4, **other)
    return study, request.param, *words


def test_points_that_differ_are_not_joined_and_the_field_is_named(unlike):
    study, field, title, usual, other = unlike
    document = report(study)
    curves = {curve["name"]: [scale["gpus"] for scale in curve["scales"]] for curve in document["curves"]}
    assert curves == {f"tiny-ddp {title} {usual}": [1, 2], f"tiny-ddp {title} {other}": [4]}
    largest = next(row for row in document["points"] if row["gpus"] == 4)
    assert (largest["baseline"], largest["efficiency"]) == (f"tiny-ddp-n1x4 {title} {other}", 1)
    groups = "; ".join(sorted([f"{usual} on 1 and 2 ranks", f"{other} on 4 ranks"]))
    sentence = f"Points that differ in {title} are not joined: tiny-ddp ({groups}). With --join={field} they are."
    assert document["warnings"] == [sentence]
    assert sentence in Path(document["paths"]["summary"]).read_text()


def test_a_person_can_join_them_and_it_is_seen_everywhere(unlike):
    study, field, title, usual, other = unlike
    document = report(study, join=[field])
    mark = f"(joined over {title})"
    [curve] = document["curves"]
    assert (curve["name"], curve["joined_over"]) == (f"tiny-ddp {mark}", [field])
    assert [scale["gpus"] for scale in curve["scales"]] == [1, 2, 4]
    assert document["headline"][0].startswith(f"tiny-ddp {mark} keeps ")
    [warning] = document["warnings"]
    assert warning.startswith(f"Points are joined although they differ in {title}, as --join={field} asked: tiny-ddp (")
    assert usual in warning and other in warning
    with open(document["paths"]["points"]) as file:
        rows = list(csv.DictReader(file))
    assert {row["joined_over"] for row in rows} == {field}
    assert [f"differ from its {title} {usual}" in row["warnings"] for row in rows] == [True, True, False]
    for written in ("page", "summary"):
        assert mark in Path(document["paths"][written]).read_text()


def test_what_was_asked_for_otherwise_is_joined_with_what_it_changes(tmp_path):
    study = make_study(tmp_path)
    add(study, 1)
    add(study, 2, local_batch=4)
    assert [curve["name"] for curve in report(study)["curves"]] == ["tiny-ddp local_batch=1", "tiny-ddp local_batch=4"]
    document = report(study, join=["tokens_per_step"])
    assert [curve["name"] for curve in document["curves"]] == ["tiny-ddp (joined over tokens per step)"]
    assert "512 per rank (local_batch=4) on 2 ranks" in document["warnings"][0]


def test_a_field_that_keeps_nothing_apart_cannot_be_joined_over(tmp_path):
    study = make_study(tmp_path)
    with pytest.raises(ValueError, match=r"--join=powercap: .*did you mean 'power_cap'\?.*nccl_version"):
        report(study, join=["powercap"])
    with pytest.raises(ValueError, match="--join=git_sha"):
        report(study, join=["git_sha"])


@pytest.mark.parametrize(
    ("device", "curves", "warning"),
    [
        ("cpu", ["tiny-ddp cores of a host 2", "tiny-ddp cores of a host 4"], "--join=cores"),
        ("cuda", ["tiny-ddp"], "The ok points do not have the same cores of a GPU's host: 2; 4."),
    ],
)
def test_a_hosts_cores_keep_points_apart_on_cpus_and_are_said_on_gpus(tmp_path, device, curves, warning):
    study = make_study(tmp_path)
    for gpus in (1, 2):
        config = make_config(gpus=gpus)
        add_point(study, config, [make_attempt(config, STEADY, begin={"device": device})], cores=2 * gpus)
    document = report(study)
    assert [curve["name"] for curve in document["curves"]] == curves
    assert any(warning in sentence for sentence in document["warnings"])


def test_curves_that_are_compared_with_other_caps_are_named_and_marked(tmp_path):
    study = make_study(tmp_path)
    add(study, 2)
    add(study, 2, cap=500.0, parallel="fsdp")
    document = report(study)
    assert document["warnings"] == [
        "The ok points do not have the same power cap: 500 W (tiny-fsdp); 700 W (tiny-ddp). Compare them with care."
    ]
    [compared] = document["comparisons"]
    assert compared["unlike"] == ["power cap"]
    assert "<small>not the same power cap</small>" in Path(document["paths"]["page"]).read_text()


def test_what_is_not_known_is_no_difference_and_is_said(tmp_path):
    study = make_study(tmp_path)
    add(study, 1)
    add(study, 2, cap=None)
    document = report(study)
    assert [curve["name"] for curve in document["curves"]] == ["tiny-ddp"]
    assert document["warnings"] == [
        "The ok points do not have the same power cap: 700 W; unknown. Compare them with care. "
        "Where it is unknown beside one known value, it is taken to be that."
    ]


def test_what_is_not_known_beside_several_values_is_a_curve_of_its_own(tmp_path):
    study = make_study(tmp_path)
    for gpus, cap in ((1, 700.0), (2, None), (4, 500.0)):
        add(study, gpus, cap=cap)
    assert [curve["name"] for curve in report(study)["curves"]] == [
        "tiny-ddp power cap 500 W",
        "tiny-ddp power cap 700 W",
        "tiny-ddp power cap unknown",
    ]


def test_what_follows_from_scale_is_no_difference(tmp_path):
    study = make_study(tmp_path)

    def ways(*told):
        return {"nccl": {"version": None, "transports": list(told) or None, "network": "IB", "env": {}}}

    add(study, 1, begin=ways())
    add(study, 8, begin=ways("P2P/CUMEM"))
    add(study, 8, nodes=2, begin=ways("P2P/CUMEM", "NET/IB/0/GDRDMA"))
    assert report(study)["warnings"] == []
    add(study, 8, nodes=2, repeat=1, begin=ways("P2P/CUMEM", "NET/IB/3/GDRDMA"))
    assert report(study)["warnings"] == []
    add(study, 8, nodes=2, repeat=2, begin=ways("NET/IB/0", "SHM/direct/direct"))
    document = report(study)
    assert len(document["curves"]) == 1
    assert document["warnings"] == [
        "At one scale the ok points do not have the same NCCL transports: NET/IB SHM/direct/direct; "
        "NET/IB/GDRDMA P2P/CUMEM. Compare them with care."
    ]


def test_a_point_that_failed_is_on_the_curve_that_it_can_be_on(tmp_path):
    study = make_study(tmp_path)
    add(study, 1)
    add(study, 2, cap=500.0)
    add(study, 4, status="oom")
    add(study, 8, cap=500.0, status="failed")
    add(study, 16, cap=None, status="timeout")
    gathered = gather(read_study(study)).frame.to_dicts()
    assert {row["gpus"]: row["curve"] for row in gathered} == {
        1: "tiny-ddp power cap 700 W",
        2: "tiny-ddp power cap 500 W",
        4: "tiny-ddp power cap 700 W",
        8: "tiny-ddp power cap 500 W",
        16: "tiny-ddp",
    }


def test_a_variable_that_is_overruled_is_not_ambient(tmp_path):
    study = make_study(tmp_path)
    add(study, 1)
    add(study, 2, ambient={"NCCL_IB_DISABLE": "1", "NCCL_DEBUG": "WARN", "NCCL_VERSION": "2.28.3-1"})
    document = report(study)
    assert document["warnings"] == []
    assert [row["nccl_ambient"] for row in document["points"]] == ["NCCL_IB_DISABLE=1"] * 2


@given(
    st.lists(st.tuples(st.sampled_from([None, "500 W", "700 W"]), st.sampled_from([None, "a", "b"])), max_size=6),
    st.randoms(use_true_random=False),
)
def test_the_order_of_points_decides_nothing(values, random):
    def gated(order):
        nothing = dict.fromkeys((*RECORDED, "seq_len", "local_batch", "global_batch"))
        points = [Candidate("c", 1, 1, True, nothing | {"power_cap": cap, "driver": driver}) for cap, driver in order]
        found = gate(points)
        return {(point.print["power_cap"], point.print["driver"]): point.curve for point in points}, found

    shuffled = random.sample(values, len(values))
    assert gated(values) == gated(shuffled)
    curves, _ = gated(values)
    for position in (0, 1):
        for one, name in curves.items():
            for other, theirs in curves.items():
                unlike = one[position] != other[position] and None not in (one[position], other[position])
                assert not (unlike and name == theirs), "two known values are never on one curve"


def test_links_between_gpus_are_read_from_the_topology():
    assert gpu_links(TOPOLOGY) == "NV18"
    assert gpu_links(TOPOLOGY.replace("NV18", "PIX")) == "PCIe"
    assert gpu_links("\tGPU0\nGPU0\t X \n") is None
    assert gpu_links(None) is None
    assert transports(["NET/IB/0/GDRDMA", "NET/IB/7(1)/GDRDMA", "P2P/CUMEM/read"]) == "NET/IB/GDRDMA P2P/CUMEM/read"


def test_a_field_in_which_no_points_differ_cannot_be_joined_over(tmp_path):
    study = make_study(tmp_path)
    add(study, 1)
    add(study, 2)
    with pytest.raises(ValueError, match="=power_cap: keeps no ok points of made apart, and no other field"):
        report(study, join=["power_cap"])
    add(study, 4, cap=500.0)
    with pytest.raises(ValueError, match="--join=torch: keeps no ok points of made apart; what does: power_cap"):
        report(study, join=["torch"])
    assert not (study / "report").exists()
