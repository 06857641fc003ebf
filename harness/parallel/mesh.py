"""The mesh of ranks that the strategies share."""

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


def build_mesh(device_type: str, world_size: int) -> DeviceMesh:
    """A mesh over all ranks with the one dimension `dp`."""
    return init_device_mesh(device_type, (world_size,), mesh_dim_names=("dp",))
