"""What this process sends on gloo from rank to rank, of which neither the flight recorder nor the profiler tells the
group."""

from dataclasses import dataclass
from typing import Any

from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class Send:
    """One send: the name of its group and its bytes."""

    group: str
    bytes: int


class Sends:
    """Notes the sends between `start` and `stop`, by standing in for the method through which all of them go."""

    def start(self) -> None:
        self.noted: list[Send] = []
        # what the class holds: fetched from it as an attribute, it would no longer find its group
        self.original: Any = vars(ProcessGroup)["send"]

        def send(group: ProcessGroup, tensors: list[Any], *where: int) -> Any:
            self.noted.append(Send(group.group_name, sum(tensor.nbytes for tensor in tensors)))
            return self.original(group, tensors, *where)

        ProcessGroup.send = send  # type: ignore[method-assign,assignment]

    def stop(self) -> list[Send]:
        ProcessGroup.send = self.original  # type: ignore[method-assign]
        return self.noted
