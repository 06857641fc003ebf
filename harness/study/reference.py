"""What `harness run --help` lists: groups with their options, and every key of the schema."""

from collections.abc import Iterator

from harness.config import GROUPS
from harness.fields import default, describe, meaning, walk
from harness.study.conf import defaults, options


def reference() -> str:
    return "\n".join(lines())


def lines() -> Iterator[str]:
    yield "groups (group=option; -m sweeps over option,option):"
    for group in (*GROUPS, "experiment"):
        names = (f"{name} (default)" if defaults().get(group) == name else name for name in options(group))
        yield f"  {group:<12} {', '.join(names)}"
    yield ""
    yield "keys (key=value), with type, default and meaning:"
    for key, item in walk():
        if key != "repeat":
            value = default(item)
            shown = "" if value is None else f" = {str(value).lower() if isinstance(value, bool) else value}"
            yield f"  {key:<28} {describe(item) + shown}"
            yield f"  {'':<28}     {meaning(item)}"
