"""Quantities as a person reads them, the same in every line, table and page."""

NONE = "–"


def number(value: float | None, digits: int = 4) -> str:
    """Significant digits with thousands apart: 12,345 or 403.0 or 0.1234."""
    if value is None:
        return NONE
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".removesuffix(".")


def gibibytes(value: float | None, digits: int = 3) -> str:
    return NONE if value is None else number(value / 2**30, digits)


def gigabytes(value: float | None, digits: int = 3) -> str:
    return NONE if value is None else number(value / 1e9, digits)


def loss(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def left(seconds: float) -> str:
    """How long something still takes: `40 s left`, `12 min left`, `3.4 h left`."""
    if seconds < 120:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 7200 else f"{seconds / 3600:.1f} h left"
