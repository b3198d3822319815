"""A server that misbehaves on request, and manifests and a cache to fetch from it with: for the tests of transfer, unpack and manifest."""
import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from isoclr.data.manifest import fetch
from isoclr.transfer import Transfer

QUICK = Transfer(attempts=3, timeout_s=5.0, wait_s=0.0, progress=False)
BODY = bytes(range(256)) * 3000  # 768,000 bytes
BAD_NAMES = ["../x", "a/../../x", "/etc/x", "C:/x", "c:x", "..\\x", "a\\b", "a//b", "a/", "./a", "..", ".", "", "a\0b", "a\nb", "a/../b"]


class House:
    "A server whose pages are functions of the handler, or bytes; it remembers what was asked of it."

    def __init__(self):
        self.pages, self.asked, self.stop = {}, [], threading.Event()
        house = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                house.asked.append((self.path, dict(self.headers)))
                page = house.pages.get(self.path)
                if page is None:
                    send(self, b"no such page", status=404)
                elif callable(page):
                    page(self)
                else:
                    send(self, page)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, page: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{page}"

    def count(self, page: str) -> int:
        return sum(path == page for path, _ in self.asked)

    def close(self):
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()


def send(handler, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
    "An answer; with `length`, fewer or more bytes are announced than are sent."
    handler.send_response(status)
    for key, value in headers.items():
        handler.send_header(key.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)
    if length not in (None, len(body)):
        handler.close_connection = True


class Ranged:
    "A page that honours Range and If-Range, and breaks off after `cut` bytes of its first answers."

    def __init__(self, body: bytes = BODY, tag: str = '"v1"', cuts: tuple[int, ...] = ()):
        self.body, self.tag, self.cuts = body, tag, list(cuts)

    def __call__(self, handler):
        start, wanted = 0, handler.headers.get("Range")
        if wanted and handler.headers.get("If-Range", self.tag) == self.tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        rest = self.body[start:]
        sent = rest[: self.cuts.pop(0)] if self.cuts else rest
        more = {"Content_Range": f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"} if start else {}
        send(handler, sent, status=206 if start else 200, length=len(rest), ETag=self.tag, **more)


@pytest.fixture
def house():
    house = House()
    yield house
    house.close()


@pytest.fixture
def declare(tmp_path, house):
    "Write a manifest of one file, or several, whose pages are at the house."

    def write(*files: dict, name: str = "toy", **more) -> Path:
        entries = []
        for file in files or ({},):
            entry = {"role": "labels", "name": "toy.bin", "insecure": True, **file}
            entries.append({"url": house.url("/" + entry["name"]), **entry})
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"title": "Toy", "kind": "labels", "files": entries, **more}))
        return path

    return write


@pytest.fixture
def get(tmp_path):
    "Fetch into a cache of this test."
    return lambda path, transfer=QUICK, **more: fetch(path, tmp_path / "cache", transfer=transfer, **more)


def left_over(tmp_path: Path) -> list[str]:
    "Files in the cache, without the lock of the process."
    return sorted(p.relative_to(tmp_path / "cache" / "toy").as_posix() for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.name != ".lock")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()
