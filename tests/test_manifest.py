"""Manifests: what they may say, and what is fetched, kept and verified because they say so."""
import concurrent.futures
import gzip
import json
import multiprocessing
import os
import random
import re
import threading
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr import cli
from isoclr.config import Config, ConfigError, InputError, IsoclrError
from isoclr.data.manifest import (DataFile, Manifest, cache_folder, catalogue, cite, fetch, manifests, read_lock, read_manifest, species_source,
                                  verify)
from serving import BAD_NAMES, BODY, QUICK, Ranged, declare, get, house, left_over, md5, send, sha256  # noqa: F401 (fixtures among them)

ROOT = Path(__file__).parents[1]


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


@pytest.mark.parametrize("name", [*BAD_NAMES, ".hidden", "a/.part", "lock.json"])
def test_names_that_leave_the_cache_are_refused(name):
    with pytest.raises(ConfigError, match="file name"):
        DataFile("labels", name)


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
    assert issubclass(DataFile, Config) and issubclass(Manifest, Config)
    assert json.dumps(read_manifest("human").to_dict())
