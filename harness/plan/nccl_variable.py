"""What is known of one NCCL environment variable, and which values it takes."""

import re
from dataclasses import dataclass
from typing import Literal

# The collectives that NCCL_ALGO and NCCL_PROTO can be limited to, as NCCL spells them.
FUNCTIONS = ("broadcast", "reduce", "allgather", "reducescatter", "allreduce")

LABELS = frozenset({"NCCL_VERSION"})
"""Variables by which images describe themselves, and which NCCL does not read."""


@dataclass(frozen=True)
class Variable:
    """A variable, the shape of its values, and what goes wrong with it.

    kind: `int` (within least and most; hexadecimal too), `bool` (0 or 1), `enum` (one of choices), `list` (choices
    with commas between, `^` excludes), `scoped` (lists of choices for each collective) or `text` (like example).
    since and removed are NCCL versions, empty where not known. hazard is one sentence, said where hazard_when (a
    regular expression) is found in the value. The value of a secret is neither recorded nor shown.
    """

    name: str
    kind: Literal["int", "bool", "enum", "list", "scoped", "text"]
    since: str
    meaning: str
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    pattern: str = ".+"
    example: str = ""
    removed: str = ""
    hazard: str | None = None
    hazard_when: str = ""
    secret: bool = False

    @property
    def accepts(self) -> str:
        """The values it takes, in words."""
        match self.kind:
            case "bool":
                return "0 or 1"
            case "int" if self.most is not None:
                return f"an integer from {self.least} to {self.most}"
            case "int" if self.least is not None:
                return f"an integer of at least {self.least}"
            case "int":
                return "an integer"
            case "enum":
                return f"one of {', '.join(self.choices)}"
            case "list":
                return f"a comma-separated list of {', '.join(self.choices)}; ^ excludes"
            case "scoped":
                return f"{', '.join(self.choices)}, for each collective, such as {self.example}"
        return f"text such as {self.example}"

    def allows(self, text: str) -> bool:
        """Whether a value, as it would stand in the environment, has the right shape."""
        match self.kind:
            case "bool":
                return text in ("0", "1")
            case "int":
                return self._in_range(text)
            case "enum":
                return text in self.choices
            case "list":
                words = text.replace("^", "").split(",") if text else []
                return all(word in self.choices for word in words)
            case "scoped":
                return self._scoped(text)
        return re.fullmatch(self.pattern, text) is not None

    def endangers(self, text: str) -> bool:
        """Whether the hazard applies to this value."""
        return self.hazard is not None and re.search(self.hazard_when, text, re.IGNORECASE) is not None

    def _in_range(self, text: str) -> bool:
        try:
            number = int(text, 0)
        except ValueError:
            return False
        return (self.least is None or number >= self.least) and (self.most is None or number <= self.most)

    def _scoped(self, text: str) -> bool:
        word = "|".join(self.choices)
        names = rf"\^?({word})(,({word}))*"
        entry = rf"({'|'.join(FUNCTIONS)}):{names}"
        return re.fullmatch(rf"({entry}|{names})(;{entry})*", text, re.IGNORECASE) is not None
