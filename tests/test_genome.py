"""Genome: every read against pyfaidx or the plain text, indexes that lie, and files that are refused."""

import gzip
import os
import pickle
import random
import shutil
import time

import numpy as np
import pytest
from Bio import bgzf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyfaidx import Fasta

from isoclr.config import InputError
from isoclr.data import genome as module
from isoclr.data.genome import BASES, Genome, Interval, decode_bases, encode_bases, reverse_complement
from isoclr.data.text import PositionedText, bgzip_blocks, compression

LETTERS = {**{base: base for base in "ACGTN"}, "U": "T", **{letter: "N" for letter in "RYSWKMBDHVX"}}
PAIRS = {"A": "T", "C": "G", "G": "C", "T": "A", "N": "N"}


def meaning(text: str) -> str:
    "What isoclr takes a FASTA text for, letter by letter."
    return "".join(LETTERS[letter] for letter in text.upper())


def whole(genome: Genome, name: str) -> str:
    return genome.fetch(Interval(name, 0, genome.lengths[name]))


def write_fasta(path, sequences: dict[str, str], width: int = 60, end: str = "\n", packed: bool = False):
    lines = []
    for name, sequence in sequences.items():
        lines += [f">{name}", *(sequence[i : i + width] for i in range(0, len(sequence), width))]
    data = (end.join(lines) + end).encode()
    if packed:
        with bgzf.BgzfWriter(str(path)) as out:
            out.write(data)
    else:
        path.write_bytes(data)
    return path


nucleotides = st.text("ACGTNUacgtnuRYSWKMBDHVXry", max_size=300)


@given(nucleotides)
def test_codes_are_letters_one_by_one(text):
    codes = encode_bases(text)
    assert codes.dtype == np.uint8 and codes.tolist() == [BASES.index(letter) for letter in meaning(text)]
    assert decode_bases(codes) == meaning(text) and np.array_equal(encode_bases(text.encode()), codes)
    assert decode_bases(reverse_complement(codes)) == "".join(PAIRS[letter] for letter in reversed(meaning(text)))


@given(nucleotides, st.characters(exclude_characters="".join(LETTERS) + "".join(LETTERS).lower()), nucleotides)
def test_other_characters_are_refused_with_their_place(before, character, after):
    with pytest.raises(InputError, match=rf"position {len(before) + 1}\)"):
        encode_bases(before + character + after)


@pytest.mark.parametrize("start, end, strand", [(-1, 5, "+"), (5, 5, "+"), (6, 5, "-"), (0, 5, "."), (0, 5, "")])
def test_intervals_are_validated(start, end, strand):
    with pytest.raises(InputError, match="Interval c:"):
        Interval("c", start, end, strand)


genomes = st.dictionaries(
    st.sampled_from(["chr1", "chr2", "2", "chrM", "HSCHR1_alt", "NC_000001.11"]),
    st.text("ACGTNacgtnRY", min_size=1, max_size=150),
    min_size=1,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(genomes, st.integers(1, 70), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.data())
def test_reads_equal_the_text_and_pyfaidx(tmp_path_factory, sequences, width, end, packed, data):
    folder = tmp_path_factory.mktemp("genome")
    path = write_fasta(folder / ("g.fa.gz" if packed else "g.fa"), sequences, width, end, packed)
    genome = Genome(path)
    assert genome.lengths == {name: len(sequence) for name, sequence in sequences.items()} and list(genome.lengths) == list(sequences)
    other = Fasta(str(path), rebuild=False)
    for name, sequence in sequences.items():
        start = data.draw(st.integers(0, len(sequence) - 1))
        stop = data.draw(st.integers(start + 1, len(sequence)))
        expected = meaning(sequence[start:stop])
        for reader in (Genome(path), genome):  # with and without the chromosome in memory
            assert reader.fetch(Interval(name, start, stop)) == expected == meaning(str(other[name][start:stop]))
            assert reader.fetch(Interval(name, start, stop, "-")) == "".join(PAIRS[letter] for letter in reversed(expected))
            assert whole(genome, name) == meaning(sequence)


def test_many_bgzip_blocks(tmp_path):
    rng = random.Random(1)
    sequences = {f"c{i}": "".join(rng.choices("ACGTacgtN", k=rng.randrange(1, 200_000))) for i in range(6)}
    path = write_fasta(tmp_path / "g.fa.gz", sequences, packed=True)
    assert len(bgzip_blocks(path)) > 8
    genome, other = Genome(path), Fasta(str(path))
    for _ in range(200):
        name = rng.choice(list(sequences))
        start = rng.randrange(len(sequences[name]))
        stop = rng.randrange(start + 1, len(sequences[name]) + 1)
        assert genome.fetch(Interval(name, start, stop)) == meaning(sequences[name][start:stop]) == meaning(str(other[name][start:stop]))


def test_real_bgzip_equals_the_plain_text(shared_data):
    genome = Genome(shared_data / "genome" / "sacCer3.bgz.fa.gz")
    with gzip.open(shared_data / "genome" / "sacCer3.fa.gz", "rt") as text:
        records = text.read().split(">")[1:]
    assert [record.split("\n", 1)[0] for record in records] == list(genome.lengths)
    for record in records:
        name, sequence = record.split("\n", 1)
        assert whole(genome, name) == meaning(sequence.replace("\n", ""))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.data(), st.booleans(), st.integers(1, 70), st.sampled_from(["\n", "\r\n"]))
def test_splicing_equals_fetching_exon_by_exon(tmp_path_factory, data, packed, width, end):
    sequence = data.draw(st.text("ACGTNacgtR", min_size=30, max_size=400))
    genome = Genome(write_fasta(tmp_path_factory.mktemp("genome") / "g.fa", {"a": "ACGT", "c": sequence}, width, end, packed))
    at_once, module._SPLICED_AT_ONCE = module._SPLICED_AT_ONCE, data.draw(st.sampled_from([1, 50, module._SPLICED_AT_ONCE]))
    transcripts = []
    for _ in range(data.draw(st.integers(0, 5))):
        cuts = sorted(data.draw(st.sets(st.integers(0, len(sequence)), min_size=2, max_size=8)))
        transcripts.append((list(zip(cuts[::2], cuts[1::2])), data.draw(st.sampled_from("+-"))))
    exons = np.array([exon for exons, strand in transcripts for exon in exons[:: 1 if strand == "+" else -1]], int).reshape(-1, 2)
    offsets = np.cumsum([0, *(len(exons) for exons, _ in transcripts)])
    try:
        some = list(genome.splice("c", *exons.T, offsets, np.array([strand == "+" for _, strand in transcripts], bool)))
    finally:
        module._SPLICED_AT_ONCE = at_once
    assert [i for which, _ in some for i in range(which.start, which.stop)] == list(range(len(transcripts)))
    expected = [[genome.fetch(Interval("c", a, b, strand)) for a, b in (exons if strand == "+" else exons[::-1])] for exons, strand in transcripts]
    assert "".join(decode_bases(codes) for _, codes in some) == "".join("".join(parts) for parts in expected)


@pytest.mark.parametrize("packed", [False, True])
def test_pieces_of_text(tmp_path, packed):
    rng = random.Random(4)
    content = bytes(rng.choices(b"ACGT\n", k=400_000))
    (tmp_path / "plain").write_bytes(content)
    with bgzf.BgzfWriter(str(tmp_path / "packed")) as out:
        out.write(content)
    text = PositionedText(tmp_path / ("packed" if packed else "plain"))
    assert text.packed == packed and text.size == len(content) and text.stretches(np.array([], int), np.array([], int)) == []
    for n in (1, 2, 50):
        starts = np.array([rng.randrange(len(content)) for _ in range(n)])
        ends = np.array([rng.randint(start + 1, min(len(content), start + 10 ** rng.randrange(6))) for start in starts.tolist()])
        assert text.stretches(starts, ends) == [content[start:end] for start, end in zip(starts, ends)]
    assert text.read(399_990, 500_000) == content[-10:] and text.read(400_000, 400_010) == b""


def test_pickled_and_forked_genomes_read_on(tmp_path):
    genome = Genome(write_fasta(tmp_path / "g.fa.gz", {"a": "ACGTT" * 2000}, packed=True))
    whole(genome, "a")
    assert len(pickle.dumps(genome)) < 2000
    assert pickle.loads(pickle.dumps(genome)).fetch(Interval("a", 0, 5, "-")) == "AACGT"
    child = os.fork()
    if child == 0:
        os._exit(0 if genome.fetch(Interval("a", 9990, 10000)) == "ACGTTACGTT" else 1)
    assert genome.fetch(Interval("a", 1, 4)) == "CGT" and os.waitpid(child, 0)[1] == 0


# indexes


@pytest.mark.parametrize("packed", [False, True])
def test_a_missing_index_is_made_once(tmp_path, packed):
    path = write_fasta(tmp_path / ("g.fa.gz" if packed else "g.fa"), {"a": "ACGT" * 100, "b": "GG"}, packed=packed)
    Genome(path)
    index = tmp_path / f"{path.name}.fai"
    before = index.stat()
    assert Genome(path).lengths == {"a": 400, "b": 2}
    assert index.stat().st_mtime_ns == before.st_mtime_ns and sorted(p.name for p in tmp_path.iterdir()) == [path.name, index.name]


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    path = write_fasta(tmp_path / "g.fa", {"a": "ACGT"})

    def refuse(destination):
        raise PermissionError(13, "Permission denied", str(destination))

    monkeypatch.setattr(module, "atomic_file", refuse)
    assert Genome(path).fetch(Interval("a", 1, 3)) == "CG"
    assert [p.name for p in tmp_path.iterdir()] == ["g.fa"]


def other_width(folder):
    return {"chr1": "ACGTACGTAC" * 30, "chr2": "GGCCA" * 10}, 17


def longer(folder):
    return {"chr1": "ACGTACGTAC" * 30, "chr2": "GGCCA" * 20}, 60


def shorter(folder):
    return {"chr1": "ACGTACGTAC" * 20, "chr2": "GGCCA" * 10}, 60


def another_chromosome(folder):
    return {"chr1": "ACGTACGTAC" * 30, "chr2": "GGCCA" * 10, "chr3": "A" * 50}, 60


def renamed(folder):
    return {"chr9": "ACGTACGTAC" * 30, "chr8": "GGCCA" * 10}, 60


@pytest.mark.parametrize("changed", [other_width, longer, shorter, another_chromosome, renamed])
@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("packed", [False, True])
def test_an_index_of_another_file_is_made_anew(tmp_path, changed, older, packed):
    name = "g.fa.gz" if packed else "g.fa"
    path = write_fasta(tmp_path / name, {"chr1": "ACGTACGTAC" * 30, "chr2": "GGCCA" * 10}, packed=packed)
    Genome(path)
    sequences, width = changed(tmp_path)
    write_fasta(path, sequences, width, packed=packed)
    os.utime(f"{path}.fai", (time.time() + (-1000 if older else 1000),) * 2)
    for _ in range(2):
        genome = Genome(path)
        assert genome.lengths == {name: len(sequence) for name, sequence in sequences.items()}
        assert all(whole(genome, name) == sequence for name, sequence in sequences.items())


def test_a_good_index_with_an_old_date_is_used(tmp_path):
    path = write_fasta(tmp_path / "g.fa", {"a": "ACGT"})
    Genome(path)
    os.utime(f"{path}.fai", (1, 1))
    assert Genome(path).fetch(Interval("a", 0, 2)) == "AC"
    assert os.stat(f"{path}.fai").st_mtime == 1


@pytest.mark.parametrize(
    "spoil", ["", "chr1\n", "chr1\tx\t6\t60\t61\n", "chr1\t300\t6\t0\t0\n", "\x00\xff", "chr1\t300\t6\t60\t61\nchr1\t300\t6\t60\t61\n"]
)
def test_a_broken_or_half_written_index_is_made_anew(tmp_path, spoil):
    sequences = {"chr1": "ACGTACGTAC" * 30, "chr2": "GGCCA" * 10}
    path = write_fasta(tmp_path / "g.fa", sequences)
    Genome(path)
    whole = (tmp_path / "g.fa.fai").read_text()
    for content in [spoil, whole.splitlines(True)[0]]:
        (tmp_path / "g.fa.fai").write_text(content, encoding="latin-1")
        assert Genome(path).lengths == {"chr1": 300, "chr2": 50}
        assert (tmp_path / "g.fa.fai").read_text() == whole


def test_an_index_wrong_in_the_middle_is_found_before_a_base_is_read(tmp_path):
    path = write_fasta(tmp_path / "g.fa", {"a": "ACGT", "b": "CCCC", "c": "GGGG"})
    Genome(path)
    index = tmp_path / "g.fa.fai"
    index.write_text(index.read_text().replace("a\t4\t3", "a\t4\t11").replace("b\t4\t11", "b\t4\t3", 1))
    genome = Genome(path)
    assert genome.fetch(Interval("c", 0, 4)) == "GGGG"
    for read in (lambda: genome.fetch(Interval("b", 0, 4)), lambda: whole(genome, "a")):
        with pytest.raises(InputError, match="g.fa.fai does not fit .*Delete the .fai"):
            read()


# files that are refused


def gzipped(folder):
    with gzip.open(folder / "g.fa.gz", "wt") as out:
        out.write(">chr1\nACGT\n")
    return folder / "g.fa.gz"


def gzipped_under_another_name(folder):
    return shutil.move(gzipped(folder), folder / "g.fasta")


def text(content):
    def make(folder):
        (folder / "g.fa").write_bytes(content)
        return folder / "g.fa"

    return make


REFUSED = {
    "missing": (lambda folder: folder / "none.fa", r"none\.fa does not exist.*path"),
    "a folder": (lambda folder: folder, "is a folder"),
    "gzip": (gzipped, r"g\.fa\.gz is gzip.*gunzip -c g\.fa\.gz \| bgzip > g\.bgz\.fa\.gz"),
    "gzip without its suffix": (gzipped_under_another_name, r"is gzip.*bgzip"),
    "empty": (text(b""), "is empty"),
    "genePred": (text(b"585\tNR_1\tchr1\t+\n"), "is not FASTA.*'>name'"),
    "binary": (text(bytes(range(128, 256))), "is not FASTA"),
    "a name twice": (text(b">a\nACGT\n>a\nACGT\n"), "cannot be indexed.*once"),
    "no name": (text(b">\nACGT\n"), "cannot be indexed"),
    "uneven lines": (text(b">a\nACGT\nAC\nACGT\n"), "cannot be indexed.*equal length"),
}


@pytest.mark.parametrize("make, message", REFUSED.values(), ids=REFUSED)
def test_what_is_no_genome_is_refused(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        Genome(make(tmp_path))


def test_letters_that_are_no_nucleotides(tmp_path):
    genome = Genome(write_fasta(tmp_path / "g.fa", {"protein": "ACGTACGTACGTMKLV*"}, width=5))
    with pytest.raises(InputError, match=r"g\.fa, protein: 'L' \(position 15\)"):
        whole(genome, "protein")
    assert genome.fetch(Interval("protein", 0, 12)) == "ACGT" * 3


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, -28, -1])
def test_a_bgzip_file_that_was_cut_off(tmp_path, keep):
    rng = random.Random(2)
    path = write_fasta(tmp_path / "g.fa.gz", {"a": "".join(rng.choices("ACGT", k=300_000))}, packed=True)
    Genome(path)
    data = path.read_bytes()
    path.write_bytes(data[:keep] if keep < 0 else data[: int(len(data) * keep)])
    with pytest.raises(InputError, match=r"g\.fa\.gz.*cut off"):
        Genome(path)


def test_a_damaged_bgzip_block_is_an_error_not_a_sequence(tmp_path):
    rng = random.Random(3)
    path = write_fasta(tmp_path / "g.fa.gz", {"a": "".join(rng.choices("ACGT", k=300_000))}, packed=True)
    genome = Genome(path)
    data = bytearray(path.read_bytes())
    data[int(bgzip_blocks(path)[2, 0]) + 1000] ^= 16
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="block at byte .* is damaged"):
        whole(genome, "a")


def test_compression_is_told_by_content(tmp_path):
    assert compression(gzipped(tmp_path)) == "gzip"
    assert compression(write_fasta(tmp_path / "x", {"a": "ACGT"}, packed=True)) == "bgzip"
    assert compression(write_fasta(tmp_path / "y.gz", {"a": "ACGT"})) == "plain"
    assert Genome(tmp_path / "x").fetch(Interval("a", 0, 4)) == Genome(tmp_path / "y.gz").fetch(Interval("a", 0, 4)) == "ACGT"


@pytest.mark.parametrize(
    "names, asked, hint",
    [(["1", "MT"], "chr1", "'1'"), (["chr1", "chrM"], "MT", "'chrM'"), (["1", "MT"], "chrM", "'MT'"), (["chr1"], "1", "'chr1'")],
)
def test_unknown_chromosomes_suggest_the_other_spelling(tmp_path, names, asked, hint):
    genome = Genome(write_fasta(tmp_path / "g.fa", {name: "ACGT" for name in names}))
    with pytest.raises(InputError, match=f"no sequence '{asked}'.*names in the FASTA: {', '.join(names)}.*probably {hint}"):
        genome.fetch(Interval(asked, 0, 1))


def test_an_interval_beyond_the_end(tmp_path):
    genome = Genome(write_fasta(tmp_path / "g.fa", {"a": "ACGT"}))
    with pytest.raises(InputError, match=r"a:2-5 ends beyond a, which has 4 nt"):
        genome.fetch(Interval("a", 2, 5))
