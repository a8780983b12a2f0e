"""A small stand-in for the Hugging Face hub: dataset repositories in memory, as the client asks for them over HTTP."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = (".tar", ".arrow", ".npy", ".parquet")
"""What the hub keeps as large files."""


class HubServer:
    """Repositories by name; each holds its commits' files by revision.

    Attributes:
        repos: files of every revision, the last of them the main branch.
        private: visibility as it was asked for.
        requests: method and path of every request.
        large: contents by SHA-256, uploaded but perhaps in no commit.
        fail: says of a method and a path whether to break off in the middle.
        cut: bytes after which a file's connection ends, once, by the file's name.
        ranges: names of files of which a part was asked for, and the part.
        hold: says of a path whether to keep its answer for ever once it has begun, which `held` then tells.
        token: the one that is asked for; None asks for none.
    """

    def __init__(self):
        self.repos: dict[str, list[dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[tuple[str, str]] = []
        self.large: dict[str, bytes] = {}
        self.fail = lambda method, path: False
        self.cut: dict[str, int] = {}
        self.ranges: list[tuple[str, str]] = []
        self.hold = lambda path: False
        self.held = threading.Event()
        self.token: str | None = None
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def files(self, repo):
        """The main branch."""
        return self.repos[repo][-1]


def revision_name(number):
    return f"{number:040x}"


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _serve(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if (
            self.hub.token
            and not path.startswith("/upload/")
            and self.headers.get("Authorization") != f"Bearer {self.hub.token}"
        ):
            self._json({"error": "Repository not found"}, 401, {"X-Error-Code": "RepoNotFound"})
        elif self.hub.fail(self.command, path):
            self._break_off()
        elif path.startswith("/upload/"):
            self.hub.large[path.removeprefix("/upload/")] = self.body
            self._json({})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(self.body))
        elif path.startswith("/api/datasets/"):
            self._api(path.split("/")[3:])
        elif path.endswith("/info/lfs/objects/batch"):
            self._json(
                {"transfer": "basic", "objects": [self._action(item) for item in json.loads(self.body)["objects"]]}
            )
        else:
            self._content(path)

    do_GET = do_POST = do_PUT = do_HEAD = _serve

    def _create(self, wanted):
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.hub.repos:
            return self._json({"error": "exists", "url": f"{self.hub.url}/datasets/{name}"}, 409)
        self.hub.repos[name] = [{}]
        self.hub.private[name] = wanted.get("visibility") == "private" or wanted.get("private", False)
        return self._json({"url": f"{self.hub.url}/datasets/{name}"})

    def _api(self, parts):
        repo, rest = "/".join(parts[:2]), parts[2:]
        if repo not in self.hub.repos:
            return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        commits = self.hub.repos[repo]
        if rest[:1] == ["preupload"]:
            return self._json({"files": [self._mode(item, commits[-1]) for item in json.loads(self.body)["files"]]})
        if rest[:1] == ["commit"]:
            commits.append(commits[-1] | dict(map(self._operation, self.body.splitlines()[1:])))
            url = f"{self.hub.url}/datasets/{repo}/commit/{revision_name(len(commits) - 1)}"
            return self._json({"commitUrl": url, "commitOid": revision_name(len(commits) - 1)})
        if rest[:1] == ["tree"]:
            files = commits[int(rest[1], 16)]
            return self._json([_tree_item(name, data) for name, data in sorted(files.items())])
        sha = revision_name(len(commits) - 1)
        return self._json({"id": repo, "sha": sha, "private": False, "tags": [], "siblings": []})

    def _mode(self, item, files):
        mode = "lfs" if item["path"].endswith(LARGE) else "regular"
        old = files.get(item["path"])
        oid = None if old is None else hashlib.sha1(b"blob %d\0" % len(old) + old).hexdigest()
        return {"path": item["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def _operation(self, line):
        operation = json.loads(line)
        value = operation["value"]
        if operation["key"] == "lfsFile":
            return value["path"], self.hub.large[value["oid"]]
        return value["path"], base64.b64decode(value["content"])

    def _action(self, item):
        action = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] in self.hub.large:
            return action
        return action | {"actions": {"upload": {"href": f"{self.hub.url}/upload/{item['oid']}"}}}

    def _content(self, path):
        if "/resolve/" not in path:
            return self._json({"error": "Not found"}, 404)
        _, _, *repo, _, revision, name = path.split("/", 6)
        data = self.hub.repos["/".join(repo)][int(revision, 16)].get(name)
        if data is None:
            return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        if self.headers.get("Range"):
            self.hub.ranges.append((name, self.headers["Range"]))
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if self.command == "GET" and self.hub.hold(path):
            return self._hold(data)
        etag = (hashlib.sha256 if name.endswith(LARGE) else hashlib.sha1)(data).hexdigest()
        span = {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"} if first else {}
        return self._send(data[first:], 206 if first else 200, {"X-Repo-Commit": revision, "ETag": f'"{etag}"'} | span)

    def _json(self, value, status=200, headers=None):
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"} | (headers or {}))

    def _send(self, data, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        path = unquote(urlsplit(self.path).path)
        if self.command != "HEAD":
            part = self.hub.cut.pop(path.rpartition("/")[2], None) if self.command == "GET" else None
            self.wfile.write(data[:part])
            self.close_connection = self.close_connection or part is not None

    def _hold(self, data):
        """Begin an answer, and never end it."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:100])
        self.wfile.flush()
        self.hub.held.set()
        threading.Event().wait(60)

    def _break_off(self):
        """Promise more than comes, as a connection that is cut does."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b"half")
        self.close_connection = True


def _tree_item(name, data):
    sha256 = hashlib.sha256(data).hexdigest()
    large = {"lfs": {"oid": sha256, "size": len(data), "pointerSize": 130}} if name.endswith(LARGE) else {}
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()} | large
