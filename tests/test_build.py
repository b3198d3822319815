"""Building: all formats alike, accounting, wrong input, executors."""

import gzip
import logging
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyfaidx import Fasta

from isoclr.config import ConfigError, InputError
from isoclr.data import build as build_module
from isoclr.data.build import SpeciesSource, StoreConfig, build_store
from isoclr.data.genome import Genome, Interval
from isoclr.data.homology import read_homology
from isoclr.data.selection import DROP_REASONS
from isoclr.data.simulate import SimulateConfig, simulate
from isoclr.data.store import TranscriptStore
from isoclr.data.tracks import PAD, codon_starts, translate
from isoclr.runs import run
from test_annotation import bed12, coding_positions, gene_table, genepred, gff3, gtf, transcript_lists
from test_genome import write_fasta

ALL = StoreConfig(coding_only=False, max_length_nt=10**9)
REAL = {
    "human": ("hg38.regions.fa.gz", "hg38.regions.refseq.genePred.tsv.gz"),
    "mouse": ("mm10.regions.fa.gz", "mm10.regions.gencodeVM18.genePred.tsv.gz"),
    "chr19": ("GRCm39.chr19_1-5999940.fa.gz", "GRCm39.gencode.vM31.chr19.filtered.gtf.gz"),
    "yeast": ("sacCer3.bgz.fa.gz", "sacCer3.ensGene.gtf.gz"),
}


def test_human_and_mouse_with_homology(shared_data, tmp_path):
    sources = [
        SpeciesSource(species, str(shared_data / "genome" / REAL[species][0]), str(shared_data / "annotation" / REAL[species][1]))
        for species in ("human", "mouse")
    ]
    homology = read_homology(shared_data / "homology" / "homologene_build68.tsv.gz", {"human": 9606, "mouse": 10090})
    store = build_store(tmp_path / "store", sources, homology, progress=False)
    assert store.report.table.loc[["read", "kept", "non_coding", "too_long"], ["human", "mouse"]].to_numpy().T.tolist() == [[1176, 914, 259, 3], [902, 642, 257, 3]]
    assert len(store.report.dropped) == 262 + 260 and set(store.report.dropped.species) == {"human", "mouse"}
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
@given(transcript_lists(), st.integers(0, 10**6), st.booleans(), st.booleans(), st.sampled_from(["ensembl", "gencode", "ncbi"]))
def test_four_formats_give_identical_stores(tmp_path_factory, transcripts, seed, coding_only, stop_inside, flavour):
    transcripts = [t if t["coding"][1] != 3 else {**t, "frame": 0} for t in transcripts]
    if coding_only and not any(t["coding"][1] for t in transcripts):
        coding_only = False
    folder, chromosomes = tmp_path_factory.mktemp("s"), sequences_for(transcripts, seed)
    plain, packed = write_fasta(folder / "g.fa", chromosomes, 50), write_fasta(folder / "g.fa.gz", chromosomes, 17, packed=True)
    (folder / "genes").write_text(gene_table(transcripts))
    formats = {
        "genePred": (plain, genepred(transcripts, "extended with bin", header=True)), "GTF": (packed, gtf(transcripts, stop_inside, random.Random(seed))),
        "GFF3": (plain, gff3(transcripts, flavour)),
    }
    if all(t["frame"] == 0 for t in transcripts):  # BED12 has no frames
        formats["BED12"] = (packed, bed12(transcripts))
    stores = []
    for name, (fasta, content) in formats.items():
        (source,) = one_species(folder, fasta, content, name)
        source = source.replace(genes=str(folder / "genes")) if name in ("BED12", "GFF3") else source
        stores.append(build_store(folder / f"{name}.store", [source], config=StoreConfig(coding_only=coding_only), progress=False))
    one, *others = stores
    for two in others:
        pd.testing.assert_frame_equal(*(store.transcripts.drop(columns="biotype") for store in (one, two)))  # GFF3 says mRNA, the others nothing
        assert np.array_equal(one.nucleotides, two.nucleotides) and one.content_hash == two.content_hash
        assert one.info["build_id"] != two.info["build_id"] and one.info["counts"]["s"] == two.info["counts"]["s"]
    kept = in_store_order([t for t in transcripts if t["coding"][1] or not coding_only], chromosomes)
    assert one.transcripts.transcript_id.tolist() == [t["name"] for t in kept]
    for i, (row, t) in enumerate(zip(one.transcripts.itertuples(), kept)):
        assert one.sequence(i) == slow_sequence(chromosomes, t) and row.gene_id == f"s:{t['gene']}" == row.group
        before, length = t["coding"]
        assert (row.cds_start, row.cds_end) == ((before, before + length) if length else (-1, -1)) and len(coding_positions(t)) == length
        assert codon_starts(one.tokens(i)).tolist() == [before + k for k in range(length) if (k + t["frame"]) % 3 == 0]
        assert row.length_nt == len(one.tokens(i)) == sum(end - start for start, end in t["exons"])


def in_store_order(transcripts, chromosomes) -> list:
    "Chromosome by chromosome as in the FASTA, and within one as in the annotation."
    return sorted(transcripts, key=lambda t: list(chromosomes).index(t["chrom"]))


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

    def listed(name, start=11, end=88, chrom="chr1", biotype="b"):
        return coding(name, start, end, chrom).replace(";\n", f'; transcript_biotype "{biotype}"; gene_name "listed";\n')

    content = listed("keep") + listed("duplicate_sequence") + listed("too_long", 1, 400) + listed("too_short", 1, 9)
    content += row("non_coding", "exon", 1, 90).replace(";\n", '; transcript_biotype "b"; gene_name "listed";\n')
    content += coding("missing_chromosome", 1, 90, chrom="chr8") + coding("beyond_the_end", 400, 501) + row("no_exons", "transcript", 1, 9)
    content += coding("alternate_contig", 1, 30, "chr1_x_alt") + coding("chromosome_x", 1, 30, "chrX") + coding("chromosome_y", 1, 30, "chrY") + coding("mitochondrial", 1, 30, "chrM")
    content += coding("no_strand", 1, 50).replace("+", ".") + coding("not_listed", 1, 60) + listed("other_biotype", biotype="other")
    content += listed("not_principal", 5, 70) + listed("incomplete_cds", 31, 120)
    content += coding("overlapping_exons", 1, 30) + row("overlapping_exons", "exon", 20, 60)
    content += coding("cds_outside_exons", 1, 30) + row("cds_outside_exons", "CDS", 31, 40)
    content += (row("repeated_id", "transcript", 1, 30) + row("repeated_id", "exon", 1, 30)) * 2
    sequence = list(Fasta(str(small))["chr1"][:].seq)
    sequence[10:13], sequence[85:88], sequence[30:33] = "ATG", "TAA", "CCC"
    fasta = write_fasta(tmp_path / "changed.fa", {"chr1": "".join(sequence), "chr2": "ACGT"})
    appris = "".join(f"g\tg\t{name}\t-\t{'ALTERNATIVE:1' if name == 'not_principal' else 'PRINCIPAL:1'}\n" for name in [*DROP_REASONS, "keep"])
    (tmp_path / "appris").write_text(appris)
    sources = [one_species(tmp_path, fasta, content)[0].replace(appris=str(tmp_path / "appris"))]
    config = StoreConfig(
        min_length_nt=20, max_length_nt=300, distinct_sequences=True, partial_genome=True, keep_x=False, keep_y=False, keep_m=False, only=("listed", "nobody"),
        biotypes=("b",), principal_only=True, complete_cds=True,
    )
    store = build_store(tmp_path / "store", sources, config=config, progress=False)
    assert store.report.not_found == ("nobody",) and store.transcripts.appris.tolist() == ["PRINCIPAL:1"] and store.transcripts.biotype.tolist() == ["b"]
    expected = {name: 1 for name in DROP_REASONS if name not in ("par_copy", "unclear_case")}  # these two: test_selection.py, test_mature.py
    assert store.info["counts"]["s"] == {"read": 1 + len(expected), "kept": 1, "dropped": expected, "notes": {"unknown nucleotides": 0, "truncated transcripts": 0}}
    assert dict(zip(store.report.dropped.transcript_id, store.report.dropped.reason)) == {name: name for name in expected}
    details = store.report.dropped.set_index("transcript_id").detail
    assert details["duplicate_sequence"] == "keep" and details["too_long"] == "400 nt" and details["missing_chromosome"] == "chr8"
    assert store.transcripts.transcript_id.tolist() == ["keep"] and len(store.nucleotides) == 78
    everything = config.replace(coding_only=False, distinct_sequences=False, complete_cds=False, only=(), biotypes=(), principal_only=False)
    kept = build_store(tmp_path / "more", sources, config=everything, progress=False).transcripts.transcript_id.tolist()
    assert kept == ["keep", "duplicate_sequence", "non_coding", "not_listed", "other_biotype", "not_principal", "incomplete_cds"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(transcript_lists(), st.integers(0, 60), st.integers(1, 60), st.booleans(), st.booleans())
def test_kept_and_dropped_add_up(tmp_path_factory, transcripts, low, more, coding_only, distinct):
    folder = tmp_path_factory.mktemp("s")
    config = StoreConfig(coding_only=coding_only, min_length_nt=low, max_length_nt=low + more, distinct_sequences=distinct)
    lengths = [sum(end - start for start, end in t["exons"]) for t in transcripts]
    expected = [t for t, length in zip(transcripts, lengths) if low <= length <= low + more and (t["coding"][1] or not coding_only)]
    expected = [t["name"] for t in in_store_order(expected, sequences_for(transcripts, 1))]
    sources = one_species(folder, write_fasta(folder / "g.fa", sequences_for(transcripts, 1)), genepred(transcripts, "extended"))
    if not expected:
        with pytest.raises(InputError, match="no transcript is left"):
            build_store(folder / "store", sources, config=config, progress=False)
        assert not (folder / "store").exists()
        return
    store = build_store(folder / "store", sources, config=config, progress=False)
    counts = store.info["counts"]["s"]
    assert counts["kept"] + sum(counts["dropped"].values()) == counts["read"] == len(transcripts)
    assert counts["kept"] == len(store) == len(store.transcripts) and len(store.report.dropped) == sum(counts["dropped"].values())
    names = store.transcripts.transcript_id.tolist()
    assert set(names) | set(store.report.dropped.transcript_id) == {t["name"] for t in transcripts}
    if distinct:
        sequences = [store.sequence(i) for i in range(len(store))]
        assert len(set(sequences)) == len(sequences) and set(names) | set(
            store.report.dropped.transcript_id[store.report.dropped.reason == "duplicate_sequence"]
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
    assert "partial_genome" not in message
    refused(
        tmp_path,
        one_species(tmp_path, small, genepred(rows, "extended")),
        "'1' is probably 'chr1'",
        config=StoreConfig(partial_genome=True),
    )


def test_one_chromosome_missing(tmp_path, small):
    rows = [CODING, transcript("B", [(10, 40)], (0, 30), chrom="chr3")]
    for content, line in ((genepred(rows, "extended", header=True), 3), (gtf(rows), 8)):
        sources = one_species(tmp_path, small, content)
        refused(tmp_path, sources, rf"annotation:{line}: transcript B lies on 'chr3'.*partial_genome=True")
        store = build_store(
            tmp_path / "skipping", sources, config=StoreConfig(partial_genome=True), overwrite=True, progress=False
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
    tokens, lengths = store.gather([1, 0, 2, 0])
    assert tokens.dtype == np.uint8 and lengths.dtype == np.int32 and tokens.shape == (4, 183) and lengths.tolist() == [183, 60, 30, 60]
    for line, length, row in zip(tokens, lengths, [1, 0, 2, 0]):
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
        with pytest.raises(InputError, match="exists and is no store"):
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
        ("store.json", lambda data: data.replace(b'"format_version": 2', b'"format_version": 1'), "is of format 1"),
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


# executors


@pytest.fixture(scope="module", params=["threads", "spawn", "fork", "dask"])
def executor(request, tmp_path_factory):
    "Each kind of executor that builds are run by."
    if request.param == "threads":
        with ThreadPoolExecutor(2) as pool:
            yield pool
    elif request.param == "dask":
        from dask.distributed import Client, LocalCluster

        folder, environment = tmp_path_factory.mktemp("dask"), dict(os.environ)
        with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=logging.CRITICAL, local_directory=str(folder)) as cluster:
            os.environ.clear()
            os.environ.update(environment)  # Dask leaves OMP_NUM_THREADS=1 behind, which would slow down whatever this process starts later
            with Client(cluster) as client:
                yield client.get_executor()
    else:
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(request.param)) as pool:
            yield pool


@pytest.fixture(scope="module")
def three_species(tmp_path_factory):
    "Species as plain FASTA and genePred, bgzip and GTF, and as mature transcripts; and a table of homologs."
    folder, rng, made = tmp_path_factory.mktemp("three"), random.Random(11), []
    rows = [transcript(f"T{i}", [(20 * i, 20 * i + 90), (20 * i + 120, 20 * i + 150)], (6, 60) if i % 4 else (0, 0), "+-"[i % 2], f"chr{i % 3}", f"G{i // 2}") for i in range(12)]
    for species, write, packed in (("a", lambda rows: genepred(rows, "extended"), False), ("b", gtf, True)):
        chromosomes = {f"chr{i}": "".join(rng.choices("ACGTN", k=500)) for i in range(3)}
        (source,) = one_species(folder, write_fasta(folder / f"{species}.fa", chromosomes, packed=packed), write(rows), species)
        made.append(source.replace(species=species))
    (folder / "c").write_text("".join(f">m{i} gene_id=G{i // 2} cds_start=3 cds_end=30\n{''.join(rng.choices('ACGT', k=60))}\n" for i in range(6)))
    made.append(SpeciesSource("c", "", str(folder / "c")))
    homology = pd.DataFrame([(species, f"G{i}", str(i)) for i in (0, 2) for species in "abc"], columns=["species", "gene_name", "homology_group"])
    return made, homology


def test_any_executor_gives_the_same_bytes(executor, three_species, tmp_path):
    sources, homology = three_species
    for number, config in enumerate((StoreConfig(), ALL.replace(distinct_sequences=True, frame="published"), ALL.replace(max_length_nt=100, too_long="truncate"))):
        serial = build_store(tmp_path / f"serial{number}", sources, homology, config=config, progress=False)
        parallel = build_store(tmp_path / f"parallel{number}", sources, homology, config=config, progress=False, executor=executor)
        names = sorted(path.name for path in serial.path.iterdir())
        assert names == sorted(path.name for path in parallel.path.iterdir()) == ["dropped.parquet", "nucleotides.npy", "store.json", "transcripts.parquet"]
        for name in names:
            assert (serial.path / name).read_bytes() == (parallel.path / name).read_bytes(), name
        assert parallel.species == ["a", "b", "c"]
        parallel.validate()
        assert build_store(tmp_path / f"serial{number}", sources, homology, config=config, progress=False, executor=executor).path == serial.path
    assert not list(tmp_path.glob(".*"))


def test_real_species_side_by_side(executor, shared_data, tmp_path):
    sources = [SpeciesSource(name, str(shared_data / "genome" / REAL[name][0]), str(shared_data / "annotation" / REAL[name][1])) for name in ("mouse", "yeast")]
    serial = build_store(tmp_path / "serial", sources, progress=False)
    assert build_store(tmp_path / "parallel", sources, progress=False, executor=executor).content_hash == serial.content_hash


def test_an_error_in_a_worker_is_that_of_the_package(executor, three_species, tmp_path):
    (good, other, mature), _ = three_species
    (tmp_path / "bad.gtf").write_text(gtf([CODING])[:-5])
    (tmp_path / "beyond").write_text(genepred([transcript("far", [(10, 600)], (0, 30), chrom="chr0")], "extended"))
    (tmp_path / "mature").write_text(">m1\nACGT\n>m1\nACGT\n")
    for wrong, message in (
        (good.replace(annotation=str(tmp_path / "bad.gtf")), r"bad\.gtf:7: "),
        (good.replace(annotation=str(tmp_path / "beyond")), r"beyond:1: transcript far has an exon that ends at 600, beyond the end of chr0 \(500 nt in .*partial_genome=True"),
        (mature.replace(annotation=str(tmp_path / "mature"), species="d"), r"mature:3: transcript 'm1' stands in line 1 already"),
    ):
        wrong = wrong.replace(species="d")
        for sources in ([wrong, other, mature], [other, mature, wrong]):
            with pytest.raises(InputError, match=message) as error:
                build_store(tmp_path / "store", sources, progress=False, executor=executor)
            assert type(error.value) is InputError
            assert not (tmp_path / "store").exists() and not list(tmp_path.glob(".store*"))
    with pytest.raises(InputError, match="no transcript is left"):
        build_store(tmp_path / "store", [good, other], config=StoreConfig(min_length_nt=1000), progress=False, executor=executor)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.gtf", "beyond", "mature"]


def test_genomes_travel_to_workers(executor, three_species):
    for source in three_species[0][:2]:
        genome = Genome(source.genome)
        intervals = [Interval(f"chr{i}", start, start + 70, strand) for i in range(3) for start in (0, 200, 430) for strand in "+-"]
        expected = [genome.fetch(interval) for interval in intervals]  # used here before it travels
        assert [future.result() for future in [executor.submit(genome.fetch, interval) for interval in intervals]] == expected
        assert [executor.submit(Genome(source.genome).fetch, interval).result() for interval in intervals] == expected
        assert [genome.fetch(interval) for interval in intervals] == expected


def test_a_worker_that_is_killed_leaves_nothing(three_species, tmp_path, monkeypatch):
    "As where the system is out of memory."
    sources, _ = three_species
    monkeypatch.setattr(build_module, "choose", lambda *args: os.kill(os.getpid(), signal.SIGKILL))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool, pytest.raises(BrokenExecutor):
        build_store(tmp_path / "store", sources, progress=False, executor=pool)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    assert len(build_store(tmp_path / "store", sources, progress=False)) > 0


def test_an_error_in_one_species_leaves_no_other_at_work(three_species, tmp_path, monkeypatch):
    "Otherwise they would write into a folder that is being removed."
    (good, other, mature), _ = three_species
    (tmp_path / "bad.gtf").write_text(gtf([CODING])[:-5])
    read = build_module.read_annotation

    def slowly(path, genes=None):
        time.sleep(0.0 if "bad" in str(path) else 1.0)
        return read(path, genes)

    monkeypatch.setattr(build_module, "read_annotation", slowly)
    with ThreadPoolExecutor(2) as pool:
        futures, submit = [], pool.submit
        monkeypatch.setattr(pool, "submit", lambda *args, **kwargs: futures.append(submit(*args, **kwargs)) or futures[-1])
        with pytest.raises(InputError, match="bad"):
            build_store(tmp_path / "store", [good.replace(annotation=str(tmp_path / "bad.gtf")), other, mature], progress=False, executor=pool)
        assert len(futures) == 3 and all(future.done() for future in futures)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.gtf"]


# all together

LIFTED = {"rat": (295, 164), "rhesus": (355, 170), "dog": (276, 152), "cow": (294, 164), "chicken": (78, 41), "opossum": (75, 42), "elephant": (228, 122),
          "armadillo": (143, 77), "tenrec": (222, 126), "rabbit": (227, 127)}


def test_twelve_species_from_genomes_and_from_lifted_transcripts(shared_data, tmp_path):
    "Human and mouse from their genomes, ten vertebrates as mature transcripts of one file: each is a source of that file."
    sources = [
        SpeciesSource(species, str(shared_data / "genome" / REAL[species][0]), str(shared_data / "annotation" / REAL[species][1]))
        for species in ("human", "mouse")
    ]
    lifted = SpeciesSource("rat", "", str(shared_data / "orthologs" / "lifted_transcripts.tsv.gz"), columns={"group": "gene_id"})
    sources += [lifted.replace(species=species) for species in LIFTED]
    taxa = {"human": 9606, "mouse": 10090, "rat": 10116, "rhesus": 9544, "dog": 9615, "cow": 9913, "chicken": 9031}
    homology = read_homology(shared_data / "homology" / "homologene_build68.tsv.gz", taxa)
    with ProcessPoolExecutor(2) as pool:
        store = build_store(tmp_path / "store", sources, homology, StoreConfig(primary_chromosomes=False), progress=False, executor=pool)
    store.validate()
    table = store.transcripts
    assert table[~table.species.isin(["human", "mouse"])].groupby("species").agg(n=("transcript_id", "size"), genes=("gene_id", "nunique")).to_dict("index") == {
        species: {"n": n, "genes": genes} for species, (n, genes) in LIFTED.items()
    }
    species_of_group = table.groupby("group").species.nunique()
    assert species_of_group.max() >= 8 and species_of_group[table.group[(table.species == "opossum")]].min() > 1  # joined through the human symbols
    for row in table[table.species == "cow"].index[:50]:
        transcript = store[row]
        protein = translate(transcript.sequence[transcript.cds_start : transcript.cds_end])
        assert protein.startswith("M") and protein.endswith("*") and "*" not in protein[:-1]
    scaffolds = build_store(tmp_path / "tenrec", [lifted.replace(species="tenrec")], progress=False)
    assert len(scaffolds) == LIFTED["tenrec"][0], "an assembly in scaffolds alone keeps them"


def test_the_build_experiment_takes_every_option(tmp_path):
    simulation = simulate(tmp_path / "simulated", SimulateConfig(n_families=12), progress=False)
    genes = [f"{name}\n" for name in simulation.truth["genes"].gene_id[:10]]
    (tmp_path / "only.txt").write_text("".join(genes))
    done = run(
        "build", runs_folder=tmp_path / "runs", progress=False, sources=simulation.sources, homology=str(simulation.homology), taxa=simulation.taxa,
        giant="split", complete_cds=True, keep_y=False, par_copies=True, only=str(tmp_path / "only.txt"), min_length_nt=50, max_length_nt=900,
        too_long="truncate", distinct_sequences=True, partial_genome=True, frame="published", workers=2,
    )
    store = TranscriptStore.open(done.path("store"))
    assert done.results["content_hash"] == store.content_hash and set(store.transcripts.gene_id.str.split(":").str[1]) <= {name.strip() for name in genes}
    assert store.transcripts.length_nt.max() <= 900 and store.info["config"]["frame"] == "published" and store.report.counts["beta"]["dropped"]["not_listed"] > 0
    assert all(count["read"] == count["kept"] + sum(count["dropped"].values()) for count in done.results["counts"].values())
