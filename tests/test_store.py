"""TranscriptStore: splicing against pyfaidx, the fixture's table, both formats alike, accounting, wrong input, killed builds and damage."""

import gzip
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyfaidx import Fasta

from isoclr.config import ConfigError, InputError
from isoclr.data.homology import read_homology
from isoclr.data.store import DROP_REASONS, SpeciesSource, StoreConfig, TranscriptStore, build_store
from isoclr.data.tracks import PAD, codon_starts, exon_ends, tracks_from_tokens, translate
from test_annotation import coding_positions, genepred, gtf, transcript_lists
from test_genome import write_fasta

ALL = StoreConfig(coding_only=False, max_length_nt=10**9)
REAL = {
    "human": ("hg38.regions.fa.gz", "hg38.regions.refseq.genePred.tsv.gz"),
    "mouse": ("mm10.regions.fa.gz", "mm10.regions.gencodeVM18.genePred.tsv.gz"),
    "chr19": ("GRCm39.chr19_1-5999940.fa.gz", "GRCm39.gencode.vM31.chr19.filtered.gtf.gz"),
    "yeast": ("sacCer3.bgz.fa.gz", "sacCer3.ensGene.gtf.gz"),
}


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    "A store of every transcript of a real species, and its FASTA unpacked, for pyfaidx; both made once."
    folder, made = tmp_path_factory.mktemp("real"), {}

    def make(species: str) -> tuple[TranscriptStore, str]:
        if species not in made:
            fasta, annotation = shared_data / "genome" / REAL[species][0], shared_data / "annotation" / REAL[species][1]
            plain = folder / f"{species}.fa"
            with gzip.open(fasta) as packed, open(plain, "wb") as out:
                shutil.copyfileobj(packed, out)
            if species == "chr19":  # the FASTA is the beginning of the chromosome: leave out transcripts that end beyond it
                with gzip.open(annotation, "rt") as text:
                    rows = [(row, row.partition('transcript_id "')[2].split('"')[0]) for row in text if not row.startswith("#")]
                beyond = {name for row, name in rows if int(row.split("\t")[4]) > 5_999_940}
                annotation = folder / "inside.gtf"
                annotation.write_text("".join(row for row, name in rows if name not in beyond))
            made[species] = (
                build_store(folder / species, [SpeciesSource(species, str(fasta), str(annotation))], config=ALL, progress=False),
                str(plain),
            )
        return made[species]

    return make


@pytest.mark.parametrize("species, rows", [("human", 1176), ("mouse", 902), ("yeast", 7127)])
def test_every_real_transcript_is_spliced_exactly(real, species, rows):
    store, fasta = real(species)
    chromosomes = Fasta(fasta, sequence_always_upper=True)
    assert len(store) == rows
    for i, row in enumerate(store.transcripts.itertuples()):
        exons = [chromosomes[row.chrom][start:end] for start, end in zip(row.exon_starts.tolist(), row.exon_ends.tolist())]
        expected = "".join(
            exon.seq if row.strand == "+" else exon.reverse.complement.seq for exon in exons[:: 1 if row.strand == "+" else -1]
        )
        assert store.sequence(i) == expected, row.transcript_id
        lengths = (row.exon_ends - row.exon_starts)[:: 1 if row.strand == "+" else -1]
        assert exon_ends(store.tokens(i)).tolist() == (np.cumsum(lengths) - 1).tolist()
        starts = codon_starts(store.tokens(i)).tolist()
        assert starts == (list(range(row.cds_start, row.cds_end, 3)) if row.cds_start >= 0 else [])  # all frames are 0 here
    store.validate()


# coding transcripts, ATG, stop codon, no internal stop, all four, genes, those of two isoforms, introns GT-AG/GC-AG/AT-AC, introns
TABLE = {
    "human": (917, 917, 915, 910, 910, 400, 216, 8445, 8465),
    "mouse": (645, 639, 641, 643, 636, 315, 167, 5995, 6021),
    "chr19": (261, 259, 261, 261, 259, 119, 70, 2187, 2190),
    "yeast": (6600, 6590, 6600, 6580, 6574, 6600, 0, 277, 313),
}


@pytest.mark.parametrize("species", TABLE)
def test_the_table_of_the_fixture_is_reproduced(real, species):
    store, fasta = real(species)
    chromosomes = {record.name: str(record) for record in Fasta(fasta, as_raw=True, sequence_always_upper=True)}
    checks, introns = [], []
    table = store.transcripts
    for i, row in enumerate(table.itertuples()):
        if row.cds_start < 0:
            continue
        first = codon_starts(store.tokens(i))[0]
        cds = store.sequence(i)[first : row.cds_end]
        protein = translate(cds)
        four = (cds.startswith("ATG"), protein.endswith("*"), "*" not in protein[:-1], len(cds) % 3 == 0)
        checks.append((*four[:3], all(four)))
        for end, start in zip(row.exon_ends[:-1], row.exon_starts[1:]):
            ends = chromosomes[row.chrom][end : end + 2] + chromosomes[row.chrom][start - 2 : start]
            introns.append(ends in (("GTAG", "GCAG", "ATAC") if row.strand == "+" else ("CTAC", "CTGC", "GTAT")))
    isoforms = table[table.cds_start >= 0].groupby("gene_id").size()
    assert (len(checks), *np.sum(checks, axis=0), len(isoforms), (isoforms > 1).sum(), sum(introns), len(introns)) == TABLE[species]


def test_the_store_holds_the_published_encoding(real, shared_reference):
    reference = dict(np.load(shared_reference / "six_tracks.npz"))
    for species in ("human", "mouse"):
        store, _ = real(species)
        for i, row in enumerate(store.transcripts.itertuples()):
            expected = reference.pop(f"{species}|{row.transcript_id}|{row.chrom}|{row.exon_starts[0]}", None)
            if expected is not None:
                tracks = tracks_from_tokens(torch.from_numpy(store.tokens(i).copy())[None])[0].T.numpy()
                assert np.array_equal(tracks, expected.astype(np.float32)), row.transcript_id
    assert not reference


def test_human_and_mouse_with_homology(shared_data, tmp_path):
    sources = [
        SpeciesSource(species, str(shared_data / "genome" / REAL[species][0]), str(shared_data / "annotation" / REAL[species][1]))
        for species in ("human", "mouse")
    ]
    homology = read_homology(shared_data / "homology" / "homologene_build68.tsv.gz", {"human": 9606, "mouse": 10090})
    began = time.perf_counter()
    store = build_store(tmp_path / "store", sources, homology, progress=False)
    assert time.perf_counter() - began < 30  # takes 1.5 s on an idle machine
    assert store.account.to_dict("index") == {
        "human": {"read": 1176, "kept": 914, "non_coding": 259, "too_long": 3},
        "mouse": {"read": 902, "kept": 642, "non_coding": 257, "too_long": 3},
    }
    assert len(store.dropped) == 262 + 260 and set(store.dropped.species) == {"human", "mouse"}
    table = store.transcripts
    assert store.species == ["human", "mouse"] and list(dict.fromkeys(table.species)) == ["human", "mouse"]
    assert table.length_nt.max() <= 12288 and table.gene_id.str.startswith(tuple(f"{s}:" for s in store.species)).all()
    assert set(table.group[table.gene_name.isin(["NOC2L", "Noc2l"])]) == {"human:NOC2L"}
    assert (table.groupby("gene_id").group.nunique() == 1).all()
    store.validate()


# simulated genomes


def sequences_for(transcripts, seed: int) -> dict[str, str]:
    rng = random.Random(seed)
    ends = {}
    for t in transcripts:
        ends[t["chrom"]] = max(ends.get(t["chrom"], 0), t["exons"][-1][1])
    return {chrom: "".join(rng.choices("ACGTNacgtR", k=end + rng.randrange(20))) for chrom, end in ends.items()}


def slow_sequence(chromosomes, t) -> str:
    letters = {"+": dict(zip("ACGTN", "ACGTN")), "-": dict(zip("ACGTN", "TGCAN"))}[t["strand"]]
    plus = [position for start, end in t["exons"] for position in range(start, end)]
    return "".join(
        letters[chromosomes[t["chrom"]][position].upper().replace("R", "N")] for position in (plus if t["strand"] == "+" else plus[::-1])
    )


def one_species(folder, fasta, annotation: str, name: str = "annotation") -> list[SpeciesSource]:
    (folder / name).write_text(annotation)
    return [SpeciesSource("s", str(fasta), str(folder / name))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(transcript_lists(), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_genepred_and_gtf_give_identical_stores(tmp_path_factory, transcripts, seed, coding_only, stop_inside):
    transcripts = [t if t["coding"][1] != 3 else {**t, "frame": 0} for t in transcripts]
    if coding_only and not any(t["coding"][1] for t in transcripts):
        coding_only = False
    folder, chromosomes = tmp_path_factory.mktemp("s"), sequences_for(transcripts, seed)
    config = StoreConfig(coding_only=coding_only)
    plain, packed = write_fasta(folder / "g.fa", chromosomes, 50), write_fasta(folder / "g.fa.gz", chromosomes, 17, packed=True)
    one = build_store(
        folder / "one",
        one_species(folder, plain, genepred(transcripts, "extended with bin", header=True), "x"),
        config=config,
        progress=False,
    )
    two = build_store(
        folder / "two", one_species(folder, packed, gtf(transcripts, stop_inside, random.Random(seed)), "y"), config=config, progress=False
    )
    pd.testing.assert_frame_equal(one.transcripts, two.transcripts)
    assert np.array_equal(one.nucleotides, two.nucleotides) and one.content_hash == two.content_hash
    assert one.info["build_id"] != two.info["build_id"]
    kept = [t for t in transcripts if t["coding"][1] or not coding_only]
    assert one.info["counts"]["s"] == two.info["counts"]["s"]
    assert one.transcripts.transcript_id.tolist() == [t["name"] for t in kept]
    for i, (row, t) in enumerate(zip(one.transcripts.itertuples(), kept)):
        assert one.sequence(i) == slow_sequence(chromosomes, t) and row.gene_id == f"s:{t['gene']}" == row.group
        before, length = t["coding"]
        assert (row.cds_start, row.cds_end) == ((before, before + length) if length else (-1, -1)) and len(coding_positions(t)) == length
        assert codon_starts(one.tokens(i)).tolist() == [before + k for k in range(length) if (k + t["frame"]) % 3 == 0]
        assert row.length_nt == len(one.tokens(i)) == sum(end - start for start, end in t["exons"])


def transcript(name, exons, coding=(0, 0), strand="+", chrom="chr1", gene=None):
    return {"name": name, "gene": gene or name, "chrom": chrom, "strand": strand, "exons": exons, "coding": coding, "frame": 0}


CODING = transcript("T1", [(10, 40), (60, 90)], (5, 30))


@pytest.fixture
def small(tmp_path):
    "A genome of two chromosomes."
    rng = random.Random(5)
    return write_fasta(tmp_path / "g.fa", {"chr1": "".join(rng.choices("ACGT", k=500)), "chr2": "".join(rng.choices("ACGT", k=300))})


def test_every_reason_to_drop_is_counted_and_listed(tmp_path, small):
    def row(name, feature, start, end, strand="+", chrom="chr1"):
        phase = 0 if feature == "CDS" else "."
        return f'{chrom}\tx\t{feature}\t{start}\t{end}\t.\t{strand}\t{phase}\tgene_id "{name}"; transcript_id "{name}";\n'

    def coding(name, start, end, chrom="chr1"):
        return row(name, "exon", start, end, chrom=chrom) + row(name, "CDS", start, end, chrom=chrom)

    content = (
        coding("keep", 11, 90)
        + coding("duplicate_sequence", 11, 90)
        + coding("too_long", 1, 400)
        + coding("too_short", 1, 9)
        + row("non_coding", "exon", 1, 90)
    )
    content += (
        coding("missing_chromosome", 1, 90, chrom="chrUn") + row("no_exons", "CDS", 1, 9) + coding("no_strand", 1, 50).replace("+", ".")
    )
    content += (
        coding("overlapping_exons", 1, 30)
        + row("overlapping_exons", "exon", 20, 60)
        + coding("cds_outside_exons", 1, 30)
        + row("cds_outside_exons", "CDS", 31, 40)
    )
    content += (row("repeated_id", "transcript", 1, 30) + row("repeated_id", "exon", 1, 30)) * 2
    sources = one_species(tmp_path, small, content)
    config = StoreConfig(min_length_nt=20, max_length_nt=300, distinct_sequences=True, skip_missing_chromosomes=True)
    store = build_store(tmp_path / "store", sources, config=config, progress=False)
    assert store.info["counts"]["s"] == {
        "read": 1 + len(DROP_REASONS),
        "kept": 1,
        "dropped": {name: 1 for name in DROP_REASONS},
        "unknown_nucleotides": 0,
    }
    assert dict(zip(store.dropped.transcript_id, store.dropped.reason)) == {name: name for name in DROP_REASONS}
    details = store.dropped.set_index("transcript_id").detail
    assert details["duplicate_sequence"] == "keep" and details["too_long"] == "400 nt" and details["missing_chromosome"] == "chrUn"
    assert store.transcripts.transcript_id.tolist() == ["keep"] and len(store.nucleotides) == 80
    everything = build_store(tmp_path / "more", sources, config=config.replace(coding_only=False, distinct_sequences=False), progress=False)
    assert everything.transcripts.transcript_id.tolist() == ["keep", "duplicate_sequence", "non_coding"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(transcript_lists(), st.integers(0, 60), st.integers(0, 60), st.booleans(), st.booleans())
def test_kept_and_dropped_add_up(tmp_path_factory, transcripts, low, more, coding_only, distinct):
    folder = tmp_path_factory.mktemp("s")
    config = StoreConfig(coding_only=coding_only, min_length_nt=low, max_length_nt=low + more, distinct_sequences=distinct)
    lengths = [sum(end - start for start, end in t["exons"]) for t in transcripts]
    expected = [t["name"] for t, length in zip(transcripts, lengths) if low <= length <= low + more and (t["coding"][1] or not coding_only)]
    sources = one_species(folder, write_fasta(folder / "g.fa", sequences_for(transcripts, 1)), genepred(transcripts, "extended"))
    if not expected:
        with pytest.raises(InputError, match="no transcript is left"):
            build_store(folder / "store", sources, config=config, progress=False)
        assert not (folder / "store").exists()
        return
    store = build_store(folder / "store", sources, config=config, progress=False)
    counts = store.info["counts"]["s"]
    assert counts["kept"] + sum(counts["dropped"].values()) == counts["read"] == len(transcripts)
    assert counts["kept"] == len(store) == len(store.transcripts) and len(store.dropped) == sum(counts["dropped"].values())
    names = store.transcripts.transcript_id.tolist()
    assert set(names) | set(store.dropped.transcript_id) == {t["name"] for t in transcripts}
    if distinct:
        sequences = [store.sequence(i) for i in range(len(store))]
        assert len(set(sequences)) == len(sequences) and set(names) | set(
            store.dropped.transcript_id[store.dropped.reason == "duplicate_sequence"]
        ) == set(expected)
    else:
        assert names == expected


# wrong input


def refused(tmp_path, sources, message, **settings_of):
    with pytest.raises(InputError, match=message) as error:
        build_store(tmp_path / "store", sources, progress=False, **settings_of)
    assert not (tmp_path / "store").exists() and not list(tmp_path.glob(".store*"))
    return str(error.value)


def test_annotation_with_other_chromosome_names(tmp_path, small):
    rows = [transcript("A", [(10, 40)], (0, 30), chrom="1"), transcript("B", [(10, 40)], (0, 30), chrom="MT")]
    message = refused(
        tmp_path, one_species(tmp_path, small, genepred(rows, "extended")), r"annotation:1: transcript A lies on '1', which .*g\.fa lacks"
    )
    assert "Names asked for: 1, MT; names in the FASTA: chr1, chr2." in message and "'1' is probably 'chr1'" in message
    assert "skip_missing" not in message
    refused(
        tmp_path,
        one_species(tmp_path, small, genepred(rows, "extended")),
        "'1' is probably 'chr1'",
        config=StoreConfig(skip_missing_chromosomes=True),
    )


def test_one_chromosome_missing(tmp_path, small):
    rows = [CODING, transcript("B", [(10, 40)], (0, 30), chrom="chr3_alt")]
    for content, line in ((genepred(rows, "extended", header=True), 3), (gtf(rows), 8)):
        sources = one_species(tmp_path, small, content)
        refused(tmp_path, sources, rf"annotation:{line}: transcript B lies on 'chr3_alt'.*skip_missing_chromosomes=True")
        store = build_store(
            tmp_path / "skipping", sources, config=StoreConfig(skip_missing_chromosomes=True), overwrite=True, progress=False
        )
        assert store.info["counts"]["s"]["dropped"] == {"missing_chromosome": 1}


def test_an_exon_beyond_the_end(tmp_path, small):
    rows = [CODING, transcript("B", [(250, 280), (290, 301)], (0, 30), chrom="chr2")]
    for content, line in ((genepred(rows, "extended", header=True), 3), (gtf(rows), 8)):
        refused(
            tmp_path,
            one_species(tmp_path, small, content),
            rf"annotation:{line}: transcript B has an exon that ends at 301, beyond the end of chr2 \(300 nt in .*g\.fa\)",
        )
    fits = [CODING, transcript("B", [(250, 280), (290, 300)], (0, 30), chrom="chr2")]
    assert len(build_store(tmp_path / "store", one_species(tmp_path, small, genepred(fits, "bare")), progress=False)) == 2


def test_missing_and_damaged_files(tmp_path, small):
    annotation = genepred([CODING], "extended")
    good = one_species(tmp_path, small, annotation)[0]
    refused(tmp_path, [good.replace(genome=str(tmp_path / "none.fa"))], r"none\.fa does not exist")
    refused(tmp_path, [good.replace(annotation=str(tmp_path / "none.gtf"))], r"none\.gtf does not exist")
    with gzip.open(tmp_path / "g.fa.gz", "wb") as out:
        out.write(small.read_bytes())
    refused(tmp_path, [good.replace(genome=str(tmp_path / "g.fa.gz"))], "bgzip > g.bgz.fa.gz")
    refused(tmp_path, one_species(tmp_path, small, annotation + annotation[:30]), "annotation:2: .*cut off")
    refused(tmp_path, one_species(tmp_path, small, gtf([CODING])[:-5], "cut.gtf"), "cut.gtf:7: ")
    one_species(tmp_path, small, annotation)
    (tmp_path / "x.fa").write_text(">chr1\n" + "ACGT!" * 100 + "\n")
    refused(tmp_path, [good.replace(genome=str(tmp_path / "x.fa"))], r"x\.fa, chr1: '!'")


def test_settings_that_do_not_fit(tmp_path, small):
    source = one_species(tmp_path, small, genepred([CODING], "extended"))[0]
    for make in (
        lambda: source.replace(species="a:b"),
        lambda: source.replace(species=""),
        lambda: StoreConfig(min_length_nt=10, max_length_nt=9),
        lambda: build_store(tmp_path / "s", [source, source]),
        lambda: build_store(tmp_path / "s", []),
    ):
        with pytest.raises(ConfigError):
            make()


# the folder


@pytest.fixture
def built(tmp_path, small):
    rows = [CODING, transcript("T2", [(100, 130)], (0, 30), "-", "chr2"), transcript("T3", [(5, 8), (20, 200)], (3, 99), "-")]
    sources = one_species(tmp_path, small, genepred(rows, "extended"))
    return build_store(tmp_path / "store", sources, progress=False), sources


def test_gather_pads_behind_the_end(built):
    store, _ = built
    tokens, lengths = store.gather([2, 0, 1, 0])
    assert tokens.dtype == np.uint8 and lengths.dtype == np.int32 and tokens.shape == (4, 183) and lengths.tolist() == [183, 60, 30, 60]
    for line, length, row in zip(tokens, lengths, [2, 0, 1, 0]):
        assert np.array_equal(line[:length], store.tokens(row)) and (line[length:] == PAD).all()
    assert store.gather([])[0].shape == (0, 0)
    with pytest.raises(IndexError):
        store.gather([3])


def test_tokens_are_read_only_and_workers_open_their_own(built):
    store, _ = built
    with pytest.raises(ValueError):
        store.tokens(0)[0] = 1
    assert len(pickle.dumps(store)) < 500
    again = pickle.loads(pickle.dumps(store))
    assert np.array_equal(again.nucleotides, store.nucleotides) and again.content_hash == store.content_hash


def test_building_again_returns_what_is_there(built, tmp_path):
    store, sources = built
    before = (tmp_path / "store" / "store.json").stat().st_mtime_ns
    assert build_store(tmp_path / "store", sources, progress=False).content_hash == store.content_hash
    assert (tmp_path / "store" / "store.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="built from other files or settings.*overwrite=True"):
        build_store(tmp_path / "store", sources, config=ALL, progress=False)
    assert TranscriptStore.open(tmp_path / "store").content_hash == store.content_hash
    other = build_store(tmp_path / "store", sources, config=StoreConfig(max_length_nt=70), overwrite=True, progress=False)
    assert len(other) == 2 and TranscriptStore.open(tmp_path / "store").content_hash == other.content_hash != store.content_hash


def test_a_folder_with_other_things_is_never_replaced(built, tmp_path):
    _, sources = built
    (tmp_path / "mine").mkdir()
    assert len(build_store(tmp_path / "mine", sources, progress=False)) == 3  # an empty folder is no loss
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is no store that opens"):
            build_store(tmp_path / "thesis", sources, overwrite=overwrite, progress=False)
    assert (tmp_path / "thesis" / "chapter1").read_text() == "years of work"


def test_the_same_input_gives_the_same_bytes(built, tmp_path):
    _, sources = built
    build_store(tmp_path / "again", sources, progress=False)
    for name in ("store.json", "nucleotides.npy", "transcripts.parquet", "dropped.parquet"):
        assert (tmp_path / "store" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_damage_is_found(built, tmp_path):
    def spoil(name, change):
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(tmp_path / "store", tmp_path / "bad")
        path = tmp_path / "bad" / name
        path.unlink() if change is None else path.write_bytes(change(path.read_bytes()))

    for name, change, message in [
        ("store.json", None, "holds no store"),
        ("store.json", lambda data: data[:-50], "is damaged"),
        ("store.json", lambda data: data.replace(b'"format_version": 1', b'"format_version": 2'), "is of format 2"),
        ("nucleotides.npy", None, "is damaged"),
        ("nucleotides.npy", lambda data: data[:-1], "is damaged"),
        ("nucleotides.npy", lambda data: b"", "is damaged"),
        ("transcripts.parquet", lambda data: data[:-9], "is damaged"),
        ("transcripts.parquet", None, "is damaged"),
        ("store.json", lambda data: data.replace(b'"n_transcripts": 3', b'"n_transcripts": 4'), "3 transcripts, where store.json says 4"),
    ]:
        spoil(name, change)
        with pytest.raises(InputError, match=message):
            TranscriptStore.open(tmp_path / "bad")
    spoil("nucleotides.npy", lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    with pytest.raises(InputError, match="does not have the hash"):
        TranscriptStore.open(tmp_path / "bad").validate()
    table = TranscriptStore.open(tmp_path / "store").transcripts
    for column, value in (("gene_name", "x"), ("cds_start", 1), ("length_nt", 59)):
        spoil("transcripts.parquet", lambda data: data)
        table.assign(**{column: [value, *table[column][1:]]}).to_parquet(tmp_path / "bad" / "transcripts.parquet")
        with pytest.raises(InputError, match="is damaged"):
            TranscriptStore.open(tmp_path / "bad").validate()
    TranscriptStore.open(tmp_path / "store").validate()
    with pytest.raises(InputError, match="none does not exist"):
        TranscriptStore.open(tmp_path / "none")


# builds that are killed

KILL = textwrap.dedent(
    """
    # Fork children that build a store and kill themselves (SIGKILL) at one moment each; argv: folder, sources as JSON, moments...
    import json, os, signal, sys
    from pathlib import Path
    import pandas as pd
    from isoclr.data import store as module

    folder, sources = Path(sys.argv[1]), [module.SpeciesSource(**source) for source in json.loads(sys.argv[2])]

    def die(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    def after(call):
        return lambda *args, **kwargs: (call(*args, **kwargs), die())

    def second(call, seen=[]):
        return lambda *args, **kwargs: die() if seen else (seen.append(1), call(*args, **kwargs))[1]

    def child(moment):
        def patch(owner, name, change):
            setattr(owner, name, change(getattr(owner, name)))
        {
            "read": lambda: patch(module, "read_annotation", after),
            "splice": lambda: patch(module, "splice", after),
            "second species": lambda: patch(module, "splice", second),
            "header": lambda: patch(module, "_write_npy_header", second),
            "table": lambda: patch(pd.DataFrame, "to_parquet", after),
            "second table": lambda: patch(pd.DataFrame, "to_parquet", second),
            "hash": lambda: patch(module, "_content_hash", after),
            "description": lambda: patch(Path, "write_text", after),
            "rename": lambda: patch(os, "replace", lambda call: die),
            "renamed": lambda: patch(os, "replace", after),
        }[moment]()
        module.build_store(folder / moment, sources, progress=False)

    for moment in sys.argv[3:]:
        process = os.fork()
        if process == 0:
            child(moment)
            os._exit(0)
        print(moment, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
    """
)
MOMENTS = ["read", "splice", "second species", "header", "table", "second table", "hash", "description", "rename", "renamed"]


def killed_sources(tmp_path, small):
    first = one_species(tmp_path, small, genepred([CODING], "extended"), "one")[0]
    second = one_species(tmp_path, small, gtf([CODING, transcript("T2", [(100, 130)], (0, 30), "-", "chr2")]), "two")[0]
    return [first.replace(species="a"), second.replace(species="b")]


def test_a_build_killed_at_any_moment_leaves_nothing_that_opens(tmp_path, small):
    sources = killed_sources(tmp_path, small)
    whole = build_store(tmp_path / "whole", sources, progress=False)
    (tmp_path / "kill.py").write_text(KILL)
    arguments = [sys.executable, tmp_path / "kill.py", tmp_path, json.dumps([source.to_dict() for source in sources]), *MOMENTS]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == [f"{moment} -9" for moment in MOMENTS], done.stderr
    for moment in MOMENTS:
        if moment == "renamed":  # killed right after: complete
            TranscriptStore.open(tmp_path / moment).validate()
        else:
            with pytest.raises(InputError, match="does not exist"):
                TranscriptStore.open(tmp_path / moment)
        again = build_store(tmp_path / moment, sources, progress=False)
        again.validate()
        assert again.content_hash == whole.content_hash
    assert not list(tmp_path.glob(".*.partial"))  # what the killed builds left is cleared away


KILLED = textwrap.dedent(
    """
    # Fork children that build a store and are killed after a while; argv: folder, source as JSON, seconds...
    import json, os, signal, sys, time
    from isoclr.data.store import SpeciesSource, build_store

    for attempt, seconds in enumerate(sys.argv[3:]):
        process = os.fork()
        if process == 0:
            build_store(os.path.join(sys.argv[1], f"store{attempt}"), [SpeciesSource(**json.loads(sys.argv[2]))], progress=False)
            os._exit(0)
        time.sleep(float(seconds))
        os.kill(process, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
    """
)


def test_builds_killed_from_outside(shared_data, tmp_path):
    "The same with the kill coming whenever it comes, while real data are read."
    source = SpeciesSource("mouse", str(shared_data / "genome" / REAL["mouse"][0]), str(shared_data / "annotation" / REAL["mouse"][1]))
    began = time.perf_counter()
    whole = build_store(tmp_path / "whole", [source], progress=False)
    duration = time.perf_counter() - began
    rng = random.Random(0)
    seconds = [rng.uniform(0.0, 1.1 * duration) for _ in range(12)]
    (tmp_path / "killed.py").write_text(KILLED)
    arguments = [sys.executable, tmp_path / "killed.py", tmp_path, json.dumps(source.to_dict()), *map(str, seconds)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    codes = done.stdout.split()
    assert len(codes) == 12 and set(codes) <= {"-9", "0"} and codes.count("-9") >= 3, done.stderr
    for attempt, code in enumerate(codes):
        path = tmp_path / f"store{attempt}"
        if path.exists():
            TranscriptStore.open(path).validate()
        else:
            assert code == "-9"
            with pytest.raises(InputError, match="does not exist"):
                TranscriptStore.open(path)
        assert build_store(path, [source], progress=False).content_hash == whole.content_hash
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".store")]
