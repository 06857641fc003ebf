"""A strategy of one's own needs one new file, one line in the registry and one file of configuration."""

import difflib
from pathlib import Path

import pytest
from study_command import QUICK, Command
from toy_strategy import REGISTRY, add_strategy, copy_source, files


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source as it is, and with the strategy."""
    as_it_is, with_toy = (copy_source(tmp_path_factory.mktemp(name)) for name in ("plain", "toy"))
    add_strategy(with_toy)
    return as_it_is, with_toy


@pytest.fixture(scope="module")
def tree(trees: tuple[Path, Path]) -> Path:
    return trees[1]


def test_it_trains_as_a_point_like_any_other(tree: Path) -> None:
    command = Command(tree, {})
    ended = command("run", "model=tiny", "parallel=toy", "gpus_per_node=2", *QUICK)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    [(slug, status)] = command.status().items()
    assert slug.startswith("tiny-toy-n1x2-")
    assert status["status"] == "ok"


def test_nothing_else_had_to_change(trees: tuple[Path, Path]) -> None:
    before, after = (files(tree) for tree in trees)
    assert after.keys() - before.keys() == {Path("harness/parallel/toy.py"), Path("conf/parallel/toy.yaml")}
    assert [path for path in before if after[path] != before[path]] == [REGISTRY]
    changed = [line for line in difflib.ndiff(before[REGISTRY], after[REGISTRY]) if not line.startswith("  ")]
    assert changed == ['+     "toy": Kind("harness.parallel.toy:Toy"),']
