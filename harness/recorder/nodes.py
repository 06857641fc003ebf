"""Where a node's ranks write what is told of the node: one file a node, few in a folder."""

from pathlib import Path

BUCKET = 256
"""Nodes whose files share a folder."""


def node_file(folder: Path, node: int, host: str) -> Path:
    """The file of a node in an attempt's folder; makes the folder that it is in."""
    path = folder / "nodes" / f"{node // BUCKET:03d}" / f"{host}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
