"""A study's points read by one process and by several: the same accounts in the same order."""

from pathlib import Path

import pytest
from run_dirs import add_point, demo_study, make_attempt, make_config

from harness.analysis import accounts
from harness.analysis.read import read_study


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Four points, and one without a readable configuration."""
    study = demo_study(tmp_path)
    config = make_config("zero1")
    damaged = add_point(study, config, [make_attempt(config, [0.1])])
    (damaged / "config.yaml").write_text("nodes: [")
    return read_study(study).folders


def test_several_processes_tell_what_one_does(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    alone = list(accounts.accounts(folders))
    assert [isinstance(each, str) for each in alone] == [False, False, False, False, True]
    monkeypatch.setattr(accounts, "ALONE_S", 0.0)
    assert list(accounts.accounts(folders, processes=2)) == alone


def test_where_no_process_can_be_started_one_reads_all(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    alone = list(accounts.accounts(folders))
    monkeypatch.setattr(accounts, "ALONE_S", 0.0)
    monkeypatch.setenv("PYTHONHOME", "/nonexistent")
    assert list(accounts.accounts(folders, processes=2)) == alone
