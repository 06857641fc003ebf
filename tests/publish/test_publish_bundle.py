"""A bundle: made here, opened and checked there; nothing of a person in it, and nothing harmful taken from it."""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import run_dirs
from study_command import wait_for

from harness.publish import archive, hiding
from harness.publish.bundle import bundle, opened, report_of
from harness.report import report

MEASURED = Path(__file__).parents[2] / "docs" / "measurements" / "two-hosts"
SLOW = """\
import sys, time, harness.publish.bundle
from harness.cli import main
harness.publish.bundle.report = lambda *_, **__: time.sleep(60)
sys.exit(main())
"""
"""`harness`, whose reports of bundles take long."""
ABSOLUTE = re.compile(r"(?<![\w.~/<\]-])/[A-Za-z]\w")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a real study of two hosts, whose records have the paths of where it ran."""
    return bundle(MEASURED, tmp_path_factory.mktemp("bundle") / "sent.tar.gz")


@pytest.fixture(scope="module")
def unpacked(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(made) as tar:
        for member in tar.getmembers():
            content = tar.extractfile(member)
            assert content is not None
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())
    return folder / "two-hosts"


def test_it_opens_elsewhere_with_the_same_points(made: Path, tmp_path: Path):
    study = tmp_path / "two-hosts"
    shutil.copytree(MEASURED, study)
    own = Path(report(study)["paths"]["points"]).read_bytes()
    there = tmp_path / "elsewhere" / "received.tar.gz"
    there.parent.mkdir()
    shutil.copy(made, there)
    document = report_of(there)
    assert document["paths"]["page"] == str(there.parent / "received-report" / "index.html")
    assert {path.name for path in there.parent.iterdir()} == {"received.tar.gz", "received-report"}
    assert Path(document["paths"]["points"]).read_bytes() == own
    assert len(document["points"]) == 4
    with opened(there) as folder:
        summary = json.loads((folder / "summary.json").read_text())
    run_dirs.validator().validate(summary)
    assert summary["points"] == document["points"]
    assert summary["paths"]["page"] == "report/index.html"


def test_it_holds_what_a_report_needs_and_checks_without_the_harness(unpacked: Path):
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    [point] = [path.name for path in (unpacked / "points").iterdir() if "ddp-n2x1" in path.name]
    own = ("config.yaml", "provenance.json", "env.json", "status.json", "attempts/0/events.jsonl")
    assert names >= {f"points/{point}/{name}" for name in own}
    assert names >= {"README.md", "summary.json", "study.json", "report/index.html", "report/points.csv", "SHA256SUMS"}
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=unpacked, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert len(checked.stdout.splitlines()) == len(names) - 1


def test_no_absolute_path_is_in_it(unpacked: Path):
    texts = [path for path in unpacked.rglob("*") if path.is_file() and path.suffix != ".html"]
    found = [
        f"{path.name}: {line}" for path in texts for line in path.read_text().splitlines() if ABSOLUTE.search(line)
    ]
    assert found == []
    page = (unpacked / "report" / "index.html").read_text()
    for folder in ("/tmp/", "/root", "/home/", "/work", sys.prefix, str(unpacked.parent)):
        assert folder not in page
    # the check finds them where they are
    assert ABSOLUTE.search(next(MEASURED.glob("points/*/env.json")).read_text())


def test_what_is_no_record_stays_here(tmp_path: Path):
    study = run_dirs.demo_study(tmp_path)
    point = next((study / "points").iterdir())
    for name in ("wandb/run.wandb", "attempts/0/logs/rank0.log", "attempts/0/flight/rank0.json", "lease.json"):
        (point / name).parent.mkdir(parents=True, exist_ok=True)
        (point / name).write_text("left-at-home")
    for name in ("preflight.json", "attempts/0/faults.jsonl"):
        (point / name).symlink_to("/etc/hostname")
    old = point.with_name(f"{point.name}~1")
    shutil.copytree(point, old, symlinks=True)
    with opened(bundle(study, tmp_path / "b.tar.gz")) as folder:
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert not any("left-at-home" in path.read_text() for path in files)
        assert not any("~" in path.as_posix() or path.name in ("preflight.json", "faults.jsonl") for path in files)


def test_the_same_files_give_the_same_bytes(unpacked: Path, tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        shutil.copytree(unpacked, folder / "two-hosts", copy_function=shutil.copy)
        archive.pack(folder / "two-hosts", folder / f"{folder.name}.tar.gz")
    (first, second) = ((folder / f"{folder.name}.tar.gz").read_bytes() for folder in (one, two))
    assert first == second


def test_a_changed_byte_is_refused_with_the_file_named(made: Path, tmp_path: Path):
    content = bytearray(gzip.decompress(made.read_bytes()))
    content[content.index(b'"loss": ') + len('"loss": ')] ^= 1
    changed = tmp_path / "changed.tar.gz"
    changed.write_bytes(gzip.compress(bytes(content)))
    command = [sys.executable, "-m", "harness.cli", "report", str(changed)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 2
    assert re.fullmatch(r"harness: \S+: is damaged, points/\S+ is not what SHA256SUMS says it was\n", ended.stderr)
    assert ended.stdout == ""
    assert list(tmp_path.iterdir()) == [changed]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("verb", ["report", "publish bundle"])
def test_nothing_stays_of_what_a_signal_ends(made: Path, tmp_path: Path, verb: str, number: signal.Signals):
    drafts, there = tmp_path / "drafts", tmp_path / "there"
    drafts.mkdir()
    there.mkdir()
    command = [sys.executable, "-c", SLOW, *verb.split(), str(made if verb == "report" else MEASURED)]
    variables = {**os.environ, "TMPDIR": str(drafts)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=there, env=variables) as process:
        wait_for(lambda: list(drafts.glob("harness-bundle-*/*")))
        process.send_signal(number)
        assert process.communicate()[1] == b""
    assert process.returncode == 128 + number
    assert [*drafts.iterdir(), *there.iterdir()] == []


def link(name: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, "/etc/passwd"
    return entry


def file(name: str, size: int = 3) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([file("../s/x")], "no name for a bundle's file"),
        ([file("/tmp/x")], "no name for a bundle's file"),
        ([file("s/a/../../x")], "no name for a bundle's file"),
        ([file("s/a\\nb")], "no name for a bundle's file"),
        ([link("s/x")], "no plain file"),
        ([link("s/x", tarfile.LNKTYPE)], "no plain file"),
        ([link("s/x", tarfile.CHRTYPE)], "no plain file"),
        ([file("s/x"), file("t/x")], "outside of its folder"),
        ([file("s/x"), file("s/x")], "there twice"),
        ([file("s/x", 2**35)], "larger than 16 GiB"),
        ([file("s/" + "x" * 2**21)], "headers is larger"),
        ([file("s/x")], "SHA256SUMS is missing"),
        ([], "nothing is in it"),
    ],
)
def test_a_hostile_archive_is_refused_in_one_sentence(tmp_path: Path, entries: list[tarfile.TarInfo], said: str):
    bad = tmp_path / "bad.tar.gz"
    with gzip.open(bad, "wb") as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
        for entry in entries:
            # the file that says it is too large ends early: it must be refused before that matters
            tar.addfile(entry, io.BytesIO(b"abc") if entry.isreg() and entry.size < 2**34 else None)
            if entry.size > 2**34:
                break
    with pytest.raises(ValueError, match=said), opened(bad):
        pass
    assert list(tmp_path.iterdir()) == [bad]


@pytest.mark.parametrize("content", [b"", b"no archive", gzip.compress(b"no archive")])
def test_what_is_no_archive_is_a_sentence(tmp_path: Path, content: bytes):
    bad = tmp_path / "bad.tar.gz"
    bad.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.tar\.gz: is no whole bundle"), opened(bad):
        pass


def test_a_bundle_that_was_cut_off_is_a_sentence(made: Path, tmp_path: Path):
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(made.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="is no whole bundle"), opened(cut):
        pass


def test_a_file_that_no_checksum_names_is_refused(unpacked: Path, tmp_path: Path):
    folder = tmp_path / "two-hosts"
    shutil.copytree(unpacked, folder)
    (folder / "more.json").write_text("{}")
    archive.pack(folder, tmp_path / "more.tar.gz")
    with pytest.raises(ValueError, match=r"more\.json is not in SHA256SUMS"), opened(tmp_path / "more.tar.gz"):
        pass


def test_checksums_with_a_line_that_is_none_are_refused(unpacked: Path, tmp_path: Path):
    folder = tmp_path / "two-hosts"
    shutil.copytree(unpacked, folder)
    with (folder / archive.SUMS).open("a") as sums:
        sums.write("garbage\n")
    archive.pack(folder, tmp_path / "sums.tar.gz")
    with pytest.raises(ValueError, match="is damaged, SHA256SUMS has a line that"), opened(tmp_path / "sums.tar.gz"):
        pass


def hidden(path: str) -> str:
    return f"path-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("/home/me/a b/x", hidden("/home/me/a b/x")),
        ("/a/b:/c/d", f"{hidden('/a/b')}:{hidden('/c/d')}"),
        ("data.path=/data/ids.bin", f"data.path={hidden('/data/ids.bin')}"),
        ("no /data/x. Nor file:///home/me/y", f"no {hidden('/data/x')}. Nor file://{hidden('/home/me/y')}"),
        ("-I/usr/include", f"-I{hidden('/usr/include')}"),
        ("/data", hidden("/data")),
        ("no '/home/a b/c' nor \"/data/e f\"", f"no '{hidden('/home/a b/c')}' nor \"{hidden('/data/e f')}\""),
        ("it's in '/a/b:/c/d'", f"it's in '{hidden('/a/b')}:{hidden('/c/d')}'"),
        *(
            (same, same)
            for same in (
                "4 tokens/s",
                "https://example.org/team/x.git",
                "git@example.org:team/x",
                "../a/b",
                "~/.nccl.conf",
                "1 / 2",
                "</p>",
                "all_reduce/ring",
            )
        ),
    ],
)
def test_paths_are_hidden_and_nothing_else(text: str, made: str):
    assert hiding.of_text(text) == made


def test_below_a_folder_that_the_study_tells_of_names_may_hold_spaces(tmp_path: Path):
    root, data = tmp_path / "ü sp ace" / "studies", "/data/my set/ids (3).bin"
    root.mkdir(parents=True)
    study = run_dirs.demo_study(root, reason=f"{data}: is gone, see {root}/made/rank0.log")
    point = next((study / "points").iterdir())
    (point / "config.yaml").write_text((point / "config.yaml").read_text().replace("path: null", f"path: {data}"))
    launch = point / "attempts" / "0" / "launch.json"
    command = [f"--log-dir={root}/made/logs", f"data.path={data}"]
    launch.write_text(json.dumps({**json.loads(launch.read_text()), "command": command}))
    with opened(bundle(study, tmp_path / "b.tar.gz")) as folder:
        there = folder / "points" / point.name
        told = json.loads((there / "attempts" / "0" / "launch.json").read_text())["command"]
        reason = json.loads((there / "status.json").read_text())["reason"]
    assert told == [f"--log-dir={hidden(f'{root}/made/logs')}", f"data.path={hidden(data)}"]
    assert reason == f"{hidden(data)}: is gone, see {hidden(f'{root}/made/rank0.log')}"


def test_configurations_and_records_stay_what_they_are(tmp_path: Path):
    text = "root: /home/me/s\nstudy: '1e3'\nlr: 0.0003\nenv: {}\nnone: null\n"
    assert hiding.of_yaml(text) == f"root: {hidden('/home/me/s')}\nstudy: '1e3'\nlr: 0.0003\nenv: {{}}\nnone: null\n"
    torn = '{"kind": "warning", "message": "/home/me/x'
    lines = ['{"kind": "step", "loss": 1.50}\n', '{"file": "/home/jos\\u00e9/x"}\n', torn]
    assert list(hiding.of_lines(lines)) == [
        lines[0],
        f'{{"file": "{hidden("/home/josé/x")}"}}\n',
        f'{{"kind": "warning", "message": "{hidden("/home/me/x")}',
    ]


DEEP = "[" * 20_000 + "]" * 20_000


@pytest.mark.parametrize("value", [DEEP, "'${'"], ids=["deep", "no reference"])
def test_a_configuration_that_cannot_be_written_again_is_hidden_as_any_text(value):
    text = f"root: /home/me/s\nx: {value}\n"
    assert hiding.of_yaml(text) == text.replace("/home/me/s", hidden("/home/me/s"))


def test_a_record_that_nests_without_end_is_hidden_as_any_text():
    line = DEEP.replace("[]", '["/home/me/s"]') + "\n"
    assert list(hiding.of_lines([line])) == [line.replace("/home/me/s", hidden("/home/me/s"))]
    assert hiding.known(line) == []


def test_a_configuration_of_nested_aliases_is_hidden_as_any_text():
    nested = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30))
    text = f"root: /home/me/s\na0: &a0 [x]\n{nested}"
    assert hiding.of_yaml(text) == text.replace("/home/me/s", hidden("/home/me/s"))
