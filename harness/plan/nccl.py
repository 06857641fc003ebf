"""The registry of NCCL's environment variables, and the check of a point's `nccl.env` against it."""

from typing import Any

from harness.fields import nearest
from harness.plan.nccl_debugging import DEBUGGING
from harness.plan.nccl_system import SYSTEM
from harness.plan.nccl_variable import LABELS, Variable

VARIABLES: dict[str, Variable] = {variable.name: variable for variable in (*SYSTEM, *DEBUGGING)}
DEBUGGING_NAMES = frozenset(variable.name for variable in DEBUGGING)

MOST_SOCKETS = 64


def check(env: dict[str, Any]) -> list[str]:
    """Warnings about a set of variables, one sentence each.

    ValueError for a variable that NCCL does not have, or a value that it would not take: NCCL itself ignores the
    one and often misreads the other without a word.
    """
    texts = {name: _text(name, value) for name, value in env.items()}
    warnings = [warning for name, text in texts.items() for warning in _check_one(VARIABLES[name], text)]
    _check_pairs(texts)
    if forced := [name for name in texts if name in DEBUGGING_NAMES]:
        warnings.append(
            f"nccl.env: {', '.join(forced)}: of NVIDIA's debugging class, for studies and not for production"
        )
    return warnings


def doubts(env: dict[str, str]) -> list[str]:
    """Warnings about variables set where harness starts: those that NCCL would ignore or misread, one sentence each.

    Values of variables that are not known are left out, for they may be secrets.
    """
    warnings = []
    for name, text in env.items():
        # NCCL takes an empty variable for one that is not set.
        if not name.startswith("NCCL_") or name in LABELS or not text:
            continue
        if name not in VARIABLES:
            close = nearest(name, list(VARIABLES))
            warnings.append(f"{name} is set where harness starts: NCCL documents no such variable{close}")
        # In any case: NCCL reads info like INFO, and no ambient variable is worth a wrong warning.
        elif not VARIABLES[name].allows(text) and not VARIABLES[name].allows(text.upper()):
            shown = name if VARIABLES[name].secret else f"{name}={text}"
            warnings.append(f"{shown} is set where harness starts: must be {VARIABLES[name].accepts}")
    return warnings


def _text(name: str, value: Any) -> str:
    """The value as it would stand in the environment. That of a variable which is not known is not shown."""
    if not name.startswith("NCCL_"):
        raise ValueError(f"nccl.env.{name}: only NCCL_* variables belong here; set others where harness is started")
    if name not in VARIABLES:
        raise ValueError(f"nccl.env.{name}: NCCL documents no such variable{nearest(name, list(VARIABLES))}")
    if VARIABLES[name].secret:
        raise ValueError(f"nccl.env.{name}: would be recorded; set it in the environment where harness starts instead")
    if name == "NCCL_DEBUG_FILE":
        raise ValueError(f"nccl.env.{name}={value}: leave it out; the harness reads NCCL's log from its own file")
    # YAML's true and [a, b] would reach NCCL as "True" and "['a', 'b']", which it reads as 0 or as nonsense.
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        quotes = "; put a value with commas in quotes" if isinstance(value, list) else ""
        raise ValueError(f"nccl.env.{name}={value}: must be {VARIABLES[name].accepts}{quotes}")
    return str(value)


def _check_one(variable: Variable, text: str) -> list[str]:
    key = f"nccl.env.{variable.name}={text}"
    if not variable.allows(text):
        close = nearest(text.upper(), list(variable.choices)) if variable.kind == "enum" else ""
        raise ValueError(f"{key}: must be {variable.accepts}{close}")
    if variable.removed:
        return [f"{key}: has no effect since NCCL {variable.removed}"]
    return [f"{key}: {variable.hazard}"] if variable.endangers(text) else []


def _check_pairs(texts: dict[str, str]) -> None:
    """Raise ValueError for values that are right alone and wrong together."""
    threads, sockets = (int(texts.get(name, "1"), 0) for name in ("NCCL_SOCKET_NTHREADS", "NCCL_NSOCKS_PERTHREAD"))
    if threads * sockets > MOST_SOCKETS:
        raise ValueError(
            f"nccl.env.NCCL_NSOCKS_PERTHREAD={sockets}: times NCCL_SOCKET_NTHREADS={threads} "
            f"must be at most {MOST_SOCKETS}"
        )
    if "NCCL_MIN_CTAS" in texts and "NCCL_MAX_CTAS" in texts:
        fewest, most = int(texts["NCCL_MIN_CTAS"], 0), int(texts["NCCL_MAX_CTAS"], 0)
        if fewest > most:
            raise ValueError(f"nccl.env.NCCL_MIN_CTAS={fewest}: must be at most NCCL_MAX_CTAS={most}")
