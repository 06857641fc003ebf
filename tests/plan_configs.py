"""Configurations without Hydra."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from harness.config import Config, Data, Hardware, Launcher, Model, Nccl, Parallel, Precision, Record

ROOT = Path(__file__).resolve().parents[1]


def group(name: str) -> dict[str, dict[str, Any]]:
    """The files of one folder in conf/, by stem."""
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "conf" / name).glob("*.yaml"))}


def model(name: str) -> Model:
    return Model(**group("model")[name])


def config(model_name: str = "tiny", kind: str = "ddp", compute: str = "fp32", **changes: Any) -> Config:
    made = Config(
        model=model(model_name),
        parallel=Parallel(kind, kind),
        precision=Precision(compute, compute),
        data=Data("synthetic", "synthetic"),
        nccl=Nccl("default"),
        launcher=Launcher("local", "local"),
        record=Record("default"),
        hardware=Hardware("auto"),
    )
    return replace(made, **changes)


def rows(page: str, header: str) -> list[list[str]]:
    """The cells of a page's table that begins with `header`, without its head."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {header} |")) + 2
    body = [line for line in lines[start:] if line.startswith("|") or not line.strip()]
    table = body[: body.index("")] if "" in body else body
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in table]
