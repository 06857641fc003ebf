"""Hosts meet in pairs, and what is timed is what was sent."""

import json
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks

from harness.collectives import links

CPU = torch.device("cpu")


@pytest.mark.parametrize("world", range(2, 18))
def test_in_a_tournament_everybody_meets_everybody_once(world: int) -> None:
    rounds = world - 1 + world % 2
    met = [[links.partner(rank, number, world) for number in range(rounds)] for rank in range(world)]
    for rank, others in enumerate(met):
        assert sorted(other for other in others if other is not None) == [r for r in range(world) if r != rank]
        for number, other in enumerate(others):
            assert other is None or met[other][number] == rank


def test_a_large_world_has_few_rounds_and_everybody_meets_several() -> None:
    met = [{links.partner(rank, number, 64) for number in range(links.ROUNDS)} for rank in range(64)]
    assert all(len(others) == links.ROUNDS for others in met)


def speeds(sleeper: int) -> list[tuple[int, float]]:
    """What a rank finds where one, between its exchanges, is late."""
    if dist.get_rank() == sleeper:
        late = links.partner

        def partner(*words: int) -> int | None:
            time.sleep(0.5)
            return late(*words)

        links.partner = partner
    return links.pairs(CPU)


def test_waiting_for_a_partner_is_not_its_bandwidth() -> None:
    found = run_ranks(3, speeds, 1)
    assert [sorted(other for other, _ in met) for met in found] == [[1, 2], [0, 2], [0, 1]]
    # 4 MiB in the half second that one sleeps would be 8 MB/s
    assert all(speed > 50e6 for met in found for _, speed in met)


def test_an_all_reduce_takes_some_time() -> None:
    assert all(0 < took < 5 for took in run_ranks(2, links.all_reduce, CPU))


def clocks(late: int, seconds: float) -> links.Found:
    """What a rank tells where the clock of one shows another time."""
    if dist.get_rank() == late:
        true = time.time
        time.time = lambda: true() + seconds
    return links.Found(f"h{dist.get_rank()}", links.clock(CPU), [])


def test_clocks_are_compared_closer_than_a_start_takes(tmp_path: Path) -> None:
    links.write(tmp_path / "links.json", 1.0, run_ranks(3, clocks, 1, -1.5))
    found = json.loads((tmp_path / "links.json").read_text())
    assert found["hosts"] == ["h0", "h1", "h2"]
    assert found["clocks_s"] == pytest.approx([0.0, -1.5, 0.0], abs=0.5)
