"""Members of an enumeration, which Python 3.11 before 3.11.4 pickles as `getattr(enumeration, name)`."""

import pickle
from collections.abc import Callable
from enum import Enum
from typing import Any

MEMBER_OF = "builtins.getattr"
"""The name under which such a pickle asks for a member."""


def member_of(kind: type[Enum]) -> Callable[[Any, str], Enum]:
    """A getattr that has the members of one enumeration, and raises UnpicklingError for all else."""

    def member(of: Any, name: str) -> Enum:
        if of is not kind or name not in kind.__members__:
            raise pickle.UnpicklingError(f"{name} is no member of {kind.__name__}")
        return kind[name]

    return member
