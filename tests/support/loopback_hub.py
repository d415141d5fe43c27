"""A Hugging Face Hub on the loopback interface, which the real clients talk to: repositories, commits, large files.

`LoopbackHub` is a context manager; `requests` holds what it was asked, `repositories` what it stores, `faults` what it
refuses: a status for each pattern of "METHOD path". A `Client` is a
process of its own that knows this Hub and no other, since the libraries read `HF_ENDPOINT` when they are imported.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_loopback"
_LARGE = (".parquet", ".safetensors", ".bin", ".arrow")
_REPOSITORY = r"(?P<id>[\w.-]+/[\w.-]+)"
_KIND = r"(?P<kind>models|datasets|spaces)"
_REVISION = r"(?P<revision>refs/[^/]+/[^/]+|[^/]+)"


@dataclass
class Repository:
    """What one repository holds: the files of each commit, the newest of `main` last, and other branches by number."""

    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    branches: dict[str, int] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]

    def number(self, revision: str) -> int | None:
        named = {"main": len(self.commits) - 1, **self.branches, **{oid(n): n for n in range(len(self.commits))}}
        return named.get(revision)

    def at(self, revision: str) -> dict[str, bytes] | None:
        number = self.number(revision)
        return None if number is None else self.commits[number]


def oid(number: int) -> str:
    return hashlib.sha1(str(number).encode()).hexdigest()


class Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class LoopbackHub:
    """The server; `repositories` are keyed by kind ("models", "datasets") and id."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.faults: dict[str, int] = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def asked(self, method: str, path: str) -> list[Any]:
        """Return the bodies of the requests of one method to a path."""
        return [body for one, where, body in self.requests if (one, where) == (method, path)]


_CLIENT = """
import json, os, sys
for line in sys.stdin:
    request = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    os.environ |= {"HF_TOKEN": request["token"]} if request["token"] else {}
    try:
        names = {"argument": request["argument"]}
        exec(request["code"], names)
        answer = names.get("result")
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
"""


class Client:
    """A process that runs code against a loopback Hub; cache and login lie in `home`."""

    def __init__(self, hub: LoopbackHub, home: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE_"))}
        kept |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        # Progress bars go to standard error.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CLIENT],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=kept, text=True,
        )  # fmt: skip

    def run(self, code: str, argument: Any = None, *, token: str | None = TOKEN) -> Any:
        """Run code that may read `argument`; return what it calls `result`, or {"error": "Type: message"}."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"code": code, "argument": argument, "token": token}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=30)


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        self.hub.requests.append((self.command, path, body))
        try:
            for pattern, status in self.hub.faults.items():
                if re.fullmatch(pattern, f"{self.command} {path}"):
                    raise Refused(status, message=f"planted {status}")
            for pattern, method in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match:
                    getattr(self, method)(body, **match.groupdict())
                    return
            raise Refused(404, "EntryNotFound", f"no route to {self.command} {path}")
        except Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self._send(json.dumps({"error": refused.message}).encode(), refused.status, headers)

    def _body(self) -> Any:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raw = b""
            while size := int(self.rfile.readline(), 16):
                raw += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.headers.get("Content-Type", "")
        if "ndjson" in kind:
            return [json.loads(line) for line in raw.splitlines()]
        return json.loads(raw) if "json" in kind and raw else raw

    def _send(self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def _knows_token(self) -> bool:
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {TOKEN}"):
            raise Refused(401, message="Invalid credentials in Authorization header")
        return given is not None

    def _repository(self, kind: str | None, id: str, *, write: bool = False) -> Repository:
        knows = self._knows_token()
        found = self.hub.repositories.get((kind or "models", id))
        if found is None or (not knows and (found.private or write)):
            # The Hub does not tell strangers whether there is a private repository.
            raise Refused(404 if knows else 401, "RepoNotFound", "Repository not found")
        return found

    def create(self, body: dict[str, Any]) -> None:
        if not self._knows_token():
            raise Refused(401, message="Invalid username or password.")
        kind, id = body.get("type", "model") + "s", f"{body.get('organization') or 'me'}/{body['name']}"
        private = body.get("visibility") == "private" or body.get("private") is True
        status = 409 if (kind, id) in self.hub.repositories else 200
        self.hub.repositories.setdefault((kind, id), Repository(private))
        self._json({"url": f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{id}"}, status)

    def valid_yaml(self, body: Any) -> None:
        self._json({"errors": [], "warnings": []})

    def info(self, body: Any, kind: str, id: str, revision: str = "main") -> None:
        found = self._repository(kind, id)
        siblings = [{"rfilename": path} for path in self._files(kind, id, revision)]
        sha = oid(found.number(revision) or 0)
        self._json({"id": id, "sha": sha, "private": found.private, "tags": [], "siblings": siblings})

    def tree(self, body: Any, kind: str, id: str, revision: str, folder: str | None = None) -> None:
        files = self._files(kind, id, revision)
        start = f"{folder.strip('/')}/" if folder else ""
        inside = [path for path in files if path.startswith(start)]
        if not inside and folder:
            raise Refused(404, "EntryNotFound", f"{folder} does not exist")
        folders = {str(parent) for path in inside for parent in PurePosixPath(path).parents} - {".", start[:-1]}
        entries = [_entry(path, files[path]) for path in inside]
        entries += [{"type": "directory", "path": path, "oid": oid(0)} for path in sorted(folders)]
        if "recursive=true" not in self.path.lower():
            entries = [one for one in entries if "/" not in one["path"].removeprefix(start)]
        self._json(entries)

    def paths(self, body: Any, kind: str, id: str, revision: str) -> None:
        files = self._files(kind, id, revision)
        asked = body["paths"] if isinstance(body, dict) else re.findall(rb"paths=([^&]+)", body)
        names = [unquote(path if isinstance(path, str) else path.decode()) for path in asked]
        self._json([_entry(name, files[name]) for name in names if name in files])

    def preupload(self, body: Any, kind: str, id: str, revision: str) -> None:
        self._repository(kind, id, write=True)
        modes = {True: "lfs", False: "regular"}
        files = [
            {"path": one["path"], "uploadMode": modes[one["path"].endswith(_LARGE)], "shouldIgnore": False}
            for one in body["files"]
        ]
        self._json({"files": files})

    def large(self, body: Any, kind: str | None, id: str) -> None:
        self._repository(kind, id, write=True)
        objects = [
            {**one, "actions": {"upload": self._action("upload", one), "verify": self._action("verify", one)}}
            for one in body["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _action(self, name: str, one: dict[str, Any]) -> dict[str, str]:
        return {"href": f"{self.hub.url}/objects/{name}/{one['oid']}"}

    def upload(self, body: bytes, sha256: str) -> None:
        self.hub.objects[sha256] = body
        self._send(b"")

    def verify(self, body: Any, sha256: str) -> None:
        content = self.hub.objects.get(sha256, b"")
        if hashlib.sha256(content).hexdigest() != sha256 or len(content) != body["size"]:
            raise Refused(400, message="the object is not what was promised")
        self._send(b"")

    def commit(self, body: list[dict[str, Any]], kind: str, id: str, revision: str) -> None:
        found = self._repository(kind, id, write=True)
        if revision != "main":
            raise Refused(404, "RevisionNotFound", "Invalid rev id")
        files = dict(found.files)
        for item in body:
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        found.commits.append(files)
        number = len(found.commits) - 1
        self._json({"commitUrl": f"{self.hub.url}/{kind}/{id}/commit/{oid(number)}", "commitOid": oid(number)})

    def resolve(self, body: Any, kind: str | None, id: str, revision: str, path: str) -> None:
        files = self._files(kind, id, revision)
        if path not in files:
            raise Refused(404, "EntryNotFound", "Entry not found")
        head = oid(self.hub.repositories[kind or "models", id].number(revision) or 0)
        self._send(files[path], headers={"ETag": f'"{_hash(files[path])}"', "X-Repo-Commit": head})

    def _files(self, kind: str | None, id: str, revision: str) -> dict[str, bytes]:
        files = self._repository(kind, id).at(revision)
        if files is None:
            raise Refused(404, "RevisionNotFound", "Invalid rev id")
        return files


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _hash(content)[:40]}
    if path.endswith(_LARGE):
        entry["lfs"] = {"oid": _hash(content), "size": len(content), "pointerSize": 134}
    return entry


_ROUTES = [
    (r"/api/repos/create", "create"),
    (r"/api/validate-yaml", "valid_yaml"),
    (rf"/api/{_KIND}/{_REPOSITORY}", "info"),
    (rf"/api/{_KIND}/{_REPOSITORY}/revision/{_REVISION}", "info"),
    (rf"/api/{_KIND}/{_REPOSITORY}/tree/{_REVISION}(?P<folder>/.*)?", "tree"),
    (rf"/api/{_KIND}/{_REPOSITORY}/paths-info/{_REVISION}", "paths"),
    (rf"/api/{_KIND}/{_REPOSITORY}/preupload/{_REVISION}", "preupload"),
    (rf"/api/{_KIND}/{_REPOSITORY}/commit/{_REVISION}", "commit"),
    (rf"/(?:{_KIND}/)?{_REPOSITORY}\.git/info/lfs/objects/batch", "large"),
    (r"/objects/upload/(?P<sha256>\w+)", "upload"),
    (r"/objects/verify/(?P<sha256>\w+)", "verify"),
    (rf"/(?:{_KIND}/)?{_REPOSITORY}/resolve/{_REVISION}/(?P<path>.+)", "resolve"),
]
