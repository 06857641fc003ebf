"""A point on fewer hosts than planned trains on the same global batch, or does not run."""

from dataclasses import replace
from typing import Any

import pytest
from plan_configs import config

from harness.config import Config, Launcher, Parallel, Workload
from harness.plan import batch
from harness.plan.elastic import check_elastic, fitting, on_hosts


def planned(nodes: int = 8, kind: str = "srun", **changes: Any) -> Config:
    """A point of four ranks a host, two sequences each."""
    fields = {"min_nodes": None, "max_nodes": None} | {
        name: changes.pop(name) for name in ("min_nodes", "max_nodes") if name in changes
    }
    chosen = Launcher(kind, kind, **fields)
    return config(nodes=nodes, gpus_per_node=4, local_batch=2, launcher=chosen, **changes)


@pytest.mark.parametrize("parallel", [Parallel("fsdp", "fsdp"), Parallel("x", "fsdp", tp=2, pp=2)])
@pytest.mark.parametrize("strong", [False, True])
def test_the_global_batch_stays(parallel: Parallel, strong: bool) -> None:
    asked = {"scaling": "strong", "global_batch": 128} if strong else {}
    made = planned(parallel=parallel, **asked)
    for nodes in (1, 2, 4, 8):
        fewer = on_hosts(made, nodes)
        assert batch.tokens_per_step(fewer) == batch.tokens_per_step(made)
        assert batch.data_parallel(fewer) * 8 == batch.data_parallel(made) * nodes
        assert batch.accumulation(fewer) * nodes == batch.accumulation(made) * 8


@pytest.mark.parametrize(("hosts", "nodes"), [(9, 8), (8, 8), (7, 4), (4, 4), (3, 2)])
def test_a_number_of_hosts_that_does_not_share_out_the_step_is_passed_over(hosts: int, nodes: int) -> None:
    assert fitting(planned(min_nodes=2), hosts) == nodes


@pytest.mark.parametrize(
    ("made", "hosts", "told"),
    [
        (planned(), 7, r"^nodes=8: 7 of its hosts are left$"),
        (planned(min_nodes=4), 3, r"^launcher\.min_nodes=4: 3 of its hosts are left$"),
        (
            planned(min_nodes=5),
            7,
            r"^launcher\.min_nodes=5: 7 of its hosts are left, and nodes=7 is not possible: "
            r"global_batch=64: must be a multiple of .* = 56$",
        ),
        (
            planned(min_nodes=7, parallel=Parallel("hsdp", "hsdp", replicas=8)),
            7,
            r"nodes=7 is not possible: parallel\.replicas=8: ",
        ),
    ],
)
def test_too_few_hosts_are_named(made: Config, hosts: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        fitting(made, hosts)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (planned(min_nodes=9), "launcher.min_nodes=9: must be at most nodes=8"),
        (planned(max_nodes=7), "launcher.max_nodes=7: must be at least nodes=8"),
        (
            replace(planned(min_nodes=4), workload=Workload("collectives", "collectives")),
            "launcher.min_nodes=4: collectives alone are timed on nodes=8 and no fewer",
        ),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(made: Config, told: str) -> None:
    with pytest.raises(ValueError) as refused:
        check_elastic(made)
    assert str(refused.value).startswith(told)


def test_spare_hosts_are_no_contradiction() -> None:
    check_elastic(planned(min_nodes=2, max_nodes=10))
