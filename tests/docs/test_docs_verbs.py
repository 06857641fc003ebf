"""docs/running.md names every verb of the command line, and those with --json."""

import argparse
import re
from pathlib import Path

from harness.cli import parser

PAGE = (Path(__file__).parents[2] / "docs" / "running.md").read_text()


def verbs(of: argparse.ArgumentParser, above: str = "") -> dict[str, argparse.ArgumentParser]:
    """What can be called, by all its words."""
    parts = [action.choices for action in of._actions if isinstance(action, argparse._SubParsersAction)]
    below = [verbs(part, f"{above}{word} ") for choices in parts for word, part in choices.items()]
    return {name: verb for found in below for name, verb in found.items()} or {above.strip(): of}


def test_every_verb_is_listed() -> None:
    listed = re.findall(r"^harness ((?:[a-z]+[a-z-]* )+)", PAGE.split("```")[1], re.MULTILINE)
    assert {words.strip() for words in listed} == verbs(parser()).keys()


def test_the_verbs_with_json_are_named() -> None:
    [sentence] = re.findall(r"([^.]*) take `--json`", PAGE)
    taking = {name for name, verb in verbs(parser()).items() if "--json" in verb._option_string_actions}
    assert set(re.findall(r"`(.+?)`", sentence)) == taking
