"""What env.json says of NCCL's variables that came with the machine instead of the configuration."""

from harness.analysis.read import Record
from harness.plan.nccl_variable import LABELS


def in_force(environment: Record) -> dict[str, str]:
    """The machine's own NCCL variables that ranks were given, by name; none where no environment is known.

    One that was cleared, that was asked for or that measuring needs is overruled; an image's label is no setting.
    """
    gone = LABELS.union(*(environment.get(part, ()) for part in ("cleared", "requested", "added")))
    return {name: value for name, value in sorted(environment.get("ambient", {}).items()) if name not in gone}
