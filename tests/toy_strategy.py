"""A strategy added to a copy of the source tree, as somebody who tries out their own would add it."""

import shutil
from pathlib import Path

import harness

SOURCE = Path(harness.__file__).resolve().parent.parent
REGISTRY = Path("harness/plan/strategies.py")
TOY = '''\
"""Whole parameters on every rank, each gradient averaged by hand after backward."""

import torch.distributed as dist

from harness.parallel.strategy import Strategy


class Toy(Strategy):
    def spread(self, part, initialise):
        part.to_empty(device=self.device)
        initialise(part)
        return part

    def synchronise(self, last):
        pass

    def forward_backward(self, microbatches):
        share = super().forward_backward(microbatches)
        for parameter in self.model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad.div_(dist.get_world_size())
        return share
'''


def copy_source(folder: Path) -> Path:
    """A tree with what the harness runs from."""
    tree = folder / "tree"
    for name in ("conf", "harness", "launch"):
        shutil.copytree(SOURCE / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tree


def add_strategy(tree: Path, name: str = "toy", code: str = TOY) -> None:
    """One new file, one line in the registry, one file of configuration."""
    (tree / f"harness/parallel/{name}.py").write_text(code)
    line = f'    "{name}": Kind("harness.parallel.{name}:Toy"),\n'
    registry = (tree / REGISTRY).read_text()
    (tree / REGISTRY).write_text(registry.replace("KINDS = {\n", f"KINDS = {{\n{line}"))
    (tree / f"conf/parallel/{name}.yaml").write_text(f"name: {name}\nkind: {name}\n")


def files(tree: Path) -> dict[Path, list[str]]:
    """Every source file of a tree, by its place in it, as lines."""
    found = (path for name in ("conf", "harness", "launch") for path in (tree / name).rglob("*"))
    return {
        path.relative_to(tree): path.read_text().splitlines()
        for path in found
        if path.is_file() and "__pycache__" not in path.parts
    }
