"""A verdict needs a whole interval on one side of its bound."""

import json

import pytest

from harness.bench.judge import Check, judge


@pytest.mark.parametrize(
    ("lo", "hi", "at_least", "ok", "code"),
    [
        (1, 2, False, True, 0),
        (4, 5, False, False, 1),
        (2, 4, False, None, 3),
        (4, 5, True, True, 0),
        (1, 2, True, False, 1),
        (2, 4, True, None, 3),
    ],
)
def test_verdicts(lo, hi, at_least, ok, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert judge("demo", [Check("seconds", (lo + hi) / 2, lo, hi, 3, at_least)]) == code
    written = json.loads((tmp_path / ".bench" / "demo.json").read_text())
    assert set(written) == {"git_sha", "run_dirs", "checks"}
    assert {"name", "value", "lo", "hi", "bound", "ok"} <= set(written["checks"][0])
    assert written["checks"][0]["ok"] is ok
    assert "seconds" in capsys.readouterr().out


def test_one_miss_outweighs_what_cannot_be_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert judge("demo", [Check("a", 3, 2, 4, 3), Check("b", 5, 4, 6, 3)]) == 1
