"""Every `harness run` of the docs composes and plans, as a dry run away from this machine."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from study_command import Command

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"(?:\.venv/bin/)?harness run (?!.*(?:--help|key=value))(.*)")


def examples() -> list[str]:
    found = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for block in re.findall(r"```\w*\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if match := EXAMPLE.match(line.strip()):
                    found.append(match[1])
    return sorted(set(found))


def test_there_are_examples():
    assert len(examples()) > 5


@pytest.mark.parametrize("example", examples())
def test_example_plans(example, tmp_path):
    words = [word for word in shlex.split(example, comments=True) if word not in ("launcher=dry", "…")]
    if any(word.startswith("data.path=") for word in words):
        np.zeros(1_000_000, dtype="<u2").tofile(tmp_path / "ids.bin")
        words = ["data.path=ids.bin" if word.startswith("data.path=") else word for word in words]
    if not any(word.startswith("hardware=") for word in words):
        words.append("hardware=b200")
    done = Command(tmp_path, {}).forked("run", *words, "launcher.dry=true")
    assert done.returncode == 0, done.stderr
    assert "point" in done.stdout
    assert not (tmp_path / "studies").exists()
