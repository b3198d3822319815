"""Manifests: what they may say, and fetching from servers that misbehave."""
import concurrent.futures
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import random
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoclr import cli
from isoclr.config import Config, ConfigError, InputError, IsoclrError
from isoclr.data import manifest as module
from isoclr.data.manifest import (DataFile, Transfer, cache_folder, catalogue, cite, fetch, manifests, read_lock, read_manifest, species_source,
                                  stays_inside, verify)

ROOT = Path(__file__).parents[1]
QUICK = Transfer(attempts=3, timeout_s=5.0, wait_s=0.0, progress=False)
BODY = bytes(range(256)) * 3000  # 768,000 bytes


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


# ---------------------------------------------------------------- transfer


def test_fetch_and_second_call_uses_the_cache(house, declare, get, tmp_path):
    house.pages["/toy.bin"] = BODY
    path = get(declare())["labels"]
    assert path == tmp_path / "cache" / "toy" / "toy.bin" and path.read_bytes() == BODY
    house.close()
    assert get(declare())["labels"] == path
    assert house.count("/toy.bin") == 1
    assert left_over(tmp_path) == ["lock.json", "toy.bin"]


@pytest.mark.parametrize("pinned", [True, False])
def test_broken_transfer_goes_on_where_it_stopped(house, declare, get, tmp_path, pinned):
    house.pages["/toy.bin"] = Ranged(cuts=(300_000, 200_000))
    pins = {"sha256": sha256(BODY), "bytes": len(BODY)} if pinned else {}
    assert get(declare(pins))["labels"].read_bytes() == BODY
    ranges = [headers.get("Range") for _, headers in house.asked]
    starts = [int(r[6:-1]) for r in ranges[1:]]
    assert ranges[0] is None and 0 < starts[0] <= 300_000 and starts[0] < starts[1] <= 500_000
    assert all(headers["If-Range"] == '"v1"' for _, headers in house.asked[1:])
    assert left_over(tmp_path) == ["lock.json", "toy.bin"]


def test_a_later_call_goes_on_too(house, declare, get, tmp_path):
    house.pages["/toy.bin"] = Ranged(cuts=(300_000,))
    with pytest.raises(InputError, match="1 attempts"):
        get(declare(), QUICK.replace(attempts=1))
    assert not (tmp_path / "cache/toy/toy.bin").exists()
    assert get(declare())["labels"].read_bytes() == BODY
    assert house.asked[1][1]["Range"].startswith("bytes=")


def test_last_modified_serves_where_there_is_no_etag(house, declare, get):
    date = "Tue, 03 Mar 2026 10:00:00 GMT"
    page = Ranged(tag=date, cuts=(300_000,))

    def dated(handler):
        handler.send_header, plain = (lambda k, v: plain("Last-Modified" if k == "ETag" else k, v)), handler.send_header
        page(handler)

    house.pages["/toy.bin"] = dated
    assert get(declare())["labels"].read_bytes() == BODY
    assert house.asked[1][1]["If-Range"] == date


@pytest.mark.parametrize("tag", [{}, {"ETag": 'W/"weak"'}])
def test_a_server_that_names_no_version_is_asked_for_the_whole(house, declare, get, tag):
    cuts = [300_000]
    house.pages["/toy.bin"] = lambda h: send(h, BODY[: cuts.pop() if cuts else None], length=len(BODY), **tag)
    assert get(declare())["labels"].read_bytes() == BODY
    assert [headers.get("Range") for _, headers in house.asked] == [None, None]


def test_a_server_that_ignores_range_is_started_over(house, declare, get):
    cuts = [300_000]
    house.pages["/toy.bin"] = lambda h: send(h, BODY[: cuts.pop() if cuts else None], length=len(BODY), ETag='"v1"')
    assert get(declare())["labels"].read_bytes() == BODY
    assert house.asked[1][1]["Range"].startswith("bytes=")


def test_a_file_that_changed_in_between_is_started_over(house, declare, get):
    page, other = Ranged(cuts=(300_000,)), BODY[::-1]

    def changing(handler):
        page(handler)
        page.body, page.tag = other, '"v2"'

    house.pages["/toy.bin"] = changing
    assert get(declare())["labels"].read_bytes() == other
    assert house.asked[1][1]["If-Range"] == '"v1"'


@pytest.mark.parametrize("answer", [
    lambda h: send(h, b"", status=416),
    lambda h: send(h, BODY[5:], status=206, Content_Range=f"bytes 5-{len(BODY) - 1}/{len(BODY)}"),
    lambda h: send(h, BODY[5:], status=206),
], ids=["416", "another part", "no Content-Range"])
def test_a_part_that_does_not_fit_is_started_over(house, declare, get, answer):
    answers = [Ranged(cuts=(300_000,)), answer, Ranged()]
    house.pages["/toy.bin"] = lambda h: answers.pop(0)(h)
    assert get(declare())["labels"].read_bytes() == BODY
    assert house.asked[2][1].get("Range") is None


def test_a_part_unasked_is_refused(house, declare, get, tmp_path):
    house.pages["/toy.bin"] = lambda h: send(h, BODY[5:], status=206, Content_Range=f"bytes 5-{len(BODY) - 1}/{len(BODY)}")
    with pytest.raises(InputError, match="another part"):
        get(declare())
    assert "toy.bin" not in left_over(tmp_path)


def test_a_damaged_part_is_caught_by_the_checksum(house, declare, get, tmp_path):
    house.pages["/toy.bin"] = Ranged(cuts=(300_000,))
    path = declare({"sha256": sha256(BODY)})
    with pytest.raises(InputError):
        get(path, QUICK.replace(attempts=1))
    part = tmp_path / "cache/toy/.toy.bin.part"
    part.write_bytes(b"x" + part.read_bytes()[1:])
    with pytest.raises(InputError, match="sha256 is .*, expected "):
        get(path)
    assert left_over(tmp_path) == []
    assert get(path)["labels"].read_bytes() == BODY


@pytest.mark.parametrize("wanted", ["sha256", "md5", "bytes"])
def test_wrong_bytes_leave_nothing(house, declare, get, tmp_path, wanted):
    house.pages["/toy.bin"] = BODY
    other = {"sha256": sha256(b"other"), "md5": md5(b"other"), "bytes": len(BODY) + 1}
    with pytest.raises(InputError) as caught:
        get(declare({wanted: other[wanted]}))
    for part in (house.url("/toy.bin"), str(other[wanted]), "expected", "Fetch again"):
        assert part in str(caught.value)
    assert left_over(tmp_path) == []
    assert house.count("/toy.bin") == 1


def test_a_file_that_never_ends_is_stopped_at_its_size(house, declare, get, tmp_path):
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        try:
            while not house.stop.is_set():
                handler.wfile.write(bytes(1 << 16))
        except OSError:
            pass

    house.pages["/toy.bin"] = endless
    with pytest.raises(InputError, match="expected 100000"):
        get(declare({"bytes": 100_000}))
    assert left_over(tmp_path) == []


def test_chunked_answers_are_read(house, declare, get):
    def chunked(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(BODY), 100_000):
            piece = BODY[start:start + 100_000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    house.pages["/toy.bin"] = chunked
    assert get(declare({"md5": md5(BODY)}))["labels"].read_bytes() == BODY


def test_bytes_are_taken_as_they_come(house, declare, get):
    "A server that labels a .gz file as an encoding of its content does not get it unpacked on the way."
    packed = gzip.compress(BODY, mtime=0)
    house.pages["/toy.gz"] = lambda h: send(h, packed, Content_Encoding="gzip")
    assert get(declare({"name": "toy.gz", "sha256": sha256(packed)}))["labels"].read_bytes() == packed


def test_404_is_final(house, declare, get, tmp_path):
    with pytest.raises(InputError, match="404 Not Found.*correct the manifest"):
        get(declare())
    assert house.count("/toy.bin") == 1 and left_over(tmp_path) == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_trouble_that_passes_is_waited_for(house, declare, get, status, monkeypatch):
    waits, answers = [], [status, status]
    monkeypatch.setattr(module.time, "sleep", waits.append)
    house.pages["/toy.bin"] = lambda h: send(h, b"busy", status=answers.pop()) if answers else send(h, BODY)
    assert get(declare(), QUICK.replace(wait_s=0.5))["labels"].read_bytes() == BODY
    assert house.count("/toy.bin") == 3 and waits == [0, 0.5, 1.0]


def test_trouble_that_stays_is_an_error(house, declare, get):
    house.pages["/toy.bin"] = lambda h: send(h, b"busy", status=503)
    with pytest.raises(InputError, match="3 attempts.*503"):
        get(declare())
    assert house.count("/toy.bin") == 3


def test_a_silent_server_is_an_error_and_not_a_hang(house, declare, get):
    def silent(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x" * 10)
        handler.wfile.flush()
        house.stop.wait(60)

    house.pages["/toy.bin"] = silent
    with pytest.raises(InputError, match="2 attempts.*[Tt]imed out"):
        get(declare(), QUICK.replace(attempts=2, timeout_s=0.2))
    assert house.count("/toy.bin") == 2


def test_a_server_that_never_answers_is_an_error_too(house, declare, get):
    house.pages["/toy.bin"] = lambda h: house.stop.wait(60)
    with pytest.raises(InputError, match="2 attempts.*[Tt]imed out"):
        get(declare(), QUICK.replace(attempts=2, timeout_s=0.2))


def test_a_slow_server_is_waited_for(house, declare, get):
    def slow(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "8")
        handler.end_headers()
        for byte in b"patience":
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            house.stop.wait(0.05)

    house.pages["/toy.bin"] = slow
    assert get(declare(), QUICK.replace(timeout_s=2.0))["labels"].read_bytes() == b"patience"


def test_no_server_at_all(declare, get, house):
    path = declare()
    house.close()
    with pytest.raises(InputError, match="3 attempts.*ConnectionError"):
        get(path)


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><p>sign in", b"  <html>gone</html>", b"plain text"])
def test_an_error_page_is_not_trusted_as_an_archive(house, declare, get, tmp_path, page):
    house.pages["/toy.gz"] = page
    with pytest.raises(InputError, match="does not give a .gz file"):
        get(declare({"name": "toy.gz"}))
    assert left_over(tmp_path) == []


def test_an_error_page_is_not_trusted_as_a_table(house, declare, get):
    house.pages["/toy.tsv"] = b"<!doctype html><p>gone"
    with pytest.raises(InputError, match="begins with"):
        get(declare({"name": "toy.tsv"}))


def test_a_full_disk_is_named(house, declare, get, monkeypatch):
    house.pages["/toy.bin"] = BODY

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_pour", full)
    with pytest.raises(InputError, match="No space left on device.*Make room"):
        get(declare())


def test_progress_bar(house, declare, get, capsys):
    house.pages["/toy.bin"] = BODY
    get(declare(), QUICK.replace(progress=True))
    assert "toy.bin: 100%" in capsys.readouterr().err


# ---------------------------------------------------------------- addresses


def test_http_is_refused_unless_the_manifest_allows_it(declare, get, house):
    with pytest.raises(ConfigError, match="not https.*insecure: true"):
        get(declare({"insecure": False}))
    assert not house.asked


@pytest.mark.parametrize("url", ["ftp://ftp.ebi.ac.uk/x", "rsync://x/y", "file:///etc/passwd", "/etc/passwd", "https://", "https://[", "javascript:x"])
@pytest.mark.parametrize("key", ["url", "checksums_url"])
def test_other_addresses_are_refused(url, key):
    with pytest.raises(ConfigError, match="not an https address"):
        DataFile("labels", "x", **{key: url}, insecure=True)


class Remembering:
    "Stands where requests' session stands: the first address redirects to the second."

    def __init__(self, real, start, target):
        self.real, self.start, self.target, self.asked = real, start, target, []

    def get(self, url, **more):
        import requests

        self.asked.append(url)
        if url != self.start:
            return self.real.get(url, **more)
        answer = requests.Response()
        answer.status_code, answer.raw = 302, io.BytesIO()
        answer.headers["Location"] = self.target
        return answer


def test_a_redirect_to_http_is_refused(house):
    "The first address is https, so that only the redirect is at fault; nothing is asked of the second."
    session = Remembering(None, "https://example.org/x", house.url("/x"))
    with pytest.raises(ConfigError, match="not https"):
        module._answer(session, "https://example.org/x", {}, False, 1.0)
    assert session.asked == ["https://example.org/x"] and not house.asked


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://x/y"])
def test_a_redirect_elsewhere_is_refused(house, declare, get, target):
    house.pages["/toy.bin"] = lambda h: send(h, b"", status=302, Location=target)
    with pytest.raises(ConfigError, match="not an https address"):
        get(declare())


def test_redirects_are_followed(house, declare, get):
    house.pages["/toy.bin"] = lambda h: send(h, b"", status=302, Location="/there")
    house.pages["/there"] = Ranged(cuts=(300_000,))
    assert get(declare())["labels"].read_bytes() == BODY


def test_redirects_in_a_circle(house, declare, get):
    house.pages["/toy.bin"] = lambda h: send(h, b"", status=302, Location="/toy.bin")
    with pytest.raises(InputError, match="ten redirects"):
        get(declare())


# ---------------------------------------------------------------- checksums: publisher's list, first use, update


@pytest.mark.parametrize("listing", ["{md5}  toy.bin\n", "{md5} *./toy.bin\n", "0" * 32 + "  other.bin\n{MD5}  toy.bin\r\n"])
def test_the_publishers_list_is_held_to(house, declare, get, listing):
    house.pages["/toy.bin"] = BODY
    house.pages["/md5sum.txt"] = listing.format(md5=md5(BODY), MD5=md5(BODY).upper()).encode()
    path = declare({"checksums_url": house.url("/md5sum.txt")})
    get(path)
    get(path)
    assert house.count("/md5sum.txt") == 1


def test_the_publishers_list_does_not_fit(house, declare, get, tmp_path):
    house.pages["/toy.bin"] = BODY
    house.pages["/md5sum.txt"] = b"%s  toy.bin\n" % md5(b"other").encode()
    with pytest.raises(InputError, match=f"not what .*md5sum.txt states: md5 is {md5(BODY)}, expected {md5(b'other')}"):
        get(declare({"checksums_url": house.url("/md5sum.txt")}))
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("listing", [b"", b"<html>", b"0" * 32 + b"  not_toy.bin\n", b"0" * 32 + b"  toy.bin\n" + b"1" * 32 + b"  toy.bin\n", None])
def test_the_publishers_list_is_of_no_use(house, declare, get, tmp_path, listing):
    "Without a usable list nothing is fetched: it is not passed over in silence."
    house.pages["/toy.bin"] = BODY
    if listing is not None:
        house.pages["/md5sum.txt"] = listing
    with pytest.raises(InputError, match="md5sum.txt"):
        get(declare({"checksums_url": house.url("/md5sum.txt")}))
    assert house.count("/toy.bin") == 0 and left_over(tmp_path) == []


def test_update_with_an_unchanged_list_downloads_nothing(house, declare, get):
    house.pages["/toy.bin"] = BODY
    house.pages["/md5sum.txt"] = b"%s  toy.bin\n" % md5(BODY).encode()
    path = declare({"checksums_url": house.url("/md5sum.txt")})
    get(path)
    get(path, update=True)
    assert house.count("/md5sum.txt") == 2 and house.count("/toy.bin") == 1
    house.pages["/toy.bin"], house.pages["/md5sum.txt"] = b"new", b"%s  toy.bin\n" % md5(b"new").encode()
    assert get(path)["labels"].read_bytes() == BODY
    assert get(path, update=True)["labels"].read_bytes() == b"new"


def test_first_use_goes_on_record(house, declare, get, tmp_path):
    house.pages["/toy.bin"] = BODY
    path = declare()
    file = get(path)["labels"]
    entry = read_lock(tmp_path / "cache/toy")["toy.bin"]
    assert (entry["sha256"], entry["md5"], entry["bytes"], entry["url"]) == (sha256(BODY), md5(BODY), len(BODY), house.url("/toy.bin"))
    assert entry["held_to"] == "first use" and entry["how"] == "downloaded" and re.match(r"20\d\d-\d\d-\d\d ", entry["retrieved"])
    file.unlink()
    house.pages["/toy.bin"] = b"another"
    with pytest.raises(InputError, match=f"not what was retrieved on 20.*sha256|bytes is 7, expected"):
        get(path)
    assert left_over(tmp_path) == ["lock.json"]
    house.pages["/toy.bin"] = BODY
    assert get(path)["labels"].read_bytes() == BODY


@pytest.mark.parametrize("rolling", [True, False])
def test_a_change_upstream_is_taken_only_on_request(house, declare, get, tmp_path, rolling):
    house.pages["/toy.bin"] = BODY
    path = declare({"rolling": rolling})
    get(path)
    house.pages["/toy.bin"] = b"new"
    assert get(path)["labels"].read_bytes() == BODY and house.count("/toy.bin") == 1
    assert get(path, update=True)["labels"].read_bytes() == b"new"
    assert read_lock(tmp_path / "cache/toy")["toy.bin"]["sha256"] == sha256(b"new")
    house.close()
    assert get(path)["labels"].read_bytes() == b"new"


def test_an_update_that_fails_leaves_the_old(house, declare, get):
    house.pages["/toy.bin"] = BODY
    path = declare({"rolling": True})
    get(path)
    house.pages["/toy.bin"] = lambda h: send(h, b"ab", length=5)
    with pytest.raises(InputError, match="3 attempts"):
        get(path, update=True)
    assert get(path)["labels"].read_bytes() == BODY


@pytest.mark.parametrize("pinned", [True, False])
def test_a_cached_file_that_was_altered_is_an_error(house, declare, get, tmp_path, pinned):
    house.pages["/toy.bin"] = BODY
    path = declare({"sha256": sha256(BODY)} if pinned else {})
    file = get(path)["labels"]
    file.write_bytes(b"X" + BODY[1:])
    with pytest.raises(InputError, match="not what was retrieved.*--update"):
        get(path)
    assert not verify(path, tmp_path / "cache").ok.any()
    assert get(path, update=True)["labels"].read_bytes() == BODY
    assert verify(path, tmp_path / "cache").ok.all()


def test_bit_rot_that_leaves_the_time_as_it_was_is_found_by_verify(house, declare, get, tmp_path):
    house.pages["/toy.bin"] = BODY
    path = declare()
    file = get(path)["labels"]
    status = file.stat()
    file.write_bytes(b"X" + BODY[1:])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    found = verify(path, tmp_path / "cache")
    assert not found.ok.any() and "sha256" in found.detail[0]
    get(path, update=True)
    assert file.read_bytes() == BODY


def test_a_cached_file_that_was_only_touched_is_fine(house, declare, get):
    house.pages["/toy.bin"] = BODY
    path = declare()
    os.utime(get(path)["labels"])
    get(path)
    assert house.count("/toy.bin") == 1


def test_a_manifest_that_changed_its_mind(house, declare, get):
    house.pages["/toy.bin"], house.pages["/new.bin"] = BODY, b"new"
    get(declare())
    with pytest.raises(InputError, match="not what the manifest states"):
        get(declare({"sha256": sha256(b"new"), "url": house.url("/new.bin")}))
    with pytest.raises(InputError, match="came from .*toy.bin, and the manifest now says .*new.bin"):
        get(declare({"url": house.url("/new.bin")}))
    assert get(declare({"sha256": sha256(BODY), "url": house.url("/new.bin")}))["labels"].read_bytes() == BODY, "a mirror of the same bytes"
    assert get(declare({"sha256": sha256(b"new"), "url": house.url("/new.bin")}), update=True)["labels"].read_bytes() == b"new"


@pytest.mark.parametrize("content", ["{", "[]", '{"files": []}', '{"files": {"toy.bin": {}}}', '{"files": {"toy.bin": 3}}', "{}"])
def test_a_damaged_lock(house, declare, get, tmp_path, content):
    house.pages["/toy.bin"] = BODY
    path = declare()
    get(path)
    (tmp_path / "cache/toy/lock.json").write_text(content)
    with pytest.raises(InputError, match="lock.json is damaged"):
        get(path)


def test_a_lost_lock_adopts_what_is_there(house, declare, get, tmp_path):
    house.pages["/toy.bin"] = BODY
    path = declare()
    get(path)
    (tmp_path / "cache/toy/lock.json").unlink()
    get(path)
    assert house.count("/toy.bin") == 1 and read_lock(tmp_path / "cache/toy")["toy.bin"]["how"] == "found in the cache"


# ---------------------------------------------------------------- by hand


def test_an_unknown_address_is_a_matter_of_hand(house, declare, get, tmp_path):
    house.pages["/known.bin"] = BODY
    path = declare({"url": "", "note": "Ask the authors."}, {"role": "known", "name": "known.bin"})
    place = tmp_path / "cache/toy/toy.bin"
    with pytest.raises(InputError, match=re.escape(f"not known. Get it by hand, and put it at {place}. Ask the authors.")):
        get(path)
    assert "known.bin" in left_over(tmp_path), "what can be fetched is fetched first"
    assert list(verify(path, tmp_path / "cache").ok) == [False, True]
    place.write_bytes(b"by hand")
    assert list(get(path)) == ["labels", "known"]
    assert verify(path, tmp_path / "cache").ok.all()
    place.write_bytes(b"altered")
    with pytest.raises(InputError, match="not what was retrieved"):
        get(path)
    get(path, update=True)
    assert verify(path, tmp_path / "cache").ok.all()


@pytest.mark.parametrize("how", [{"md5": md5(BODY)}, {"checksums_url": "/md5sum.txt"}])
def test_what_was_put_in_place_by_hand_is_held_to_the_checksum(house, declare, get, tmp_path, how):
    house.pages["/md5sum.txt"] = b"%s  toy.bin\n" % md5(BODY).encode()
    path = declare({key: house.url(value) if key == "checksums_url" else value for key, value in how.items()})
    place = tmp_path / "cache/toy/toy.bin"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"half a fi")
    with pytest.raises(InputError, match="is not what .* states: md5"):
        get(path)
    place.write_bytes(BODY)
    get(path)
    assert house.count("/toy.bin") == 0


def test_verify_without_anything_to_hold_to(declare, tmp_path):
    place = tmp_path / "cache/toy/toy.bin"
    place.parent.mkdir(parents=True)
    place.write_bytes(BODY)
    found = verify(declare(), tmp_path / "cache")
    assert not found.ok[0] and "no checksum" in found.detail[0]


# ---------------------------------------------------------------- paths


BAD_NAMES = ["../x", "a/../../x", "/etc/x", "C:/x", "c:x", "..\\x", "a\\b", "a//b", "a/", "./a", "..", ".", "", "a\0b", "a\nb", "a/../b"]


@pytest.mark.parametrize("name", [*BAD_NAMES, ".hidden", "a/.part", "lock.json"])
def test_names_that_leave_the_cache_are_refused(name):
    with pytest.raises(ConfigError, match="file name"):
        DataFile("labels", name)


@given(st.lists(st.sampled_from(["a", "..", ".", "", "b.c", "C:", "...", "~"]), max_size=5), st.sampled_from("/\\"))
def test_what_stays_inside_stays_inside(parts, slash):
    "Oracle: Windows' and POSIX' own arithmetic of paths."
    import ntpath
    import posixpath

    name = slash.join(parts)
    if stays_inside(name):
        assert ntpath.normpath(ntpath.join("D:\\cache", name)).startswith("D:\\cache\\")
        assert posixpath.normpath(posixpath.join("/cache", name)).startswith("/cache/")


def test_a_link_in_the_cache_leads_nowhere(house, declare, get, tmp_path):
    house.pages["/sub/toy.bin"] = BODY
    (tmp_path / "cache/toy").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache/toy/sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="leads out of"):
        get(declare({"name": "sub/toy.bin"}))
    assert not list((tmp_path / "elsewhere").iterdir())


def test_folders_in_names(house, declare, get, tmp_path):
    house.pages["/sub/toy.bin"] = Ranged(cuts=(300_000,))
    assert get(declare({"name": "sub/toy.bin"}))["labels"] == tmp_path / "cache/toy/sub/toy.bin"


# ---------------------------------------------------------------- unpacking


def zipped(*members: tuple[str, bytes], mode: int = 0o100644) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr, info.compress_type = name, mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return made.getvalue()


def tarred(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, way: str = "w:gz") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=way) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mode = kind, len(content) if kind == tarfile.REGTYPE else 0, 0o6777
            info.linkname = "" if kind == tarfile.REGTYPE else "/etc/passwd"
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


@pytest.mark.parametrize("suffix, packed", [
    ("zip", zipped(("maps/a.tsv", b"1"), ("b.tsv", b"22"))),
    ("tar.gz", tarred(("./maps/a.tsv", b"1"), ("b.tsv", b"22"))),
    ("tgz", tarred(("maps/a.tsv", b"1"), ("b.tsv", b"22"))),
    ("tar", tarred(("maps/a.tsv", b"1"), ("b.tsv", b"22"), way="w")),
    ("tar.xz", tarred(("maps/a.tsv", b"1"), ("b.tsv", b"22"), way="w:xz")),
])
def test_archives_are_unpacked(house, declare, get, tmp_path, suffix, packed):
    house.pages[f"/toy.{suffix}"] = packed
    path = declare({"name": f"toy.{suffix}", "unpack": "archive"})
    folder = get(path)["labels"]
    assert folder == tmp_path / "cache/toy/toy"
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {"maps/a.tsv": b"1", "b.tsv": b"22"}
    assert not (folder / "b.tsv").stat().st_mode & 0o7000, "no set-uid bits"
    assert verify(path, tmp_path / "cache").ok.all()
    (folder / "b.tsv").write_bytes(b"33")
    with pytest.raises(InputError, match="not what was unpacked from"):
        get(path)
    assert not verify(path, tmp_path / "cache").ok.all()
    get(path, update=True)
    assert (folder / "b.tsv").read_bytes() == b"22" and verify(path, tmp_path / "cache").ok.all()


@pytest.mark.parametrize("name", [n for n in BAD_NAMES if n not in ("", ".", "./a", "a/", "a\0b")])
@pytest.mark.parametrize("make, suffix", [(zipped, "zip"), (tarred, "tar.gz")])
def test_archives_do_not_leave_the_cache(house, declare, get, tmp_path, name, make, suffix):
    house.pages[f"/toy.{suffix}"] = make(("good", b"1"), (name, b"2"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="could lead out of the cache"):
        get(declare({"name": f"toy.{suffix}", "unpack": "archive"}))
    assert left_over(tmp_path) == ["lock.json", f"toy.{suffix}"]
    assert {p for p in tmp_path.rglob("*") if "cache" not in p.parts and p.suffix != ".yaml"} <= set(before)


@pytest.mark.parametrize("suffix, packed", [
    ("tar.gz", tarred(("x", b""), kind=tarfile.SYMTYPE)), ("tar.gz", tarred(("x", b""), kind=tarfile.LNKTYPE)),
    ("tar.gz", tarred(("x", b""), kind=tarfile.FIFOTYPE)), ("tar.gz", tarred(("x", b""), kind=tarfile.CHRTYPE)),
    ("zip", zipped(("x", b"/etc/passwd"), mode=0o120777)), ("zip", zipped(("x", b""), mode=0o010644)),
], ids=["symlink", "hard link", "fifo", "device", "zip symlink", "zip fifo"])
def test_archives_make_no_links_or_devices(house, declare, get, tmp_path, suffix, packed):
    house.pages[f"/toy.{suffix}"] = packed
    with pytest.raises(InputError, match="link or device"):
        get(declare({"name": f"toy.{suffix}", "unpack": "archive"}))
    assert not (tmp_path / "cache/toy/toy").exists()


@pytest.mark.parametrize("members", [(("a", b"1"), ("a", b"2")), (("a", b"1"), ("a/b", b"2"))])
@pytest.mark.parametrize("make, suffix", [(zipped, "zip"), (tarred, "tar.gz")])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_with_members_on_top_of_each_other(house, declare, get, members, make, suffix):
    house.pages[f"/toy.{suffix}"] = make(*members)
    with pytest.raises(InputError, match="twice, or lies in a file"):
        get(declare({"name": f"toy.{suffix}", "unpack": "archive"}))


@pytest.mark.parametrize("name, unpack, packed", [
    ("toy.zip", "archive", zipped(("x", bytes(90 << 20)))),
    ("toy.tar.gz", "archive", tarred(("x", bytes(90 << 20)))),
    ("toy.gz", "gunzip", gzip.compress(bytes(90 << 20))),
], ids=["zip", "tar", "gzip"])
def test_bombs_are_not_unpacked(house, declare, get, tmp_path, name, unpack, packed):
    house.pages[f"/{name}"] = packed
    with pytest.raises(InputError, match="cannot be unpacked: it unpacks to"):
        get(declare({"name": name, "unpack": unpack}))
    assert left_over(tmp_path) == ["lock.json", name]


@pytest.mark.parametrize("name, unpack, packed", [
    ("toy.zip", "archive", zipped(("x", BODY))), ("toy.tar.gz", "archive", tarred(("x", BODY))), ("toy.tar", "archive", tarred(("x", BODY), way="w")),
    ("toy.tar.xz", "archive", tarred(("x", BODY), way="w:xz")), ("toy.gz", "gunzip", gzip.compress(BODY)),
])
def test_damaged_archives(house, declare, get, tmp_path, name, unpack, packed):
    house.pages[f"/{name}"] = packed[: len(packed) // 2]
    with pytest.raises(InputError, match="cannot be unpacked"):
        get(declare({"name": name, "unpack": unpack}))
    assert left_over(tmp_path) == ["lock.json", name]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_archives_see_only_our_errors(tmp_path_factory, data):
    name, unpack, packed = data.draw(st.sampled_from([
        ("t.zip", "archive", zipped(("a/x", b"hello"), ("b", b"world"))), ("t.tar.gz", "archive", tarred(("a/x", b"hello"), ("b", b"world"))),
        ("t.tar", "archive", tarred(("a/x", b"hello"), ("b", b"world"), way="w")), ("t.gz", "gunzip", gzip.compress(b"hello")),
    ]))
    mutated = bytearray(packed)
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, len(packed) - 1), st.integers(0, 255)), min_size=1, max_size=6)):
        mutated[place] = byte
    folder = tmp_path_factory.mktemp("mutated")
    (folder / "in").mkdir()
    (folder / "in" / name).write_bytes(mutated)
    try:
        module._unpack(DataFile("labels", name, unpack=unpack), folder / "in")
    except InputError:
        pass
    assert [p.name for p in folder.iterdir()] == ["in"]


@pytest.mark.parametrize("bgzip", [False, True])
def test_gunzip(house, declare, get, tmp_path, bgzip):
    sequence = b">chr1\n" + b"ACGT\n" * 1000
    packed = gzip.compress(sequence[:2000]) + gzip.compress(sequence[2000:]) if bgzip else gzip.compress(sequence)
    house.pages["/g/toy.fa.gz"] = packed
    path = declare({"name": "g/toy.fa.gz", "unpack": "gunzip", "unpacked_sha256": sha256(sequence)})
    fasta = get(path)["labels"]
    assert fasta == tmp_path / "cache/toy/g/toy.fa" and fasta.read_bytes() == sequence
    fasta.unlink()
    assert verify(path, tmp_path / "cache").ok.tolist() == [True, False]
    assert get(path)["labels"].read_bytes() == sequence
    assert house.count("/g/toy.fa.gz") == 1


def test_gunzip_gives_what_the_manifest_does_not_mean(house, declare, get, tmp_path):
    house.pages["/toy.fa.gz"] = gzip.compress(b">chr1\nA\n")
    with pytest.raises(InputError, match="cannot be unpacked: unpacked, sha256 is"):
        get(declare({"name": "toy.fa.gz", "unpack": "gunzip", "unpacked_sha256": sha256(b"other")}))
    assert "toy.fa" not in left_over(tmp_path)


# ---------------------------------------------------------------- at once


def _fetch_in_process(path: Path, cache: Path) -> str:
    return sha256(fetch(path, cache, transfer=QUICK)["labels"].read_bytes())


@pytest.mark.parametrize("workers", [
    lambda: concurrent.futures.ThreadPoolExecutor(4),
    lambda: concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")),
], ids=["threads", "processes"])
def test_several_at_once(house, declare, tmp_path, workers):
    body = random.Random(0).randbytes(500_000)
    house.pages["/toy.gz"] = Ranged(body=gzip.compress(body, mtime=0), cuts=(200_000, 200_000))
    path = declare({"name": "toy.gz", "unpack": "gunzip"})
    with workers() as pool:
        got = [job.result() for job in [pool.submit(_fetch_in_process, path, tmp_path / "cache") for _ in range(4)]]
    assert got == [sha256(body)] * 4
    assert [("Range" in headers) for _, headers in house.asked] == [False, True, True], "one download, taken up twice"
    assert verify(path, tmp_path / "cache").ok.all()


def test_a_killed_fetch_is_taken_up(house, declare, get, tmp_path):
    "kill -9 in the middle: nothing at the destination, the lock is free, and the next call asks for the rest."
    def hanging(handler):
        send_some = Ranged(cuts=(500_000,))
        send_some(handler)
        handler.wfile.flush()
        handler.close_connection = False
        house.stop.wait(60)

    house.pages["/toy.bin"], path = hanging, declare()
    process = multiprocessing.get_context("spawn").Process(target=_fetch_in_process, args=(path, tmp_path / "cache"))
    process.start()
    part = tmp_path / "cache/toy/.toy.bin.part"
    for _ in range(600):
        if part.exists() and part.stat().st_size > 100_000:
            break
        threading.Event().wait(0.05)
    process.kill()
    process.join()
    assert process.exitcode == -9 and not (tmp_path / "cache/toy/toy.bin").exists()
    house.pages["/toy.bin"] = Ranged()
    assert get(path)["labels"].read_bytes() == BODY
    assert int(house.asked[1][1]["Range"][6:-1]) > 100_000


# ---------------------------------------------------------------- reading


def test_unknown_names_and_keys(declare):
    with pytest.raises(InputError, match="Did you mean 'zebrafish'"):
        read_manifest("zebrafihs")
    with pytest.raises(ConfigError, match=r"toy.yaml: Manifest has no setting 'licens'. Did you mean 'licence'"):
        read_manifest(declare(licens="CC0"))
    with pytest.raises(ConfigError, match=r"toy.yaml: DataFile has no setting 'sha265'. Did you mean 'sha256'"):
        read_manifest(declare({"sha265": "x"}))


@pytest.mark.parametrize("more, message", [
    ({"kind": "label"}, "Did you mean 'labels'"), ({"kind": 3}, "Manifest.kind"), ({"title": None}, "Manifest.title"), ({"kind": "species"}, "taxon"),
    ({"taxon": "9606"}, "Manifest.taxon"), ({"files": []}, "no files"), ({"files": [3]}, "key: value"), ({"files": "x"}, "list of files"),
    ({"files": [{"role": "x"}]}, "DataFile lacks name"), ({"files": [{"role": "x", "name": "y", "md5": "12"}]}, "32 lower-case"),
    ({"files": [{"role": "x", "name": "y", "md5": 12}]}, "DataFile.md5"), ({"files": [{"role": "x", "name": "y", 3: 4}]}, "key: value"),
    ({"files": [{"role": "x", "name": "y", "unpack": "gunzip"}]}, "unpack"), ({"files": [{"role": "x", "name": "y.gz", "unpack": "guzip"}]}, "unpack"),
    ({"files": [{"role": "x", "name": "y", "md5": "0" * 32, "rolling": True}]}, "rolling"),
    ({"files": [{"role": "x", "name": "y"}, {"role": "x", "name": "z"}]}, "role of its own"),
    ({"files": [{"role": "x", "name": "y"}, {"role": "z", "name": "Y"}]}, "name of its own"),
    ({"files": [{"role": "x", "name": "y"}, {"role": "z", "name": "y/a"}]}, "lie in another"),
    ({"files": [{"role": "x", "name": "y.gz", "unpack": "gunzip"}, {"role": "z", "name": "y"}]}, "name of its own"),
])
def test_manifests_that_cannot_be(declare, more, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_manifest(declare(**more))
    assert "toy.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["", "3", "- a", "a: b: c", "[", "!!python/object/apply:os.system [echo]", "title: x", "a: &a [*a]", "\0", "2024-99-99", "? [a]\n: b"])
def test_yaml_that_is_no_manifest(tmp_path, text):
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    with pytest.raises(IsoclrError, match="toy.yaml"):
        read_manifest(path)


@pytest.mark.parametrize("name", ["a b.yaml", ".yaml", "-x.yaml", "é.yaml"])
def test_names_of_manifests(declare, tmp_path, name):
    path = declare().rename(tmp_path / name)
    with pytest.raises(ConfigError, match="name the YAML file"):
        read_manifest(path)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=40), st.integers(0, 600), st.integers(0, 60))
def test_mutated_manifests_see_only_our_errors(tmp_path_factory, text, place, cut):
    original = (ROOT / "data_manifests" / "yeast.yaml").read_text()
    path = tmp_path_factory.mktemp("mutated") / "toy.yaml"
    path.write_bytes((original[:place] + text + original[place + cut:]).encode("utf-8", "surrogatepass"))
    try:
        read_manifest(path)
    except IsoclrError:
        pass


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("ISOCLR_DATA", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("ISOCLR_DATA")
    assert "isoclr" in str(cache_folder())


# ---------------------------------------------------------------- what comes with isoclr


@pytest.fixture(scope="module")
def sources(shared_data) -> str:
    "What the addresses and checksums were seen in, patterns filled in for every assembly."
    text = (shared_data / "SOURCES.md").read_text()
    assemblies = [read_manifest(path).assembly for path in manifests().values() if read_manifest(path).assembly]
    lines = [line.replace("<db>", db) for line in text.splitlines() if "<db>" in line for db in assemblies]
    lines += [line.replace("http://", "https://") for line in text.splitlines() if "(also https)" in line]
    return text + "\n".join(lines)


IN_ISOCLR = {"chicken": 9031, "celegans": 6239, "chimpanzee": 9598, "cow": 9913, "dog": 9615, "drosophila": 7227, "rat": 10116, "zebrafish": 7955,
             "human": 9606, "mouse": 10090}


def test_there_are_the_data_sets_that_we_promise():
    wanted = {*IN_ISOCLR, "yeast", "homologene", "mgi", "saluki", "hp5", "go", "goa", "hpa", "appris-human", "appris-mouse"}
    assert wanted <= set(manifests())
    assert {p.stem for p in (ROOT / "data_manifests").iterdir()} == set(manifests())


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "data_manifests").glob("*.yaml")))
def test_shipped_manifests(name, sources):
    manifest = read_manifest(name)
    assert manifest.citation and manifest.title
    for file in manifest.files:
        assert not file.insecure and (file.url or file.note)
        for value in (file.url, file.checksums_url, file.md5, file.sha256, file.unpacked_sha256):
            assert value in sources, f"{name}: {file.name}: {value} is not in SOURCES.md"
        assert file.bytes is None or f"{file.bytes:,}" in sources
        row = next((line for line in sources.splitlines() if file.url and f"{file.url} " in line), "")
        for value in (file.md5, file.sha256, file.unpacked_sha256, f"{file.bytes or '':,}" if file.bytes else ""):
            assert value in row, f"{name}: {file.name}: {value} is of another file in SOURCES.md"


def test_the_ten_species_share_homologene(shared_data):
    with gzip.open(shared_data / "homology" / "homologene_build68.tsv.gz", "rt") as table:
        taxa = {line.split("\t")[1] for line in table}
    for name, taxon in {**IN_ISOCLR, "yeast": 4932}.items():
        manifest = read_manifest(name)
        assert (manifest.species, manifest.taxon) == (name, taxon) and str(taxon) in taxa


def test_catalogue_and_cite_of_everything(tmp_path):
    table = catalogue(tmp_path)
    assert list(table.name) == list(manifests()) and set(table.cached) == {"no"}
    for name in manifests():
        text = cite(name, tmp_path)
        assert read_manifest(name).title in text and "not fetched" in text


@pytest.fixture
def yeast(house, shared_data, tmp_path) -> Path:
    "The manifest of yeast as it is shipped, its addresses led to a server of our own."
    content = yaml.safe_load((ROOT / "data_manifests" / "yeast.yaml").read_text())
    for file in content["files"]:
        folder = "genome" if file["role"] == "genome" else "annotation"
        house.pages["/" + file["name"]] = Ranged((shared_data / folder / file["name"]).read_bytes(), cuts=(200_000,))
        file.update(url=house.url("/" + file["name"]), insecure=True)
    path = tmp_path / "yeast.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_real_yeast(house, yeast, shared_data, tmp_path):
    from isoclr.data.genome import Genome

    source = species_source(yeast, tmp_path / "cache", transfer=QUICK)
    assert source == {"species": "yeast", "genome": str(tmp_path / "cache/yeast/sacCer3.fa"), "annotation": str(tmp_path / "cache/yeast/sacCer3.ensGene.gtf.gz")}
    found = verify(yeast, tmp_path / "cache")
    assert found.ok.all() and list(found.file) == ["sacCer3.fa.gz", "sacCer3.fa", "sacCer3.ensGene.gtf.gz"]
    with gzip.open(shared_data / "genome" / "sacCer3.fa.gz") as packed:
        assert Path(source["genome"]).read_bytes() == packed.read()
    assert len(Genome(source["genome"]).lengths) == 17
    assert len(house.asked) == 4, "two files, each taken up once"


def test_species_source_is_what_a_store_takes(yeast, tmp_path):
    from isoclr.data.build import SpeciesSource

    assert SpeciesSource.from_dict(species_source(yeast, tmp_path / "cache", transfer=QUICK)).species == "yeast"
    with pytest.raises(InputError, match="of kind homology, not a species. Species: celegans"):
        species_source("homologene", tmp_path)


# ---------------------------------------------------------------- command line


@pytest.fixture
def said(capsys):
    "Run the command, and give its exit code and what it wrote."

    def run(*arguments):
        code = cli.main([str(a) for a in arguments])
        heard = capsys.readouterr()
        return code, heard.out + heard.err

    return run


def test_data_list(said, tmp_path):
    code, text = said("data", "list", "--cache", tmp_path)
    assert code == 0 and str(tmp_path) in text
    assert re.search(r"(?m)^human +species +Human \(Homo sapiens\), hg38 +2 +> 938.1 MiB +no$", text)


def test_data_fetch_verify_cite(said, house, declare, tmp_path):
    house.pages["/toy.bin"] = BODY
    path, cache = declare(licence="CC0", citation=["Nobody 2026"]), tmp_path / "cache"
    code, text = said("data", "verify", path, "--cache", cache)
    assert code == 1 and "toy.bin  is missing" in text
    code, text = said("data", "fetch", path, "--cache", cache)
    assert code == 0 and f"labels  {cache / 'toy' / 'toy.bin'}" in text
    code, text = said("data", "verify", path, "--cache", cache)
    assert code == 0 and "held to first use" in text
    code, text = said("data", "cite", path, "--cache", cache)
    assert code == 0 and all(part in text for part in ("Toy", "Nobody 2026", "CC0", house.url("/toy.bin"), "retrieved 20", sha256(BODY)))
    (cache / "toy" / "toy.bin").write_bytes(b"x")
    code, text = said("data", "verify", path, "--cache", cache)
    assert code == 1 and "1 of 1 files" in text and "sha256 is" in text
    code, text = said("data", "fetch", path, "--cache", cache)
    assert code == 1 and "--update" in text
    house.pages["/toy.bin"] = b"new"
    assert said("data", "fetch", path, "--cache", cache, "--update")[0] == 0
    assert (cache / "toy" / "toy.bin").read_bytes() == b"new"


def test_data_commands_use_the_environment(said, house, declare, tmp_path, monkeypatch):
    house.pages["/toy.bin"] = BODY
    monkeypatch.setenv("ISOCLR_DATA", str(tmp_path / "elsewhere"))
    assert said("data", "fetch", declare())[0] == 0
    assert (tmp_path / "elsewhere" / "toy" / "toy.bin").exists()


def test_data_errors_are_one_message(said):
    code, text = said("data", "fetch", "humna")
    assert code == 1 and text.startswith("isoclr: There is no data set 'humna'") and "Traceback" not in text


def test_everything_checked_is_a_setting():
    assert issubclass(DataFile, Config) and issubclass(module.Manifest, Config)
    with pytest.raises(ConfigError, match="at least 1"):
        Transfer(attempts=0)
    assert json.dumps(read_manifest("human").to_dict())
