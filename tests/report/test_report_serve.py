"""The served page: who gets it, what is given, and that it follows the study."""

import http.client
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_dirs import add_point, demo_study, make_attempt, make_config

from harness.report.serve import ASKING, Page, Server, listen


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_study(tmp_path_factory.mktemp("served"))


@pytest.fixture
def server(study: Path) -> Iterator[Server]:
    page = Page(study)
    page.refresh()
    with listen(page, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(at: Server | int, path: str, method: str = "GET", host: str | None = None) -> http.client.HTTPResponse:
    """The answer of a server, or of one at a port; its body in `text`."""
    port = at if isinstance(at, int) else at.server_port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"localhost:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    answer.text = answer.read().decode()
    connection.close()
    return answer


def test_the_page_and_its_files_are_served(server: Server, study: Path) -> None:
    page = ask(server, "/")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "tiny-ddp keeps 90.0 %" in page.text
    table = ask(server, "/points.csv?now")
    assert table.text == (study / "report" / "points.csv").read_text()
    assert ask(server, "/", "HEAD").headers["Content-Length"] == page.headers["Content-Length"]
    assert ask(server, "/", "HEAD").text == ""


def test_only_the_served_page_may_ask_and_only_its_own_server(server: Server, study: Path) -> None:
    page, file = ask(server, "/").text, (study / "report" / "index.html").read_text()
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith(ASKING)
    assert "connect-src" not in file
    assert f"now !== '{ask(server, '/', 'HEAD').headers['ETag']}'" in page


@pytest.mark.parametrize(
    "path",
    ["/../study.json", "/%2e%2e/study.json", "/..%2fstudy.json", "//etc/passwd", "/secret.csv", "/report/index.html"],
)
def test_nothing_but_the_reports_files_is_there(server: Server, study: Path, path: str) -> None:
    (study / "report" / "secret.csv").write_text("not of the report")
    assert ask(server, path).status == 404


def test_a_file_that_has_become_a_link_is_not_followed(server: Server, study: Path) -> None:
    table = study / "report" / "points.csv"
    kept = table.rename(table.with_name("kept"))
    table.symlink_to(study / "study.json")
    assert ask(server, "/points.csv").status == 404
    kept.replace(table)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "localhost:1", "localhost", ""])
def test_a_page_from_elsewhere_gets_no_answer(server: Server, host: str) -> None:
    assert ask(server, "/", host=host.format(port=server.server_port) or " ").status == 403


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "[::1]:{port}", "LOCALHOST:{port}"])
def test_loopback_has_three_names(server: Server, host: str) -> None:
    assert ask(server, "/", host=host.format(port=server.server_port)).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_sent(server: Server, method: str) -> None:
    assert ask(server, "/", method).status in (403, 404, 501)


def test_a_new_point_makes_a_new_page_and_nothing_new_makes_none(tmp_path: Path) -> None:
    study = demo_study(tmp_path)
    page = Page(study)
    page.refresh()
    first = page.files["index.html"].stat().st_mtime_ns
    page.refresh()
    assert page.files["index.html"].stat().st_mtime_ns == first
    config = make_config("zero1")
    add_point(study, config, [make_attempt(config, [0.1] * 9)])
    page.refresh()
    assert "zero1" in page.files["index.html"].read_text()


def test_a_broken_moment_keeps_the_last_page(tmp_path: Path) -> None:
    study = demo_study(tmp_path)
    page = Page(study)
    page.refresh()
    (study / "study.json").write_text("{")
    with pytest.raises(ValueError, match="has no readable study"):
        page.refresh()
    assert "tiny-ddp keeps 90.0 %" in page.files["index.html"].read_text()


def start(study: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness.cli", "report", str(study), "--serve", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_serves_until_ctrl_c(study: Path) -> None:
    with start(study, "--port=0") as process:
        assert process.stdout is not None
        [port] = re.findall(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
        assert "tiny-ddp keeps 90.0 %" in ask(int(port), "/").text
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")


def test_a_port_in_use_is_one_sentence(study: Path, server: Server) -> None:
    with start(study, f"--port={server.server_port}") as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, "")
    assert (
        err == f"harness: --port={server.server_port}: cannot be listened on (Address already in use); give another\n"
    )


def test_no_port_beyond_65535(study: Path) -> None:
    with pytest.raises(ValueError, match="--port=70000: give a number from 0"):
        listen(Page(study), 70000)
