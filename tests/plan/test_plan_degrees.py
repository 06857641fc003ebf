"""Which degrees are refused, and why, in one sentence that names a field."""

from dataclasses import replace
from typing import Any

import pytest
from plan_configs import config, group

from harness.config import Config, Parallel
from harness.plan.degrees import check_degrees
from harness.plan.point import plan

RANKS = 8
MODEL, POINT = "model.", "point."


def point(kind: str = "fsdp", shape: str = "tiny", **changes: Any) -> Config:
    """8 ranks of one host; fields of the model and of the point are marked as such, the others are of parallel."""
    made = config(shape, kind, gpus_per_node=RANKS)
    sizes = {key.removeprefix(MODEL): value for key, value in changes.items() if key.startswith(MODEL)}
    keys = {key.removeprefix(POINT): value for key, value in changes.items() if key.startswith(POINT)}
    fields = {key: value for key, value in changes.items() if not key.startswith((MODEL, POINT))}
    return replace(made, model=replace(made.model, **sizes), parallel=replace(made.parallel, **fields), **keys)


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    # the kind
    ("ddp", "tiny", {"tp": 2}, r"parallel.tp=2: must be 1, for parallel.kind=ddp keeps every parameter whole"),
    ("ddp", "tiny_moe", {"ep": 2}, r"parallel.ep=2: must be 1, for parallel.kind=ddp"),
    ("zero2", "tiny", {"cp": 2}, r"parallel.cp=2: must be 1, for parallel.kind=zero2 lets DeepSpeed"),
    ("hsdp", "tiny", {}, r"parallel.replicas=1: must be 2 or more"),
    ("fsdp", "tiny", {"replicas": 2}, r"parallel.replicas=2: must be 1 with parallel.kind=fsdp; parallel=hsdp"),
    ("hsdp", "tiny", {"replicas": 3}, r"parallel.replicas=3: must divide .* different data, 8"),
    ("ddp", "tiny", {"reshard": False}, r"parallel.reshard=False: .*parallel=fsdp"),
    ("zero1", "tiny", {"reshard": False}, r"parallel.reshard=False: .*parallel=fsdp"),
    ("fsdp", "tiny", {"reshard": False, "pp": 2}, r"parallel.reshard=False: .*parallel.pp=2"),
    # fields without their degree
    ("fsdp", "tiny", {"schedule": "gpipe"}, r"parallel.schedule=gpipe: .*parallel.pp=1"),
    ("fsdp", "tiny", {"virtual_stages": 2}, r"parallel.virtual_stages=2: .*parallel.pp=1"),
    ("fsdp", "tiny", {"context": "ulysses"}, r"parallel.context=ulysses: .*parallel.cp=1"),
    # the ranks
    ("fsdp", "tiny", {"tp": 4, "pp": 4}, r"gpus_per_node=8: .* = 8 must be a multiple of .* 4 x 4 x 1 = 16"),
    ("fsdp", "tiny", {"cp": 3}, r"gpus_per_node=8: .* 1 x 1 x 3 = 3"),
    # what tp splits
    ("fsdp", "tiny", {"tp": 8}, r"model.kv_heads=4: must be a multiple of parallel.tp=8"),
    ("fsdp", "tiny", {"tp": 8, "model.heads": 4}, r"model.heads=4: must be a multiple of parallel.tp=8"),
    ("fsdp", "tiny", {"tp": 4, "model.ffn_dim": 390}, r"model.ffn_dim=390: must be a multiple of parallel.tp=4"),
    ("fsdp", "tiny", {"tp": 4, "model.vocab_size": 258}, r"model.vocab_size=258: must be a multiple of parallel.tp=4"),
    ("fsdp", "tiny_moe", {"tp": 4, "model.expert_ffn_dim": 190}, r"model.expert_ffn_dim=190: .*parallel.tp=4"),
    ("fsdp", "tiny_mla", {"tp": 4, "model.ffn_dim": 390}, r"model.ffn_dim=390: must be a multiple of parallel.tp=4"),
    ("fsdp", "tiny", {"tp": 4, "point.seq_len": 2050}, r"seq_len=2050: .*parallel.cp x tp = 1 x 4 = 4"),
    # what cp splits
    ("fsdp", "tiny", {"cp": 4, "point.seq_len": 2052}, r"seq_len=2052: must be a multiple of 2 x parallel.cp = 8"),
    ("ddp", "tiny", {"cp": 8, "context": "ulysses"}, r"model.kv_heads=4: .*tp x cp = 1 x 8 = 8"),
    ("fsdp", "tiny", {"cp": 4, "tp": 2, "context": "ulysses"}, r"model.kv_heads=4: .*tp x cp = 2 x 4 = 8"),
    ("fsdp", "tiny", {"cp": 4, "context": "ulysses", "point.seq_len": 2050}, r"seq_len=2050: .*parallel.cp=4"),
    # what ep splits
    ("fsdp", "tiny", {"ep": 2}, r"parallel.ep=2: must be 1, for model.name=tiny has no experts"),
    ("fsdp", "tiny_moe", {"ep": 4, "model.experts": 6}, r"model.experts=6: must be a multiple of parallel.ep=4"),
    ("fsdp", "tiny_moe", {"ep": 2, "cp": 4}, r"parallel.ep=2: must be a multiple of parallel.cp=4"),
    ("hsdp", "tiny_moe", {"ep": 8, "replicas": 2}, r"parallel.ep=8: must divide .*, 4 data ranks x parallel.cp=1"),
    # what pp splits
    ("fsdp", "tiny", {"pp": 2, "model.tied_embeddings": True}, r"parallel.pp=2: must be 1, .* tied"),
    ("fsdp", "tiny", {"pp": 8}, r"parallel.pp=8: model.layers=4 must be at least .* 8 x 1 = 8"),
    ("fsdp", "tiny", {"pp": 2, "virtual_stages": 3, "schedule": "interleaved"}, r"parallel.pp=2: .* 2 x 3 = 6"),
    ("fsdp", "tiny", {"pp": 2, "schedule": "interleaved"}, r"parallel.virtual_stages=1: must be 2 or more"),
    ("fsdp", "tiny", {"pp": 2, "virtual_stages": 2}, r"parallel.virtual_stages=2: must be 1 with .*schedule=1f1b"),
    (
        "fsdp",
        "tiny",
        {"pp": 4, "point.scaling": "strong", "point.global_batch": 4},
        r"global_batch=4: must be at least 8 with parallel.schedule=1f1b",
    ),
    (
        "fsdp",
        "tiny",
        {
            "pp": 2,
            "schedule": "interleaved",
            "virtual_stages": 2,
            "point.scaling": "strong",
            "point.global_batch": 20,
        },
        r"global_batch=20: gives 5 microbatches, .*2 rounds",
    ),
    # zero bubble
    (
        "ddp",
        "tiny",
        {"pp": 2, "schedule": "zero_bubble", "virtual_stages": 2},
        r"parallel.kind=ddp: must be fsdp or hsdp with parallel.schedule=zero_bubble",
    ),
    (
        "fsdp",
        "tiny",
        {"pp": 2, "schedule": "zero_bubble", "virtual_stages": 2, "point.compile": True},
        r"compile=True: must be False with parallel.schedule=zero_bubble",
    ),
    (
        "fsdp",
        "tiny",
        {"pp": 2, "schedule": "zero_bubble", "virtual_stages": 2, "point.activation_checkpointing": "full"},
        r"activation_checkpointing=full: must be none with parallel.schedule=zero_bubble",
    ),
]


@pytest.mark.parametrize(("kind", "shape", "changes", "message"), REFUSED, ids=[row[3][:60] for row in REFUSED])
def test_degrees_that_do_not_fit_are_refused_in_one_sentence(
    kind: str, shape: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_degrees(point(kind, shape, **changes))
    assert "\n" not in str(caught.value)


ALLOWED: list[tuple[str, str, dict[str, Any]]] = [
    ("hsdp", "tiny", {"replicas": 2, "tp": 2, "pp": 2}),
    ("hsdp", "tiny", {"replicas": 8}),
    ("fsdp", "tiny_mla", {"tp": 8}),
    ("fsdp", "tiny", {"cp": 2, "tp": 4}),
    ("fsdp", "tiny", {"cp": 2, "tp": 2, "context": "ulysses"}),
    ("fsdp", "tiny_moe", {"ep": 8}),
    ("fsdp", "tiny_moe", {"ep": 8, "cp": 2}),
    ("fsdp", "tiny", {"pp": 4, "model.layers": 6}),
    ("fsdp", "tiny", {"pp": 2, "schedule": "zero_bubble", "virtual_stages": 2}),
    ("ddp", "tiny", {"pp": 2, "cp": 2, "schedule": "gpipe"}),
]


@pytest.mark.parametrize(("kind", "shape", "changes"), ALLOWED, ids=[" ".join(map(str, row)) for row in ALLOWED])
def test_degrees_that_fit_are_planned(kind: str, shape: str, changes: dict[str, Any]) -> None:
    made = plan(point(kind, shape, **changes), None, None)
    assert made.world_size == RANKS
    assert made.warnings == []


def test_on_one_rank_fields_of_degrees_may_stand_so_that_a_scale_can_begin_there() -> None:
    alone = Parallel("cp", "fsdp", schedule="gpipe", context="ulysses")
    check_degrees(replace(config("tiny"), parallel=alone))


def test_ffn_dim_is_free_where_all_blocks_have_experts() -> None:
    check_degrees(point(shape="tiny_moe", tp=4, **{"model.ffn_dim": 390}))


def test_tp_across_hosts_is_a_warning_with_its_cost() -> None:
    crossing = replace(point(tp=4), nodes=4, gpus_per_node=2)
    (warning,) = plan(crossing, None, None).warnings
    assert warning.startswith("parallel.tp=4: its ranks are on several hosts of gpus_per_node=2")
    # 4 microbatches of 4 gathers and 4 scatters of 2048 x 128 fp32 numbers in each of 4 blocks, and 4 at the ends
    assert f"{4 * (2 * 4 * 4 + 4) * 2048 * 128 * 4 / 1e9:.2g} GB a step and rank" in warning
    inside = replace(crossing, nodes=2, gpus_per_node=4)
    assert plan(inside, None, None).warnings == []


def test_every_preset_of_degrees_takes_a_kind_that_allows_them() -> None:
    for name, fields in group("parallel").items():
        given = {key: 2 if value == "${gpus_per_node}" else value for key, value in fields.items()}
        made = replace(config("tiny_moe"), parallel=Parallel(**given), gpus_per_node=8)
        assert name == made.parallel.name
        check_degrees(made)
