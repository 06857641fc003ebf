"""The strategies by their data-parallel kind, loaded when asked for."""

from importlib import import_module

from harness.parallel.strategy import Strategy
from harness.plan.strategies import KINDS


def strategy(kind: str) -> type[Strategy]:
    """The class of a data-parallel kind."""
    module, name = KINDS[kind].path.split(":")
    found: type[Strategy] = getattr(import_module(module), name)
    return found
