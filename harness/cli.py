"""The verbs of the `harness` command. What a verb needs is imported when it is called."""

import argparse
import errno
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from harness.printable import printable

PIPE_WIDTH = 160
PORT = 8600
ROOT = "studies"
EXAMPLES = """\
examples:
  harness run model=1b parallel=fsdp gpus_per_node=8
  harness run -m study=nccl-8b model=8b parallel=ddp,fsdp gpus_per_node=2,4,8 nccl=default,ring repeats=3
  harness run -m experiment=demo                       a ready study, from one GPU doubled to all
  harness run -m experiment=nccl hardware=h200 launcher=dry   look at what would run, elsewhere too
  harness run nccl.env.NCCL_ALGO=allreduce:ring        any NCCL variable, with or without +
  harness run 'nccl.env.NCCL_IB_HCA="=mlx5_0:1,mlx5_1:1"'    quoted twice: commas would sweep, = and ^ do not parse
"""


class Output(io.FileIO):
    """Standard output that may go away, as with `| head -1` or a closed terminal: what nobody reads is dropped.

    A study goes on then. A full disk is still an error, told once: at the exit there is nobody to tell.
    """

    told = False

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not self.told and error.errno not in (errno.EPIPE, errno.EIO):
                self.told, error.filename = True, "standard output"
                raise
            return memoryview(data).nbytes


def main() -> int:
    """Run a verb; its exit code."""
    tolerate_closed_output()
    try:
        arguments = parse(sys.argv[1:])
        code: int = arguments.verb(arguments)
        sys.stdout.flush()
    except ValueError as error:
        return mistake(str(error))
    except OSError as error:
        return mistake(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return 130
    return code


def parse(words: list[str]) -> argparse.Namespace:
    """The verb and what it was given; keys may stand on both sides of an option, which argparse allows on one."""
    top = parser()
    arguments, left = top.parse_known_args(words)
    wrong = [word for word in left if word.startswith("-") or "choices" not in arguments]
    if wrong:
        top.error(f"unrecognized arguments: {' '.join(wrong)}")
    if left:
        arguments.choices += left
    return arguments


def tolerate_closed_output() -> None:
    """Let nobody's reading standard output, from the start or from some time on, end nothing."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return
    raw = Output(sys.stdout.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), sys.stdout.encoding, line_buffering=raw.isatty())


def mistake(sentence: str) -> int:
    """Say on one line what is wrong; the exit code for it."""
    sys.stderr.write(f"harness: {printable(' '.join(sentence.split()))}\n")
    return 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="harness", description="Trains transformer models across GPUs to measure how training scales."
    )
    verbs = top.add_subparsers(required=True, metavar="VERB")

    run = verbs.add_parser("run", help="run one point, or with -m a study", add_help=False)
    run.add_argument("-h", "--help", action=RunHelp, nargs=0, help="show groups, keys and examples")
    run.add_argument("-m", "--multirun", action="store_true", help="sweep over the values that commas separate")
    run.add_argument("choices", nargs="*", metavar="key=value", help="what to run")
    run.set_defaults(verb=run_verb)

    parity = verbs.add_parser("check-parity", help="whether strategies train as one process does", add_help=False)
    parity.add_argument("-h", "--help", action=ParityHelp, nargs=0, help="show what is checked, groups and keys")
    parity.add_argument("choices", nargs="*", metavar="key=value", help="what to check; commas sweep")
    parity.set_defaults(verb=parity_verb)

    for name, verb, help in (
        ("status", status_verb, "how a study's points stand"),
        ("report", report_verb, "the table, figures and page of a study, or of a bundle"),
    ):
        reader = verbs.add_parser(name, help=help)
        add_study(reader)
        instead = "one JSON document on standard output instead"
        unwritable = "; it is also printed where no file can be written beside the study" * (name == "report")
        reader.add_argument("--json", action="store_true", help=instead + unwritable)
        reader.set_defaults(verb=verb)
    joined = "make one curve of points that differ in these fields of docs/comparability.md, and say so"
    verbs.choices["report"].add_argument("--join", action="append", metavar="FIELD,…", help=joined)
    serve = "then show the page in a browser of this machine, anew as the study goes on"
    verbs.choices["report"].add_argument("--serve", action="store_true", help=serve)
    verbs.choices["report"].add_argument("--port", type=int, help=f"of --serve (default: {PORT})")

    watch = verbs.add_parser("watch", help="follow a study: its points, what they measure, what comes of it")
    add_study(watch)
    watch.set_defaults(verb=watch_verb)

    goodput = verbs.add_parser("goodput", help="where one point's wall-clock went")
    goodput.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="a point's folder: studies/STUDY/points/SLUG")
    goodput.add_argument("--json", action="store_true", help="one JSON document on standard output instead")
    goodput.set_defaults(verb=goodput_verb)

    compare = verbs.add_parser("compare", help="what changed from one study to another, and how much faster it is")
    compare.add_argument("old", metavar="STUDY_A", help="a study's name under the root, its folder or bundle")
    compare.add_argument("new", metavar="STUDY_B", help="the one that is divided by it")
    compare.add_argument("--root", help=f"folder that holds the studies (default: {ROOT})")
    compare.add_argument("--json", action="store_true", help="one JSON document on standard output instead")
    compare.set_defaults(verb=compare_verb)

    publish = verbs.add_parser("publish", help="send a study elsewhere")
    targets = publish.add_subparsers(required=True, metavar="TARGET")
    wandb = targets.add_parser("wandb", help="upload the points that W&B does not have yet")
    add_study(wandb)
    wandb.set_defaults(verb=publish_verb)
    dashboard = targets.add_parser("dashboard", help="save a W&B workspace of scaling panels, or what it would show")
    add_study(dashboard)
    dashboard.set_defaults(verb=dashboard_verb)
    bundle = targets.add_parser("bundle", help="one archive that another person's `harness report` opens and checks")
    add_study(bundle)
    bundle.add_argument("--output", metavar="FILE", type=Path, help="the archive (default: STUDY.tar.gz here)")
    bundle.set_defaults(verb=bundle_verb)
    return top


def add_study(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("study", metavar="STUDY", help="a study's name under the root, or its folder")
    verb.add_argument("--root", help=f"folder that holds the studies (default: {ROOT})")


def study_dir(arguments: argparse.Namespace) -> Path:
    """The folder of the study that was named; ValueError where there is none."""
    root, given = Path(ROOT if arguments.root is None else arguments.root), Path(arguments.study)
    for folder in (root / arguments.study, given):
        if (folder / "study.json").is_file():
            return folder.absolute()
    for path in (given, root / arguments.study):
        if path.is_dir():
            raise ValueError(f"{path}: has no study.json, so it is no study; give the folder of one, or its name")
        if path.exists():
            raise ValueError(f"{path}: is a file, and a study's folder is needed here; tar -xzf unpacks a bundle")
    raise ValueError(f"{arguments.study}: no study of that name in {root.absolute()}, and no such folder")


class RunHelp(argparse.Action):
    """The long help of `run`, read from the schema only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from harness.study.reference import reference

        sys.stdout.write(f"usage: harness run [-m] key=value …\n\n{reference()}\n\n{EXAMPLES}")
        parser.exit()


class ParityHelp(argparse.Action):
    """The long help of `check-parity`, as that of `run`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from harness.parity.check import usage

        sys.stdout.write(usage())
        parser.exit()


def run_verb(arguments: argparse.Namespace) -> int:
    from harness.study.controller import run

    return run(arguments.choices, arguments.multirun)


def parity_verb(arguments: argparse.Namespace) -> int:
    from harness.parity.check import check

    return check(arguments.choices)


def status_verb(arguments: argparse.Namespace) -> int:
    from harness.study.overview import lines, overview

    document = overview(study_dir(arguments))
    sys.stdout.write(dump(document) if arguments.json else "\n".join(lines(document)) + "\n")
    return 0


def watch_verb(arguments: argparse.Namespace) -> int:
    from harness.report.watch import Watched
    from harness.study.overview import watch

    # how points stand only the study knows, and reports read nothing of it
    watch(study_dir(arguments), Watched(study_dir(arguments)))
    return 0


def report_verb(arguments: argparse.Namespace) -> int:
    from harness.report import table

    if arguments.serve and arguments.json:
        raise ValueError("--serve --json: one document cannot follow a study; give one of the two")
    if arguments.serve:
        from harness.report.serve import serve

        serve(study_dir(arguments), PORT if arguments.port is None else arguments.port, joined(arguments))
        return 0
    if arguments.port is not None:
        raise ValueError(f"--port={arguments.port}: is of --serve, and without it nothing listens")
    document = reported(arguments)
    if arguments.json:
        sys.stdout.write(dump(document))
        return 0
    document = printable(document)
    show(table(document))
    sys.stdout.write("\n".join([*document["warnings"], document["paths"]["page"]]) + "\n")
    return 0


def reported(arguments: argparse.Namespace) -> dict[str, Any]:
    """The report of the study that was named, or of the bundle."""
    from harness.analysis.accounts import cores
    from harness.publish.bundle import report_of
    from harness.report import report

    archive, join, printed = Path(arguments.study), joined(arguments), arguments.json
    if archive.is_file():
        check_rootless(arguments.root, archive)
        return report_of(archive, join, printed)
    return report(study_dir(arguments), cores(), join, printed=printed)


def check_rootless(root: str | None, *bundles: Path) -> None:
    """Raise ValueError for a --root that has no study's name to look for."""
    if root is not None:
        raise ValueError(f"--root={root}: is of a study's name, and {' and '.join(map(str, bundles))} is a bundle")


def joined(arguments: argparse.Namespace) -> list[str]:
    """The fields over which curves are joined; ValueError for a --join that names none."""
    fields: list[str] = []
    for given in arguments.join or ():
        names = [name.strip() for name in given.split(",") if name.strip()]
        if not names:
            raise ValueError(
                f"--join={given}: names no field; give one or more of docs/comparability.md, as --join=torch"
            )
        fields += names
    return list(dict.fromkeys(fields))


def goodput_verb(arguments: argparse.Namespace) -> int:
    from harness.analysis.accounts import cores
    from harness.report.goodput import goodput, waterfall
    from harness.study.overview import DISAPPEARED, entry

    run_dir = arguments.run_dir.absolute()
    document = goodput(run_dir, cores())
    # who holds a point only the study knows, and reports read nothing of it
    if document["status"] == "running" and entry(run_dir, set())["lost"]:
        document["warnings"].append(f"the point was running, but {DISAPPEARED}")
    if arguments.json:
        sys.stdout.write(dump(document))
    else:
        show(waterfall(printable(document)))
    return 0


def compare_verb(arguments: argparse.Namespace) -> int:
    from harness.publish.bundle import comparable
    from harness.report.compare import compare, side_by_side

    named = [argparse.Namespace(study=name, root=arguments.root) for name in (arguments.old, arguments.new)]
    given = [Path(each.study) if Path(each.study).is_file() else study_dir(each) for each in named]
    if all(path.is_file() for path in given):
        check_rootless(arguments.root, *given)
    with comparable(given) as (old, new):
        document = compare(old, new, given)
    if arguments.json:
        sys.stdout.write(dump(document))
    else:
        show(side_by_side(printable(document)))
    return 0


def publish_verb(arguments: argparse.Namespace) -> int:
    from harness.publish.upload import publish_each

    failed = False
    for outcome in publish_each(study_dir(arguments)):
        sys.stdout.write(f"{printable(outcome.line)}\n")
        failed |= outcome.result == "failed"
    return 1 if failed else 0


def dashboard_verb(arguments: argparse.Namespace) -> int:
    import signal
    import subprocess

    # the W&B client's failures stay in a process of their own, and Ctrl-C, at which that is killed, is not its to tell
    return subprocess.call(
        [sys.executable, "-m", "harness.publish.dashboard", str(study_dir(arguments))],
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}),
    )


def bundle_verb(arguments: argparse.Namespace) -> int:
    from harness.publish.bundle import ENDING, bundle

    folder = study_dir(arguments)
    made = bundle(folder, (arguments.output or Path(f"{folder.name}{ENDING}")).absolute())
    sys.stdout.write(f"{made}\n")
    return 0


def show(renderable: Any) -> None:
    """Print a table; a pipe has no width of its own, and 80 columns would cut it."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(renderable)


def dump(document: object) -> str:
    return json.dumps(document, indent=2) + "\n"


if __name__ == "__main__":
    sys.exit(main())
