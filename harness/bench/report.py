"""How long `harness report` takes on large studies, with how much memory and what pages; they are made, not run."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil

from harness.bench.cli import HARNESS
from harness.bench.judge import Check, judge
from harness.bench.made import make_large, make_sweep

FOLDER = Path(".bench/report")
LOOK_S = 0.1
RUNS = 3


def measured(study: Path) -> tuple[float, float]:
    """Seconds of one report in a process of its own, and the most memory of it and its children together, in GB.

    What processes share counts for each of them.
    """
    begin, most = time.perf_counter(), 0
    with subprocess.Popen([HARNESS, "report", str(study)], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, _memory(process.pid))
            time.sleep(LOOK_S)
    if process.returncode:
        raise RuntimeError(f"harness report {study} ended with code {process.returncode}")
    return time.perf_counter() - begin, most / 1e9


def _memory(pid: int) -> int:
    """Resident bytes of a process and its descendants."""
    try:
        one = psutil.Process(pid)
        return sum(_resident(each) for each in (one, *one.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def opened(page: Path, browser: str) -> float:
    """Seconds until a headless Chromium that turns to the page has loaded it, with the figures near the view drawn."""
    script = "<script>addEventListener('load', () => { document.body.dataset.opened = performance.now() })</script>"
    with tempfile.TemporaryDirectory() as folder:
        asking = Path(folder) / "page.html"
        asking.write_text(page.read_text().replace("</body>", f"{script}</body>"))
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
        shown = subprocess.run([*command, "--dump-dom", f"file://{asking}"], capture_output=True, text=True, check=True)
    [milliseconds] = re.findall(r'data-opened="([0-9.]+)"', shown.stdout)
    return float(milliseconds) / 1e3


def size(study: Path) -> int:
    """Bytes of a study's files."""
    return sum(os.path.getsize(path) for path in study.rglob("*") if path.is_file())


def main() -> int:
    """Make each study once and report on it several times; the interval is from the best run to the worst."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    browser = shutil.which("chromium")
    if browser is None:
        sys.stderr.write(
            "bench-report: opens pages in chromium, which is not there; on Debian: apt-get install chromium\n"
        )
        return 2
    checks: list[Check] = []
    sizes = {}
    for name, make, most_s, most_gb in (
        ("1,000 points × 1,000 steps", lambda: make_sweep(FOLDER, 1000, 1000), 15.0, 1.0),
        ("one point of 80,000 ranks", lambda: make_large(FOLDER, 10_000, 50), 60.0, 2.0),
    ):
        study = make()
        sizes[name] = size(study)
        runs = [measured(study) for _ in range(RUNS)]
        for what, values, bound in zip(("seconds", "GB"), zip(*runs, strict=True), (most_s, most_gb), strict=True):
            checks.append(Check(f"harness report of {name}, {what}", median(values), min(values), max(values), bound))
        page = study / "report" / "index.html"
        megabytes, opens = os.path.getsize(page) / 1e6, [opened(page, browser) for _ in range(RUNS)]
        checks.append(Check(f"page of {name}, MB", megabytes, megabytes, megabytes, 6.0))
        checks.append(Check(f"page of {name} opens, seconds", median(opens), min(opens), max(opens), 3.0))
        shutil.rmtree(study)
    return judge("report", checks, measured={"bytes": sizes})


if __name__ == "__main__":
    sys.exit(main())
