"""How often a checkpoint is worth its cost, and what of a point's checkpoints is refused."""

from dataclasses import replace
from math import expm1

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_configs import config

from harness.config import Checkpoint, Config, Workload
from harness.fields import check_fields
from harness.plan.benchmark import plan_benchmark
from harness.plan.checkpoint import best_interval, failure_seconds
from harness.plan.point import Plan, plan


def lost(interval: float, stall: float, failure: float) -> float:
    """Expected seconds for each useful one, failures coming at random: Daly 2006, equation 20, without a restart."""
    return failure * expm1((interval + stall) / failure) / interval


@given(stall=st.floats(0.01, 100), failure=st.floats(200, 1e6))
def test_the_interval_loses_as_little_as_any_other(stall: float, failure: float) -> None:
    best = best_interval(stall, failure)
    least = min(lost(best * 1.02**k, stall, failure) for k in range(-150, 151))
    assert lost(best, stall, failure) <= least * 1.005


def test_small_stalls_give_youngs_interval() -> None:
    assert best_interval(1.0, 1e8) == pytest.approx((2 * 1.0 * 1e8) ** 0.5, rel=1e-3)
    assert best_interval(5.0, 2.0) == 2.0


def test_the_failure_rate_is_that_of_llama_3() -> None:
    """419 unexpected interruptions in 54 days on 16,384 GPUs, one every three hours."""
    default = Checkpoint()
    assert default.failure_hours == pytest.approx(54 * 24 * 16384 / 419, rel=1e-5)
    assert failure_seconds(default, 16384) == pytest.approx(54 * 24 * 3600 / 419, rel=1e-5)


REFUSED = {
    "checkpoint.every=null": Checkpoint("steps", "steps"),
    "checkpoint.every=2.5": Checkpoint("steps", "steps", 2.5),
    "checkpoint.every=-1": Checkpoint("seconds", "seconds", -1),
    "checkpoint.every=5": Checkpoint("none", "none", 5),
    "checkpoint.every=7": Checkpoint("auto", "auto", 7),
    "checkpoint.mode=async: no": Checkpoint("none", "none", mode="async"),
    "checkpoint.keep=0": Checkpoint("steps", "steps", 5, keep=0),
    "checkpoint.failure_hours=9": Checkpoint("steps", "steps", 5, failure_hours=9),
}


def planned(asked: Config) -> Plan:
    """A point's plan, as a command comes to it."""
    check_fields(asked)
    return plan(asked, None, None)


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_is_refused_by_its_field(sentence: str) -> None:
    asked = config(checkpoint=REFUSED[sentence])
    with pytest.raises(ValueError, match=sentence.replace(".", r"\.")) as raised:
        planned(asked)
    assert "\n" not in str(raised.value)


def test_what_is_written_in_the_background_has_its_bounds() -> None:
    behind = Checkpoint("steps", "steps", 5, "async")
    plan(config(kind="fsdp", nodes=64, gpus_per_node=8, checkpoint=behind), None, None)
    with pytest.raises(ValueError, match=r"parallel\.kind=zero2"):
        plan(config(kind="zero2", checkpoint=behind), None, None)
    with pytest.raises(ValueError, match="520 ranks"):
        plan(config(kind="fsdp", nodes=65, gpus_per_node=8, checkpoint=behind), None, None)


def test_a_benchmark_of_collectives_has_no_state() -> None:
    point = config(gpus_per_node=2, checkpoint=Checkpoint("auto", "auto"))
    with pytest.raises(ValueError, match="checkpoint=auto"):
        plan_benchmark(replace(point, workload=Workload("collectives", "collectives")), False, None)
