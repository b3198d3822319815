"""Downloads from servers that break off, lie, are slow, or send us elsewhere."""
import gzip
import io

import pytest

from isoclr import transfer as module
from isoclr.config import ConfigError, InputError
from isoclr.data.manifest import DataFile
from isoclr.transfer import Transfer, downloaded
from serving import BODY, QUICK, Ranged, declare, get, house, left_over, md5, send, sha256  # noqa: F401 (fixtures among them)

# ---------------------------------------------------------------- interrupted, damaged, slow


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

    monkeypatch.setattr(module, "_append", full)
    with pytest.raises(InputError, match="No space left on device.*make room"):
        get(declare())


def test_progress_bar(house, declare, get, capsys):
    house.pages["/toy.bin"] = BODY
    get(declare(), QUICK.replace(progress=True))
    assert "toy.bin: 100%" in capsys.readouterr().err


def test_a_check_that_fails_leaves_what_was_there(house, tmp_path):
    house.pages["/toy.bin"] = BODY
    path = tmp_path / "toy.bin"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        with downloaded(house.url("/toy.bin"), path, insecure=True, transfer=QUICK) as arrived:
            assert arrived.read_bytes() == BODY
            1 / 0
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["toy.bin"]


def test_patience_is_checked():
    with pytest.raises(ConfigError, match="at least 1"):
        Transfer(attempts=0)


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
