"""What groups are called that are not of the mesh."""

import torch.distributed as dist
from ranks import run_ranks

from harness.recorder.groups import Groups


def called() -> list[tuple[str, int]]:
    mesh = dist.new_group([0, 1, 2])
    groups = Groups({mesh.group_name: ("dp", 3)})
    same, fewer = dist.new_group([0, 1, 2]), dist.new_group([0, 2])
    return [groups[group.group_name] for group in (mesh, same, fewer) if dist.get_rank(group) >= 0]


def test_a_librarys_own_group_is_called_as_the_meshs_of_the_same_ranks_else_other():
    first, second, third = run_ranks(3, called)
    assert first == third == [("dp", 3), ("dp", 3), ("other", 2)]
    assert second == [("dp", 3), ("dp", 3)]
