"""A W&B server of the standard library: enough for the real client, and what it received, by run."""

import contextlib
import gzip
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef" * 2 + "01234567"


@dataclass
class Run:
    """What the server knows of one run."""

    fields: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None


@dataclass
class Artifact:
    """What the server knows of one artifact: the fields it was made with, its files, and whether it is whole."""

    fields: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


class Stub(ThreadingHTTPServer):
    """`runs` and `artifacts` by id, `views` those that were saved, `operations` the names of the queries in order.

    `reject` refuses every key, `full` takes no rows, `crowded` no artifacts, and `silent` takes requests and never
    answers them, which may be set while a run is under way. Runs in `deleted` may not be written again. `refused` is
    how many it has hung up on.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.operations: list[str] = []
        self.reject = False
        self.deleted: set[str] = set()
        self.full = self.crowded = False
        self.silent = False
        self.refused = self.away = 0
        self.ended = threading.Event()

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is none of a test's business; one that gets nonsense shows in what it does next."""

    def hang_up(self, times: int) -> None:
        """Answer the next so many requests by closing their connections."""
        self.away += times

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}


@contextlib.contextmanager
def serving() -> Iterator[Stub]:
    """A server in a thread of its own."""
    stub = Stub()
    threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield stub
    finally:
        stub.ended.set()
        stub.shutdown()
        stub.server_close()


def closed_url() -> str:
    """The address of a port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Keep test output clean."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.server.silent:
            self.server.ended.wait()
            return
        if self.server.away:
            self.server.away -= 1
            self.server.refused += 1
            self.close_connection = True
            return
        if self.server.reject:
            self.answer({"errors": [{"message": "invalid API key"}]}, 401)
        elif self.server.crowded and b"mutation CreateArtifact" in body:
            self.answer({"errors": [{"message": "over quota"}]}, 403)
        elif b"mutation UpsertBucket" in body and any(run.encode() in body for run in self.server.deleted):
            self.answer({"errors": [{"message": "run was previously created and deleted"}]}, 409)
        elif self.path == "/graphql":
            document = json.loads(body)
            name = re.search(r"(?:query|mutation)\s+(\w+)", document["query"])
            operation = name[1] if name else "?"
            self.server.operations.append(operation)
            answer = getattr(self, f"on_{operation}", lambda _: {})
            self.answer({"data": answer(document.get("variables") or {})})
        elif file_stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            if self.server.full:
                self.answer({"error": "over quota"}, 403)
                return
            self.stream(self.server.runs[file_stream[1]], json.loads(body))
            self.answer({})
        elif upload := re.fullmatch(r"/upload/([^/]+)/(.+)", self.path):
            self.server.runs[upload[1]].files[upload[2]] = body
            self.answer({})
        elif upload := re.fullmatch(r"/artifact/([^/]+)/(.+)", self.path):
            self.server.artifacts[upload[1]].files[upload[2]] = body
            self.answer({})
        else:
            self.answer({})

    do_GET = do_PUT = do_POST

    def answer(self, document: dict[str, Any], code: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, run: Run, document: dict[str, Any]) -> None:
        """History lines are placed at their offset, as the real server does; the summary is replaced."""
        for name, part in document.get("files", {}).items():
            rows = [json.loads(line) for line in part["content"]]
            if name == "wandb-history.jsonl":
                run.history[part["offset"] : part["offset"] + len(rows)] = rows
            elif name == "wandb-summary.json":
                run.summary = rows[-1]
        if document.get("complete"):
            run.exit_code = document.get("exitcode")

    def on_Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "dg==", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}

    on_GetDefaultEntity = on_Viewer

    def on_RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.server.runs.get(variables["name"])
        bucket = run and {
            "id": "cg==",
            "name": variables["name"],
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.fields["displayName"],
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": "[]",
            "config": json.dumps(run.config),
            "tags": run.fields.get("tags", []),
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {"model": {"id": "cA==", "name": variables["project"], "entity": _entity(variables), "bucket": bucket}}

    def on_UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        new = variables["name"] not in self.server.runs
        run = self.server.runs.setdefault(variables["name"], Run())
        run.fields |= {key: value for key, value in variables.items() if value is not None}
        run.config |= json.loads(variables.get("config") or "{}")
        bucket = {
            "id": "cg==",
            "name": variables["name"],
            "displayName": run.fields.get("displayName"),
            "description": "",
            "config": json.dumps(run.config),
            "sweepName": None,
            "project": {"id": "cA==", "name": run.fields.get("project"), "entity": _entity(variables)},
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def on_ArtifactType(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": None}

    def on_CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        made = f"a{len(self.server.artifacts)}"
        self.server.artifacts[made] = Artifact(variables["input"])
        sequence = {"id": f"s{made}", "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": made, "state": "PENDING", "artifactSequence": sequence}}}

    def on_CreateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        file = self.upload(variables["artifactID"], variables["name"])
        return {"createArtifactManifest": {"artifactManifest": {"id": variables["artifactID"], "file": file}}}

    def on_UpdateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        file = self.upload(variables["artifactManifestID"], "wandb_manifest.json")
        return {"updateArtifactManifest": {"artifactManifest": {"id": variables["artifactManifestID"], "file": file}}}

    def on_CreateArtifactFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {**self.upload(file["artifactID"], file["name"]), "artifact": {"id": file["artifactID"]}}
            for file in variables["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def on_CommitArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        artifact = self.server.artifacts[variables["artifactID"]]
        artifact.committed = True
        digest = artifact.fields["digest"]
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": digest}}}

    def upload(self, artifact: str, name: str) -> dict[str, Any]:
        """Where a file of an artifact is to be sent."""
        url = f"{self.server.url}/artifact/{artifact}/{name}"
        return {"id": name, "name": name, "displayName": name, "uploadUrl": url, "uploadHeaders": []} | {
            "storagePath": None,
            "uploadMultipartUrls": None,
        }

    def on_UpsertView2(self, variables: dict[str, Any]) -> dict[str, Any]:
        made = variables.get("id") or f"v{len(self.server.views)}"
        self.server.views[made] = variables
        return {"upsertView": {"view": {"id": made, "name": variables["name"]}, "inserted": True}}

    def on_View(self, variables: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {"id": view, "displayName": fields["displayName"], "spec": fields["spec"]}
            for view, fields in self.server.views.items()
            if fields["name"] == variables["viewName"]
        ]
        return {"project": {"allViews": {"edges": [{"node": node} for node in nodes]}}}

    def on_CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"name": name, "uploadUrl": f"{self.server.url}/upload/{variables['run']}/{name}"}
            for name in variables["files"]
        ]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}


def _entity(variables: dict[str, Any]) -> dict[str, str]:
    return {"id": "ZQ==", "name": variables.get("entity") or "me"}
