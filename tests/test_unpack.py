"""Archives and packed files from elsewhere: names, links, bombs, damage."""
import gzip
import io
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import InputError
from isoclr.data.manifest import verify
from isoclr.unpack import extract, gunzip, stays_inside
from serving import BAD_NAMES, BODY, declare, get, house, left_over, sha256  # noqa: F401 (fixtures among them)


@given(st.lists(st.sampled_from(["a", "..", ".", "", "b.c", "C:", "...", "~"]), max_size=5), st.sampled_from("/\\"))
def test_what_stays_inside_stays_inside(parts, slash):
    "Oracle: Windows' and POSIX' own arithmetic of paths."
    import ntpath
    import posixpath

    name = slash.join(parts)
    if stays_inside(name):
        assert ntpath.normpath(ntpath.join("D:\\cache", name)).startswith("D:\\cache\\")
        assert posixpath.normpath(posixpath.join("/cache", name)).startswith("/cache/")


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
    with pytest.raises(InputError, match="could lead out of the folder"):
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


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_archives_see_only_our_errors(tmp_path_factory, data):
    unpack, packed = data.draw(st.sampled_from([
        (extract, zipped(("a/x", b"hello"), ("b", b"world"))), (extract, tarred(("a/x", b"hello"), ("b", b"world"))),
        (extract, tarred(("a/x", b"hello"), ("b", b"world"), way="w")), (gunzip, gzip.compress(b"hello")),
    ]))
    mutated = bytearray(packed)
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, len(packed) - 1), st.integers(0, 255)), min_size=1, max_size=6)):
        mutated[place] = byte
    folder = tmp_path_factory.mktemp("mutated")
    (folder / "out").mkdir()
    (folder / "packed").write_bytes(mutated)
    try:
        unpack(folder / "packed", folder / "out" if unpack is extract else folder / "out" / "x")
    except InputError:
        pass
    assert sorted(p.name for p in folder.iterdir()) == ["out", "packed"]


@pytest.mark.parametrize("name", ["", ".", "./"])
def test_a_member_without_a_name(tmp_path, name):
    (tmp_path / "toy.zip").write_bytes(zipped((name, b"1")))
    (tmp_path / "out").mkdir()
    try:
        extract(tmp_path / "toy.zip", tmp_path / "out")
    except InputError as error:
        assert "could lead out" in str(error)
    assert not list((tmp_path / "out").iterdir())


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
    with pytest.raises(InputError, match="does not unpack to what the manifest states: sha256 is"):
        get(declare({"name": "toy.fa.gz", "unpack": "gunzip", "unpacked_sha256": sha256(b"other")}))
    assert "toy.fa" not in left_over(tmp_path)
