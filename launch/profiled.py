"""One rank inside a profiler that is a program of its own: started by torchrun in the worker's place on every rank.

Where the rank is among those that are profiled it becomes the tool with the worker in it, else the worker. The tool
records nothing until the worker calls cudaProfilerStart, and no longer after cudaProfilerStop.
"""

import argparse
import os
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MODULE = "launch.profiled"


@dataclass(frozen=True)
class Tool:
    """A profiler by its name on the PATH, the ranks that run in it, and where their reports go.

    kernels, launches: of ncu, a regular expression of the kernels that it runs again and again, and how many.
    """

    name: str
    ranks: tuple[int, ...]
    folder: Path
    kernels: str
    launches: int

    def around(self, program: Sequence[str]) -> list[str]:
        """The module, with its arguments, that runs the ranks' own module in the tool."""
        ranks = ",".join(map(str, self.ranks))
        chosen = [f"--kernels={self.kernels}", f"--launches={self.launches}"] if self.name == "ncu" else []
        # what follows the folder is the program's, dashes and all
        return [MODULE, *chosen, self.name, ranks, str(self.folder), *program]


def nsys(arguments: argparse.Namespace, report: str) -> list[str]:
    """Nsight Systems: what runs when on the GPU, and NVTX's ranges beside it."""
    return [
        "profile",
        "--capture-range=cudaProfilerApi",
        # training goes on after it
        "--capture-range-end=stop",
        "--kill=none",
        "--trace=cuda,nvtx",
        # of the host's own functions, which takes rights that containers do not have
        "--sample=none",
        "--cpuctxsw=none",
        f"--output={report}",
    ]


def ncu(arguments: argparse.Namespace, report: str) -> list[str]:
    """Nsight Compute: how single kernels use the GPU, each run again and again."""
    return [
        "--profile-from-start=off",
        "--target-processes=all",
        # whole names: a matrix product of a template's is told by its arguments alone
        "--kernel-name-base=demangled",
        f"--kernel-name=regex:{arguments.kernels}",
        f"--launch-count={arguments.launches}",
        # at the clocks at which it trains
        "--clock-control=none",
        f"--export={report}",
    ]


TOOLS: dict[str, Callable[[argparse.Namespace, str], list[str]]] = {"nsys": nsys, "ncu": ncu}


def main() -> None:
    parser = argparse.ArgumentParser(prog=MODULE, description="One rank, inside a profiler if it is chosen.")
    parser.add_argument("--kernels", help="ncu: regular expression of kernels' names")
    parser.add_argument("--launches", type=int, help="ncu: how many kernels at most")
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("ranks", help="those that run in the tool, separated by commas")
    parser.add_argument("folder", type=Path, help="where their reports go")
    parser.add_argument("program", nargs=argparse.REMAINDER, help="the ranks' module, with its arguments")
    arguments = parser.parse_args()
    own, rank = [sys.executable, "-m", *arguments.program], os.environ["RANK"]
    if rank not in arguments.ranks.split(","):
        os.execv(sys.executable, own)
    if shutil.which(arguments.tool) is None:
        sys.exit(f"{socket.gethostname()}: there is no {arguments.tool} on the PATH of rank {rank}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    # both put other things in the place of a % that is not doubled
    report = str(arguments.folder / f"rank{rank}").replace("%", "%%")
    os.execvp(arguments.tool, [arguments.tool, *TOOLS[arguments.tool](arguments, report), *own])


if __name__ == "__main__":
    main()
