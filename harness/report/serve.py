"""The page of a study on loopback, made anew while the study runs."""

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness.analysis.accounts import cores
from harness.analysis.read import read_study
from harness.printable import printable
from harness.report.write import report

HOST = "127.0.0.1"
LOOK_S = 2.0
SHARE = 0.1
"""Of the time may be spent on reports: those of a large study take long, and the study itself comes first."""

TYPES = {".html": "text/html", ".csv": "text/csv", ".md": "text/markdown"}
FORBIDDING, ASKING = "default-src 'none';", "default-src 'none'; connect-src 'self';"
RELOAD = """\
<script>
// Loads the page again once there is a newer one; the page keeps what was done, its focus and what is in sight.
setInterval(async () => {
  const now = await fetch(location.pathname, { method: "HEAD" }).then(told => told.headers.get("ETag"), () => null);
  if (now && now !== ETAG) location.reload();
}, 3000);
</script>
</body>"""


def serve(study_dir: Path, port: int, join: Sequence[str] = ()) -> None:
    """Serve the study's report until Ctrl-C. ValueError where the folder is no study, or nothing can listen there."""
    page = Page(study_dir, join)
    with listen(page, port) as server:
        page.refresh()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdout.write(f"study {study_dir.name}: http://{HOST}:{server.server_port}/ until Ctrl-C\n")
        sys.stdout.flush()
        try:
            page.keep()
        finally:
            server.shutdown()


def listen(page: "Page", port: int) -> "Server":
    """A server that nobody but this machine can reach."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port={port}: give a number from 0, for any that is free, to 65535")
    try:
        return Server(page, port)
    except OSError as error:
        raise ValueError(f"--port={port}: cannot be listened on ({error.strerror}); give another") from error


class Page:
    """A study's report, made anew where its files have changed; a moment in which that fails keeps the last one."""

    def __init__(self, study_dir: Path, join: Sequence[str] = ()) -> None:
        self.study_dir, self.join = study_dir, join
        self.files: dict[str, Path] = {}
        self._seen: object = None
        self._took_s = 0.0

    def refresh(self) -> None:
        """Look once. ValueError where the folder is no study, or cannot be written."""
        begun = time.monotonic()
        try:
            seen = list(self._stamps())
            if seen != self._seen:
                paths = report(self.study_dir, cores(), self.join)["paths"]
                self.files = {Path(path).name: Path(path) for path in paths.values()}
                self._seen = seen
        finally:
            self._took_s = time.monotonic() - begun

    def keep(self) -> None:
        """Look again and again."""
        told = ""
        while True:
            time.sleep(max(LOOK_S, self._took_s / SHARE))
            try:
                self.refresh()
                told = ""
            except (OSError, ValueError) as error:
                if str(error) != told:
                    told = str(error)
                    sys.stderr.write(f"harness: the page stays as it is: {printable(told)}\n")

    def _stamps(self) -> Iterator[tuple[str, int, int]]:
        """What changes when a point's files do."""
        for folder in read_study(self.study_dir).folders:
            for path in (folder / "status.json", *folder.glob("attempts/*/*.json*")):
                try:
                    stat = path.stat()
                except OSError:  # not there yet, or gone
                    continue
                yield str(path), stat.st_mtime_ns, stat.st_size


class Server(ThreadingHTTPServer):
    """Holds the page for those who answer. Someone who goes away while he is answered is no error."""

    def __init__(self, page: Page, port: int) -> None:
        super().__init__((HOST, port), Answer)
        self.page = page

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Answer(BaseHTTPRequestHandler):
    """Gives the report's own files, to pages of this machine alone.

    A page from elsewhere whose name was made to mean this machine (DNS rebinding) asks with that name as Host.
    """

    server: Server
    server_version, sys_version = "harness", ""
    timeout = 10.0

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        port = self.server.server_port
        if self.headers.get("Host", "").lower() not in {f"{name}:{port}" for name in ("localhost", HOST, "[::1]")}:
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        asked = self.path.partition("?")[0].removeprefix("/") or "index.html"
        path = self.server.page.files.get(asked)
        try:
            # a link in somebody's study may lead anywhere
            with open(os.open(path or "", os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                content, stamp = file.read(), os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        if asked.endswith(".html"):
            content = _following(content.decode(), f'"{stamp}"').encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{TYPES[Path(asked).suffix]}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{stamp}"')
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "frame-ancestors 'none'")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: who reads the page is not of interest."""


def _following(page: str, stamp: str) -> str:
    """The page as it is served: it may ask this server alone whether there is a newer one."""
    head, tail, end = page.rpartition("</body>")
    return head.replace(FORBIDDING, ASKING, 1) + RELOAD.replace("ETAG", f"'{stamp}'") + end if tail else page
