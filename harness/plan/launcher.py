"""What a person asks of a launcher in vain."""

from dataclasses import fields

from harness.config import Launcher


def check_launcher(launcher: Launcher) -> None:
    """Raise ValueError for a key of which nothing would come.

    It is for what a person writes, not for what a job finds in its run directory: there sbatch has become srun.
    """
    key = "launcher.kind" if launcher.dry else "launcher"
    for item in fields(launcher):
        value, of = getattr(launcher, item.name), item.metadata.get("of", (launcher.kind,))
        if value != item.default and launcher.kind not in of:
            raise ValueError(
                f"launcher.{item.name}={value}: is of {key}={' or '.join(of)}; leave it out with {key}={launcher.kind}"
            )
    if launcher.container_mounts is not None and launcher.container_image is None:
        raise ValueError(
            f"launcher.container_mounts={launcher.container_mounts}: is of launcher.container_image; name an image too"
        )
    if launcher.min_nodes is not None and not launcher.max_restarts:
        raise ValueError(
            f"launcher.min_nodes={launcher.min_nodes}: is of points that are started again; say how often with "
            "launcher.max_restarts"
        )
