"""Faults: builds that are killed at any moment, full disks, folders that cannot be written to, files that change while they are read."""

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap

import pytest

from isoclr.config import InputError, IsoclrError
from isoclr.data import build as module
from isoclr.data.build import SpeciesSource, StoreConfig, build_store
from isoclr.data.genome import Genome, Interval
from isoclr.data.store import TranscriptStore, concat_stores, write_store
from isoclr.files import atomic_file, atomic_folder
from test_annotation import genepred, gtf
from test_build import REAL, transcript
from test_genome import write_fasta


def two_species(folder, n: int = 40) -> list[SpeciesSource]:
    "Small, but of several pages of nucleotides."
    rng, sources = random.Random(3), []
    for species, write in (("a", lambda rows: genepred(rows, "extended")), ("b", gtf)):
        chromosomes = {name: "".join(rng.choices("ACGT", k=4000)) for name in ("chr1", "chr2")}
        rows = []
        for i in range(n):
            start = rng.randrange(2000)
            exons = [(start, start + 300), (start + 400, start + 500 + i)]
            rows.append(transcript(f"{species}{i}", exons, (9, 90) if i % 5 else (0, 0), rng.choice("+-"), rng.choice(["chr1", "chr2"])))
        (folder / species).write_text(write(rows))
        sources.append(SpeciesSource(species, str(write_fasta(folder / f"{species}.fa", chromosomes)), str(folder / species)))
        Genome(sources[-1].genome)  # its index is there from now on
    return sources


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return two_species(tmp_path_factory.mktemp("sources"))


OLD = StoreConfig(max_length_nt=420)  # another store, to be overwritten


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return two_species(tmp_path_factory.mktemp("few"), 8)


@pytest.fixture(scope="module")
def whole(sources, tmp_path_factory):
    "What the builds are to make."
    return build_store(tmp_path_factory.mktemp("whole") / "store", sources, progress=False)


@pytest.fixture(scope="module")
def old(sources, tmp_path_factory):
    return build_store(tmp_path_factory.mktemp("old") / "store", sources, config=OLD, progress=False)


def python(script: str, *arguments, timeout: int = 300) -> list[str]:
    "Lines that a Python program of its own prints."
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def described(sources) -> str:
    return json.dumps([source.to_dict() for source in sources])


# builds that are killed

MOMENTS = """
    # Fork children that build a store, and kill themselves (SIGKILL) before their n-th step that touches the folder of the destination.
    # argv: folder of the destinations, sources as JSON, folder of an old store to be overwritten ("" for none), 1 to use an executor
    import json, os, shutil, signal, sys
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path
    import pyarrow.parquet as pq
    from isoclr.data.build import SpeciesSource, build_store

    folder, sources = sys.argv[1], [SpeciesSource(**source) for source in json.loads(sys.argv[2])]

    def child(path, last, out):
        seen = [0]

        def step(*_):
            seen[0] += 1
            if seen[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)

        def hook(event, arguments):
            if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
                name = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes, os.PathLike)) else ""
                if name.startswith(folder) or (event in ("os.remove", "os.rmdir") and not os.path.isabs(name)):  # rmtree names files by their folder
                    step()

        sys.addaudithook(hook)
        write = pq.write_table  # opens its file unseen
        pq.write_table = lambda *args, **kwargs: (step(), write(*args, **kwargs), step())
        with ThreadPoolExecutor(2) as pool:
            build_store(path, sources, progress=False, overwrite=bool(sys.argv[3]), executor=pool if sys.argv[4] == "1" else None)
        os.write(out, str(seen[0]).encode())

    moment, steps = 0, None
    while steps is None or moment <= steps:
        path = os.path.join(folder, f"store{moment}")
        if sys.argv[3]:
            shutil.copytree(sys.argv[3], path)
        read, write = os.pipe()
        process = os.fork()
        if process == 0:
            child(path, moment, write)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        os.close(write)
        said = os.read(read, 20)
        os.close(read)
        if moment == 0:
            steps = int(said)
        print(moment, code, flush=True)
        moment += 1
"""


@pytest.mark.parametrize("executor, overwrite", [(False, False), (True, True)])
def test_a_build_killed_before_any_of_its_steps(few, tmp_path_factory, tmp_path, overwrite, executor):
    elsewhere, sources = tmp_path_factory.mktemp("k"), few
    whole, old = (build_store(elsewhere / name, sources, config=config, progress=False) for name, config in (("whole", StoreConfig()), ("old", OLD)))
    lines = python(MOMENTS, tmp_path, described(sources), old.path if overwrite else "", int(executor))
    codes = [int(line.split()[1]) for line in lines]
    assert codes[0] == 0 and len(codes) > 8 and codes.count(-9) >= len(codes) - 3, codes  # with an executor, steps side by side may go uncounted
    absent = []
    for moment in range(len(codes)):
        path = tmp_path / f"store{moment}"
        if path.exists():
            there = TranscriptStore.open(path)
            there.validate()
            assert there.content_hash in ({old.content_hash, whole.content_hash} if overwrite else {whole.content_hash})
        else:
            absent.append(moment)
            with pytest.raises(InputError, match="does not exist"):
                TranscriptStore.open(path)
        again = build_store(path, sources, progress=False, overwrite=overwrite)
        again.validate()
        assert again.content_hash == whole.content_hash
        for name in ("store.json", "transcripts.parquet", "dropped.parquet", "nucleotides.npy"):
            assert (path / name).read_bytes() == (whole.path / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"store{moment}" for moment in range(len(codes)))  # nothing is left over
    assert len(absent) <= 1 if overwrite else absent and absent[0] == 1  # between two renames there is no store at the path


def test_an_old_store_is_not_lost_between_the_two_renames(sources, old, whole, tmp_path):
    shutil.copytree(old.path, tmp_path / "store")
    killed = """
        import json, os, signal, sys
        from isoclr.data.build import SpeciesSource, build_store
        rename, seen = os.replace, []
        os.replace = lambda *args: os.kill(os.getpid(), signal.SIGKILL) if seen else (seen.append(1), rename(*args))
        if os.fork() == 0:
            build_store(sys.argv[1], [SpeciesSource(**source) for source in json.loads(sys.argv[2])], progress=False, overwrite=True)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
    """
    assert python(killed, tmp_path / "store", described(sources)) == ["-9"]
    if not (tmp_path / "store").exists():
        with pytest.raises(InputError):  # a writer that fails for its own reasons
            write_store(tmp_path / "store", whole.transcripts.drop(columns="offset"), [])
    there = TranscriptStore.open(tmp_path / "store")
    there.validate()
    assert there.content_hash == old.content_hash and os.listdir(tmp_path) == ["store"]


def test_an_old_store_comes_back_where_the_new_one_cannot_be_put_in_its_place(sources, old, tmp_path, monkeypatch):
    shutil.copytree(old.path, tmp_path / "store")
    rename = os.replace

    def second_fails(source, target):
        if str(source).endswith(".partial"):
            raise OSError(5, "Input/output error", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises((OSError, IsoclrError)):
        build_store(tmp_path / "store", sources, progress=False, overwrite=True)
    monkeypatch.undo()
    TranscriptStore.open(tmp_path / "store").validate()
    assert TranscriptStore.open(tmp_path / "store").content_hash == old.content_hash and os.listdir(tmp_path) == ["store"]


@pytest.mark.parametrize("write", [atomic_folder, atomic_file])
def test_writers_of_other_names_are_left_alone(tmp_path, write):
    "A name that begins as another does, and goes on with a number that no process has."
    def fill(partial):
        (partial / "x" if write is atomic_folder else partial).write_text("x")

    with write(tmp_path / "s.99999999") as other:
        fill(other)
        with write(tmp_path / "s") as partial:
            fill(partial)
        assert other.exists()
    assert sorted(os.listdir(tmp_path)) == ["s", "s.99999999"]


@pytest.mark.parametrize("name", ["s", "s.1", "s[1]", "s*", "s t"])
def test_leftovers_of_any_name_are_cleared(tmp_path, name):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    (tmp_path / f".{name}.{process.pid}.0123abcd.partial").mkdir()
    (tmp_path / f".{name}.{process.pid}.0123abcd.partial" / "x").write_text("x")
    (tmp_path / f".{name}.{os.getpid()}.0123abcd.partial").mkdir()  # of a process that is at work
    with atomic_folder(tmp_path / name) as partial:
        (partial / "y").write_text("y")
    assert sorted(os.listdir(tmp_path)) == sorted([name, f".{name}.{os.getpid()}.0123abcd.partial"])


KILLED = """
    # Fork children that build a store and are killed after a while; argv: folder, sources as JSON, folder of an old store, how many
    import json, os, shutil, signal, sys, time
    from isoclr.data.build import SpeciesSource, build_store

    folder, sources, n = sys.argv[1], [SpeciesSource(**source) for source in json.loads(sys.argv[2])], int(sys.argv[4])

    def build(path, seconds):
        if sys.argv[3]:
            shutil.copytree(sys.argv[3], path)
        process, began = os.fork(), time.perf_counter()
        if process == 0:
            build_store(path, sources, progress=False, overwrite=True)
            os._exit(0)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(process, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return time.perf_counter() - began, code

    duration = min(build(os.path.join(folder, f"whole{i}"), None)[0] for i in range(2))
    for attempt in range(n):
        print(build(os.path.join(folder, f"store{attempt}"), duration * 0.95 * (attempt + 0.5) / n)[1], flush=True)
"""


def test_builds_killed_from_outside(shared_data, tmp_path):
    "The kill comes whenever it comes, while real data are read: sixty times, half of them over an old store."
    source = SpeciesSource("mouse", str(shared_data / "genome" / REAL["mouse"][0]), str(shared_data / "annotation" / REAL["mouse"][1]))
    whole = build_store(tmp_path / "whole", [source], progress=False)
    old = build_store(tmp_path / "old", [source], config=OLD, progress=False)
    killed = 0
    for kind in ("new", "over"):
        (tmp_path / kind).mkdir()
        codes = python(KILLED, tmp_path / kind, described([source]), old.path if kind == "over" else "", 30)
        assert len(codes) == 30 and set(codes) <= {"-9", "0"}
        killed += codes.count("-9")
        for attempt, code in enumerate(codes):
            path = tmp_path / kind / f"store{attempt}"
            if path.exists():
                there = TranscriptStore.open(path)
                there.validate()
                assert there.content_hash == whole.content_hash or (kind == "over" and code == "-9" and there.content_hash == old.content_hash)
            else:
                assert code == "-9"
                with pytest.raises(InputError, match="does not exist"):
                    TranscriptStore.open(path)
            assert build_store(path, [source], progress=False, overwrite=True).content_hash == whole.content_hash
        assert not [name for name in os.listdir(tmp_path / kind) if name.startswith(".")]
    assert killed >= 50


# full disks

class SmallDisk:
    "A folder that is a file system of its own, of any size."

    def __init__(self, path):
        self.path = path
        path.mkdir()

    def mount(self, options: str) -> None:
        self.unmount()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")

    def unmount(self) -> None:
        if os.path.ismount(self.path):
            subprocess.run(["umount", "-l", str(self.path)], check=True)  # lazily: what is still mapped keeps its memory


@pytest.fixture
def disk(tmp_path):
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a file system")
    small = SmallDisk(tmp_path / "disk")
    yield small
    small.unmount()


@pytest.fixture(scope="module")
def writers(sources, whole, tmp_path_factory):
    "All that writes, as functions of a destination."
    from concurrent.futures import ThreadPoolExecutor

    folder = tmp_path_factory.mktemp("writers")
    parts = [whole.subset(folder / species, whole.transcripts.species == species) for species in whole.species]
    pool = ThreadPoolExecutor(2)
    yield {
        "build": lambda path: build_store(path, sources, progress=False),
        "side by side": lambda path: build_store(path, sources, progress=False, executor=pool),
        "subset": lambda path: whole.subset(path, slice(None)),
        "concat": lambda path: concat_stores(path, parts),
        "fasta": whole.to_fasta,
        "parquet": lambda path: whole.to_parquet(path, 16),
    }
    pool.shutdown()


WRITERS = ["build", "side by side", "subset", "concat", "fasta", "parquet"]


def try_to_write(write, folder) -> bool:
    "Whether it works; where it does not, the error says why and nothing is left."
    try:
        write(folder / "made")
    except IsoclrError as error:
        assert str(folder / "made") in str(error) and ("No space left on device" in str(error) or "File too large" in str(error)), error
        assert os.listdir(folder) == []
        return False
    made = folder / "made"
    if made.is_dir():
        TranscriptStore.open(made).validate()
    assert os.listdir(folder) == ["made"]
    return True


@pytest.mark.parametrize("what", WRITERS)
def test_a_full_disk(disk, writers, what):
    "Of more and more pages, and of more and more files, until all fits: the disk is full at every step in turn."
    for options in ([f"size={4 * pages}k" for pages in (*range(1, 12), *range(12, 60, 4))], [f"size=1m,nr_inodes={files}" for files in range(1, 12)]):
        outcomes = []
        while not any(outcomes):
            disk.mount(options[len(outcomes)])
            outcomes.append(try_to_write(writers[what], disk.path))
        assert len(outcomes) >= 2


def test_a_full_disk_leaves_an_old_store_as_it_was(disk, sources, old, whole):
    worked, refusals, kib = False, 0, 48
    while not worked:
        disk.mount(f"size={kib}k")
        shutil.copytree(old.path, disk.path / "store")
        try:
            build_store(disk.path / "store", sources, progress=False, overwrite=True)
            worked = True
        except IsoclrError as error:
            assert "No space left" in str(error)
            refusals += 1
        there = TranscriptStore.open(disk.path / "store")
        there.validate()
        assert there.content_hash == (whole if worked else old).content_hash and os.listdir(disk.path) == ["store"]
        kib += 8
    assert refusals >= 2


LIMITED = """
    # Build where no file may grow beyond a size, as a quota would have it; argv: folder, sources as JSON
    import json, os, resource, sys
    from isoclr.config import IsoclrError
    from isoclr.data.build import SpeciesSource, build_store

    folder, sources = sys.argv[1], [SpeciesSource(**source) for source in json.loads(sys.argv[2])]
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    for size in [0, 1, 100, 129, 1000, 2500, 4096, 6000, 8000, 12000, 20000, 30000, 40000]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            build_store(os.path.join(folder, "store"), sources, progress=False)
            print(json.dumps(["made", os.listdir(folder)]), flush=True)
            break
        except Exception as error:
            print(json.dumps([isinstance(error, IsoclrError), f"{type(error).__name__}: {error}", os.listdir(folder)]), flush=True)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
        build_store(os.path.join(folder, "store"), sources, progress=False).validate()
        print(json.dumps(["made", os.listdir(folder)]), flush=True)
"""


def test_files_that_may_not_grow(sources, tmp_path):
    "The same without the right to mount."
    *refused, made = [json.loads(line) for line in python(LIMITED, tmp_path, described(sources))]
    assert made == ["made", ["store"]] and len(refused) > 5
    for ours, message, left in refused:
        assert ours and str(tmp_path / "store") in message and "File too large" in message and left == []


# folders that cannot be written to

@pytest.mark.parametrize("what", WRITERS)
def test_a_folder_that_cannot_be_written_to(tmp_path, writers, what):
    folder = tmp_path / "shut"
    folder.mkdir()
    root = os.geteuid() == 0
    if root:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"root may write everywhere, and no file system can be mounted here: {done.stderr.strip()}")
    else:
        folder.chmod(0o555)
    try:
        for path in (folder / "made", folder / "new" / "made"):
            with pytest.raises(IsoclrError, match="(Read-only file system|Permission denied).*folder") as error:
                writers[what](path)
            assert str(path) in str(error.value)
        assert os.listdir(folder) == []
    finally:
        subprocess.run(["umount", str(folder)], check=True) if root else folder.chmod(0o755)


@pytest.mark.parametrize("what", ["build", "fasta"])
def test_a_destination_inside_a_file(tmp_path, writers, what):
    (tmp_path / "file").write_text("x")
    with pytest.raises(IsoclrError, match="file"):
        writers[what](tmp_path / "file" / "made")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_genome_on_a_full_or_read_only_disk_is_read(disk, state):
    "Its index cannot be left beside it, and is made again each time."
    disk.mount("size=64k")
    (disk.path / "g.fa").write_text(">chr1\n" + "ACGTT\n" * 3000)
    if state == "full":
        with open(disk.path / "filler", "wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(b"x" * 4096)
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(disk.path)], check=True)
    before = os.listdir(disk.path)
    for _ in range(2):
        assert Genome(disk.path / "g.fa").fetch(Interval("chr1", 14_995, 15_000)) == "ACGTT"
        assert os.listdir(disk.path) == before


# files that change while they are read

SHORTENED = """
    # Build in forks while the FASTA is cut off at a moment each; argv: folder, source as JSON
    import json, mmap, os, shutil, sys
    from pathlib import Path
    from isoclr.config import IsoclrError
    from isoclr.data.build import SpeciesSource, build_store
    from isoclr.data.genome import Genome

    folder, source = sys.argv[1], SpeciesSource(**json.loads(sys.argv[2])[0])

    def child(moment):
        here, done = os.path.join(folder, moment), []
        os.mkdir(here)
        fasta = os.path.join(here, os.path.basename(source.genome))
        shutil.copyfile(source.genome, fasta)
        splice, pread = Genome.splice, os.pread

        def shorten():
            if not done:
                done.append(1)
                os.truncate(fasta, os.path.getsize(fasta) // 3)

        class Map(mmap.mmap):
            def __new__(cls, file, *args, **kwargs):
                made = super().__new__(cls, file, *args, **kwargs)
                if file >= 0 and os.path.realpath(f"/proc/self/fd/{file}") == os.path.realpath(fasta):
                    shorten()
                return made

        def before_splicing(self, *args):
            shorten()
            return splice(self, *args)

        def while_splicing(self, *args):
            seen = []

            def second(*args):
                seen.append(1)
                if len(seen) == 2:
                    shorten()
                return pread(*args)

            os.pread = second
            return splice(self, *args)

        if moment == "mapped":
            mmap.mmap = Map
        else:
            Genome.splice = before_splicing if moment == "opened" else while_splicing
        try:
            build_store(os.path.join(here, "out", "store"), [source.replace(genome=fasta)], progress=False)
            said = "made"
        except IsoclrError as error:
            said = f"refused {error}" if fasta in str(error) else f"bad message {error}"
        print(json.dumps([moment, bool(done), said, [path.name for path in Path(here, "out").iterdir()]]), flush=True)

    for moment in ("opened", "mapped", "read"):
        process = os.fork()
        if process == 0:
            child(moment)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code:
            print(json.dumps([moment, True, f"exit {code}", []]), flush=True)
"""


@pytest.mark.parametrize("packed", [False, True])
def test_a_fasta_that_is_cut_off_during_the_build(tmp_path, packed):
    "An error of the package, and no signal that ends the process, as reading beyond the end of a mapped file would be."
    rng = random.Random(1)
    fasta = write_fasta(tmp_path / "g.fa", {f"chr{i}": "".join(rng.choices("ACGT", k=200_000)) for i in range(3)}, packed=packed)
    rows = [transcript(f"T{i}", [(i * 9_000, i * 9_000 + 500)], (0, 30), "+", f"chr{i % 3}") for i in range(22)]
    (tmp_path / "a").write_text(genepred(rows, "extended"))
    lines = [json.loads(line) for line in python(SHORTENED, tmp_path, described([SpeciesSource("s", str(fasta), str(tmp_path / "a"))]))]
    assert [moment for moment, *_ in lines] == ["opened", "mapped", "read"]
    for moment, came, said, left in lines:
        if came or moment == "opened":
            assert said.startswith("refused") and left == [], (moment, said)
        else:  # the moment never came: it is read in another way
            assert said == "made" and left == ["store"]
    assert sum(came for _, came, *_ in lines) >= 2


@pytest.mark.parametrize("kind", ["genome", "annotation", "appris", "genes"])
@pytest.mark.parametrize("change", ["longer", "rewritten"])
def test_a_source_that_changes_during_the_build(tmp_path, monkeypatch, kind, change):
    "What was read is not what its checksum says: no store is made of it."
    (source, _) = two_species(tmp_path, 5)
    (tmp_path / "appris").write_text("".join(f"g\tG\ta{i}\t-\tPRINCIPAL:1\n" for i in range(5)))
    (tmp_path / "genes").write_text("".join(f"a{i}\tG{i}\n" for i in range(5)))
    source = source.replace(appris=str(tmp_path / "appris"), genes=str(tmp_path / "genes"))
    path, choose = getattr(source, kind), module.choose

    def meanwhile(*args, **kwargs):
        data = open(path, "rb").read()
        with open(path, "wb") as out:
            out.write(data + data[-40:] if change == "longer" else data.translate(bytes.maketrans(b"ACGT1", b"CATG2")))
        os.utime(path, ns=(1, os.stat(path).st_mtime_ns + 10**9))
        return choose(*args, **kwargs)

    monkeypatch.setattr(module, "choose", meanwhile)
    with pytest.raises(InputError, match="chang|something writes") as error:
        build_store(tmp_path / "store", [source], progress=False)
    assert path in str(error.value) and not (tmp_path / "store").exists() and not list(tmp_path.glob(".store*"))
