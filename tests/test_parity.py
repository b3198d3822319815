"""Parity: every real transcript against an encoder that goes exon by exon, the published encodings, and the table of the fixture."""

import csv
import gzip
import shutil

import numpy as np
import pytest
import torch
from pyfaidx import Fasta

from isoclr.data.annotation import read_annotation
from isoclr.data.build import SpeciesSource, StoreConfig, build_store
from isoclr.data.store import TranscriptStore
from isoclr.data.tracks import codon_starts, exon_ends, tracks_from_tokens, translate
from test_build import ALL, REAL

PUBLISHED = StoreConfig(frame="published", coding_only=False, max_length_nt=10**9)


def source_of(shared_data, species: str) -> SpeciesSource:
    return SpeciesSource(species, str(shared_data / "genome" / REAL[species][0]), str(shared_data / "annotation" / REAL[species][1]))


@pytest.fixture(scope="module")
def unpacked(shared_data, tmp_path_factory):
    "The FASTA of a species unpacked, for pyfaidx."
    folder, made = tmp_path_factory.mktemp("unpacked"), {}

    def make(species: str) -> Fasta:
        if species not in made:
            with gzip.open(shared_data / "genome" / REAL[species][0]) as packed, open(folder / species, "wb") as out:
                shutil.copyfileobj(packed, out)
            made[species] = Fasta(str(folder / species), sequence_always_upper=True)
        return made[species]

    return make


@pytest.fixture(scope="module")
def published(shared_data, tmp_path_factory):
    "Human and mouse regions in one store, codons counted as the published encodings do."
    return build_store(tmp_path_factory.mktemp("p") / "store", [source_of(shared_data, name) for name in ("human", "mouse")], config=PUBLISHED, progress=False)


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    "A store of every transcript of a real species that lies in its FASTA."
    folder, made = tmp_path_factory.mktemp("real"), {}

    def make(species: str) -> TranscriptStore:
        if species not in made:
            source, config = source_of(shared_data, "human" if species == "chr20" else species), ALL
            if species == "chr20":  # the original RefSeq; the FASTA's chr1 is compacted, so chr20 alone
                with gzip.open(shared_data / "annotation" / "hg38_RefSeq.bed.gz", "rt") as text:
                    (folder / "chr20.bed").write_text("".join(row for row in text if row.startswith("chr20\t")))
                source = source.replace(annotation=str(folder / "chr20.bed"))
            if species in ("chr19", "chr20"):  # the FASTA is the beginning of the chromosome
                config = ALL.replace(partial_genome=True)
            made[species] = build_store(folder / species, [source], config=config, progress=False)
        return made[species]

    return make


ONE_HOT = {**{base: [base == one for one in "ACGT"] + [0, 0] for base in "ACGT"}, "N": [0.25] * 4 + [0, 0]}


def encoded(chromosomes: Fasta, row: dict) -> np.ndarray:
    "A transcript of a genePred row as six tracks, the slow way: one-hot exon by exon, then the marks base by base."
    starts, ends = ([int(number) for number in row[name].rstrip(",").split(",")] for name in ("exonStarts", "exonEnds"))
    cds_start, cds_end, pieces, codons, read = int(row["cdsStart"]), int(row["cdsEnd"]), [], [], 0
    exons = list(zip(starts, ends))
    for start, end in exons if row["strand"] == "+" else exons[::-1]:
        sequence, places = chromosomes[row["chrom"]][start:end], range(start, end)
        if row["strand"] == "-":
            sequence, places = sequence.reverse.complement, reversed(places)
        tracks = np.array([ONE_HOT[letter] for letter in sequence.seq], np.float32)
        tracks[-1, 5] = 1
        for i, place in enumerate(places):
            if cds_start <= place < cds_end:
                codons.append(read + i)
        pieces.append(tracks)
        read += end - start
    whole = np.concatenate(pieces)
    whole[codons[::3], 4] = 1
    return whole


def test_all_2078_transcripts_have_the_published_encoding(published, unpacked, shared_data, shared_reference):
    reference, row_of, n = dict(np.load(shared_reference / "six_tracks.npz")), {}, 0
    assert len(reference) == 60
    for species in ("human", "mouse"):
        with gzip.open(shared_data / "annotation" / REAL[species][1], "rt") as text:
            for row in csv.DictReader(text, delimiter="\t"):
                row_of[species, row["name"], row["chrom"], int(row["txStart"])] = row
    for i, row in enumerate(published.transcripts.itertuples()):
        key = (row.species, row.transcript_id, row.chrom, int(row.exon_starts[0]))
        ours = tracks_from_tokens(torch.from_numpy(published.tokens(i).copy())[None])[0].T.numpy()
        assert np.array_equal(ours, encoded(unpacked(row.species), row_of.pop(key))), key
        theirs = reference.pop("|".join(map(str, key)), None)
        assert theirs is None or np.array_equal(ours, theirs.astype(np.float32)), key
        n += 1
    assert n == 1176 + 902 and not row_of and not reference


def test_both_ways_of_counting_agree_where_all_frames_are_0(real, published):
    "All frames of the regions are 0, so that both ways of counting give one store; the next test has others."
    for species in ("human", "mouse"):
        rows = np.flatnonzero(published.transcripts.species == species)
        assert np.array_equal(real(species).nucleotides, np.concatenate([published.tokens(i) for i in rows]))


@pytest.mark.parametrize("species, rows", [("human", 1176), ("mouse", 902), ("yeast", 7127)])
def test_every_real_transcript_is_spliced_exactly(real, unpacked, species, rows):
    store, chromosomes = real(species), unpacked(species)
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
    "chr20": (256, 256, 256, 255, 255, None, None, 1952, 1954),  # BED12 names no genes
    "chr19": (261, 259, 261, 261, 259, 119, 70, 2187, 2190),
    "yeast": (6600, 6590, 6600, 6580, 6574, 6600, 0, 277, 313),
}


@pytest.mark.parametrize("species", TABLE)
def test_the_table_of_the_fixture_is_reproduced(real, unpacked, species):
    store = real(species)
    chromosomes = unpacked("human" if species == "chr20" else species)
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
        for end, start in zip(row.exon_ends[:-1].tolist(), row.exon_starts[1:].tolist()):
            ends = chromosomes[row.chrom][end : end + 2].seq + chromosomes[row.chrom][start - 2 : start].seq
            introns.append(ends in (("GTAG", "GCAG", "ATAC") if row.strand == "+" else ("CTAC", "CTGC", "GTAT")))
    isoforms = table[table.cds_start >= 0].groupby("gene_id").size()
    found = (len(checks), *np.sum(checks, axis=0), len(isoforms), (isoforms > 1).sum(), sum(introns), len(introns))
    assert tuple(a for a, b in zip(found, TABLE[species]) if b is not None) == tuple(b for b in TABLE[species] if b is not None)


@pytest.mark.parametrize("species, name, end, limit", [("chr20", 3, 2, 10_000_000), ("chr19", 8, 4, 5_999_940)])
def test_what_lies_outside_a_partial_genome_is_accounted_for(real, shared_data, species, name, end, limit):
    store, last = real(species), {}
    with gzip.open(shared_data / "annotation" / ("hg38_RefSeq.bed.gz" if species == "chr20" else REAL[species][1]), "rt") as text:
        for number, fields in enumerate(line.split("\t") for line in text):
            if species == "chr20" and fields[0] == "chr20":  # a row a transcript; some names stand for several
                last[number, fields[name]] = int(fields[end])
            elif species == "chr19" and fields[2:3] == ["exon"]:
                transcript = fields[name].partition('transcript_id "')[2].split('"')[0]
                last[0, transcript] = max(last.get((0, transcript), 0), int(fields[end]))
    inside = [transcript for (_, transcript), end in last.items() if end <= limit]
    counts = store.report.counts["human" if species == "chr20" else species]
    assert (counts["read"], counts["kept"], counts["dropped"]) == (len(last), len(inside), {"beyond_the_end": len(last) - len(inside)})
    assert store.transcripts.transcript_id.tolist() == inside and 0 < len(inside) < len(last)


def test_the_original_bed12_of_mouse_is_grouped_by_a_gene_table(shared_data):
    bed, genes = shared_data / "annotation" / "mm10_Gencode_VM18.bed.gz", shared_data / "misc" / "ensembl_gene_transcript.mouse.gencodeVM25.tsv.gz"
    with gzip.open(genes, "rt") as text:  # of another release, coding transcripts alone, without versions
        gene_of = {row["Transcript stable ID"]: row["Gene stable ID"] for row in csv.DictReader(text, delimiter="\t")}
    rows = read_annotation(bed, genes).rows
    expected = [gene_of.get(name.split(".")[0], name) for name in rows.transcript_id]
    assert rows.gene_id.tolist() == expected
    matched = rows.gene_id != rows.transcript_id
    coding = rows.cds_start >= 0
    assert (len(rows), matched.sum(), (matched & coding).sum(), coding.sum(), rows.gene_id[matched].nunique()) == (65341, 43877, 43852, 44890, 21792)
    assert (rows[matched].groupby("gene_id").chrom.nunique() == 1).mean() > 0.999
