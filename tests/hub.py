"""A small server of the Hugging Face Hub's endpoints: those by which models are made, read and pushed."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import yaml
from huggingface_hub import constants, file_download

TOKEN, READ_TOKEN = "hf_writes", "hf_reads"
"""The tokens of the one user of this hub, "user"; the second may only read."""

_ID = r"(?P<name>[\w.-]+/[\w.-]+)"


@dataclass
class Repository:
    """A repository: whether its files are its owner's alone or on request, its commits, newest last, their messages."""

    private: bool = False
    gated: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b""}])
    messages: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the newest commit."""
        return self.commits[-1]

    def sha(self, index: int) -> str:
        """The name of a commit."""
        return hashlib.sha1(repr(sorted(self.commits[index].items())).encode()).hexdigest()

    def at(self, revision: str) -> dict[str, bytes] | None:
        """The files of a revision."""
        names = {self.sha(i): files for i, files in enumerate(self.commits)} | {"main": self.files}
        return names.get(revision)


@dataclass
class Hub:
    """The hub: its repositories by name, the large files that were sent, and the requests that came."""

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str = "", **body: object):
        self.status, self.message, self.code, self.body = status, message, code, body


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _user(self) -> str | None:
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in (TOKEN, READ_TOKEN):
            raise Refusal(401, "Invalid credentials in Authorization header")
        return "user" if token else None

    def _may_write(self, owner: str) -> None:
        if self._user() != owner or READ_TOKEN in self.headers["authorization"]:
            raise Refusal(403, f'You don\'t have the rights to write under the namespace "{owner}"')

    def _repository(self, name: str) -> Repository:
        user, found = self._user(), self.hub.repositories.get(name)
        if found is None or (found.private and user != name.split("/")[0]):
            raise Refusal(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return found

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _serve(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        body = self._body()
        for methods, pattern, answer in _ROUTES:
            if self.command in methods and (match := re.fullmatch(pattern, path)):
                try:
                    value, headers = answer(self, body, **match.groupdict())
                    data = value if isinstance(value, bytes) else json.dumps(value).encode()
                    self._answer(200, data, **headers)
                except Refusal as refusal:
                    codes = {"X_Error_Code": refusal.code} if refusal.code else {}
                    text = json.dumps({"error": refusal.message, **refusal.body}).encode()
                    self._answer(refusal.status, text, X_Error_Message=refusal.message, **codes)
                return
        self._answer(404, b"{}")

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def create(self, body: bytes):
        asked = json.loads(body)
        user = self._user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        owner = asked["organization"] or user
        self._may_write(owner)
        name = f"{owner}/{asked['name']}"
        url = f"{self.hub.endpoint}/{name}"
        if name in self.hub.repositories:
            raise Refusal(409, "You already created this model repo", url=url)
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repositories[name] = Repository(bool(private))
        return {"url": url}, {}

    def info(self, body: bytes, name: str, revision: str | None):
        found = self._repository(name)
        there = found.at(revision or "main")
        if there is None:
            raise Refusal(404, "Invalid rev id", "RevisionNotFound")
        files = [{"rfilename": path} for path in there]
        sha = found.sha(-1) if revision in (None, "main") else revision
        known = {"id": name, "sha": sha, "private": found.private, "siblings": files, "xetEnabled": False}
        return known, {}

    def tree(self, body: bytes, name: str, revision: str):
        files = self._repository(name).at(revision) or {}
        return [
            {"type": "file", "path": path, "size": len(data), "oid": _blob(data)} for path, data in files.items()
        ], {}

    def resolve(self, body: bytes, name: str, revision: str, path: str):
        found = self._repository(name)
        files = found.at(revision) or {}
        if found.gated:
            raise Refusal(403, "Access to this model is restricted", "GatedRepo")
        if path not in files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        sha = found.sha(-1) if revision == "main" else revision
        return files[path], {"ETag": f'"{_blob(files[path])}"', "X_Repo_Commit": sha}

    def validate(self, body: bytes):
        text = json.loads(body)["content"]
        metadata = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
        if not metadata:
            return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}, {}
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", metadata.get("base_model", "gpt2")):
            raise Refusal(400, '"base_model" is not valid', errors=[{"message": "base_model"}])
        return {"errors": [], "warnings": []}, {}

    def preupload(self, body: bytes, name: str):
        self._repository(name)
        self._may_write(name.split("/")[0])
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
        }, {}

    def batch(self, body: bytes, name: str):
        self._may_write(name.split("/")[0])
        objects = json.loads(body)["objects"]
        for one in objects:
            one["actions"] = {"upload": {"href": f"{self.hub.endpoint}/large/{one['oid']}"}}
        return {"transfer": "basic", "objects": objects}, {}

    def large(self, body: bytes, oid: str):
        self.hub.large[oid] = body
        return b"", {}

    def commit(self, body: bytes, name: str):
        found = self._repository(name)
        self._may_write(name.split("/")[0])
        files = dict(found.files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                found.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        found.commits.append(files)
        return {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{found.sha(-1)}", "commitOid": found.sha(-1)}, {}


_ROUTES = [
    ("POST", "/api/repos/create", _Handler.create),
    ("GET", f"/api/models/{_ID}(/revision/(?P<revision>[^/]+))?", _Handler.info),
    ("GET", f"/api/models/{_ID}/tree/(?P<revision>[^/]+)", _Handler.tree),
    (("GET", "HEAD"), f"/{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", f"/api/models/{_ID}/preupload/main", _Handler.preupload),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/large/(?P<oid>[0-9a-f]+)", _Handler.large),
    ("POST", f"/api/models/{_ID}/commit/main", _Handler.commit),
]


@contextmanager
def serving() -> Iterator[Hub]:
    """The hub, served on this machine; its `endpoint` is what HF_ENDPOINT names."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def close_sessions() -> None:
    """Let huggingface_hub read its settings anew, as a new process does."""
    if hasattr(huggingface_hub, "close_session"):
        huggingface_hub.close_session()
    else:
        huggingface_hub.utils.reset_sessions()


def point(patch, endpoint: str) -> None:
    """Have huggingface_hub use another endpoint, as HF_ENDPOINT does."""
    patch.setattr(constants, "ENDPOINT", endpoint)
    for module in (constants, file_download):  # huggingface_hub 0.34 has it in both
        if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
            template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
            patch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@contextmanager
def used(hub: Hub, patch, cache, token: str | None = TOKEN) -> Iterator[None]:
    """Have huggingface_hub use this hub, an empty cache and this token.

    Its settings are read from the environment when it is imported, so they are set in the module.
    """
    close_sessions()
    patch.setenv("NO_PROXY", "127.0.0.1")
    patch.delenv("HF_TOKEN", raising=False)
    if token is not None:
        patch.setenv("HF_TOKEN", token)
    point(patch, hub.endpoint)
    for name, value in {
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(cache / "token"),
        "AGENT_HARNESSES_PATH": str(cache / "harnesses.json"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,  # this hub keeps large files as they are
    }.items():
        patch.setattr(constants, name, value, raising=False)
    yield
    close_sessions()
