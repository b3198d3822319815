"""TranscriptStore: parts, joined stores, other formats, figure, weights, and damage that is always found."""

import json
import pickle
import random
import shutil
from dataclasses import fields

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError
from isoclr.data.build import SpeciesSource, StoreConfig, build_store
from isoclr.data.format import FORMAT_VERSION, SCHEMA
from isoclr.data.genome import encode_bases
from isoclr.data.mature import read_mature
from isoclr.data.store import Transcript, TranscriptStore, concat_stores, write_store
from isoclr.data.tracks import CODON, EXON_END, codon_starts, exon_ends, mark_transcripts, sequence_from_tokens, tokens_from_exons
from test_annotation import genepred, gtf
from test_build import transcript
from test_genome import write_fasta

anywhere = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
CONFIG = StoreConfig(coding_only=False)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    "Two species, three chromosomes, both strands; genes of one, two and three transcripts; non-coding ones."
    folder, rng, made = tmp_path_factory.mktemp("sources"), random.Random(7), []
    for species, write in (("ant", lambda rows: genepred(rows, "extended")), ("bee", lambda rows: gtf(rows).replace(";\n", '; transcript_biotype "protein_coding";\n'))):
        chromosomes = {name: "".join(rng.choices("ACGTN", [30, 30, 30, 30, 1], k=900)) for name in ("2", "1", "X")}
        rows = []
        for gene, n in (("A", 3), ("B", 1), ("C", 2), ("D", 1), ("E", 1)):
            chrom, strand, start = rng.choice(list(chromosomes)), rng.choice("+-"), rng.randrange(600)
            for i in range(n):
                exons = [(start, start + 40 + i), (start + 60, start + 100), (start + 120, start + 150 + 3 * i)][: 3 - (gene == "B")]
                coding = (0, 0) if (gene, i) in (("C", 1), ("E", 0)) else (7 + i, 60)
                rows.append(transcript(f"{gene}{i}.{len(made)}", exons, coding, strand, chrom, gene))
        (folder / species).write_text(write(rows))
        (folder / "appris").write_text("".join(f"g\tG\t{gene}{i}\t-\tPRINCIPAL:{i + 1}\n" for gene in "AB" for i in range(2)))
        made.append(SpeciesSource(species, str(write_fasta(folder / f"{species}.fa", chromosomes)), str(folder / species), appris=str(folder / "appris")))
    return made


@pytest.fixture(scope="module")
def homology():
    return pd.DataFrame([("ant", "A", "1"), ("bee", "A", "1"), ("ant", "C", "2"), ("bee", "B", "2")], columns=["species", "gene_name", "homology_group"])


@pytest.fixture(scope="module")
def both(sources, homology, tmp_path_factory):
    return build_store(tmp_path_factory.mktemp("both") / "both", sources, homology, config=CONFIG, progress=False)


@pytest.fixture(scope="module")
def apart(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("apart")
    return [build_store(folder / source.species, [source], config=CONFIG, progress=False) for source in sources]


# parts

def test_to_frame_of_slices_masks_and_positions(both):
    table, n = both.transcripts.drop(columns="offset"), len(both)
    assert n == 16 and "sequence" not in both.to_frame(sequences=False) and len(both.to_frame()) == n
    rng = np.random.default_rng(3)
    for rows in (slice(2, 9), slice(None, None, -3), slice(0, 0), rng.random(n) < 0.5, np.zeros(n, bool), np.array([5, 1, 1, -1]), [3, 0], None):
        positions = list(range(n))[rows] if isinstance(rows, slice) else list(range(n)) if rows is None else np.arange(n)[rows].tolist()
        frame = both.to_frame(rows)
        assert frame.sequence.tolist() == [both.sequence(row) for row in positions] and frame.index.tolist() == positions
        pd.testing.assert_frame_equal(frame.drop(columns="sequence"), table.iloc[positions])
    with pytest.raises(IndexError):
        both.to_frame([n])
    with pytest.raises(IndexError):
        both.to_frame(np.zeros(n + 1, bool))


def test_iteration_gives_every_transcript(both):
    listed = list(both)
    assert len(listed) == len(both) and all(isinstance(one, Transcript) for one in listed) and [one.transcript_id for one in both] == [one.transcript_id for one in listed]
    for i, (one, row) in enumerate(zip(listed, both.transcripts.itertuples())):
        assert (one.transcript_id, one.gene_id, one.gene_name, one.group) == (row.transcript_id, row.gene_id, row.gene_name, row.group)
        assert (one.cds_start, one.cds_end) == (row.cds_start, row.cds_end) and type(one.cds_start) is int
        assert one.sequence == both.sequence(i) == sequence_from_tokens(one.tokens) and np.array_equal(one.tokens, both.tokens(i))
        assert np.array_equal(one.codon_starts, codon_starts(one.tokens)) and np.array_equal(one.exon_ends, exon_ends(one.tokens))
        assert len(one.tokens) == row.length_nt and one.exon_ends[-1] == row.length_nt - 1 and len(one.exon_ends) == len(row.exon_starts)
    assert both[-1].transcript_id == listed[-1].transcript_id
    for row in (len(both), -len(both) - 1):
        with pytest.raises(IndexError):
            both[row]
    with pytest.raises(ValueError):
        listed[0].tokens[0] = 1
    assert len(fields(Transcript)) == 7


def test_batches_hold_every_row_once(both):
    rng = np.random.default_rng(4)
    rows = rng.permutation(len(both))[:13]
    for budget in (1, 150, 400, 10**6):
        seen = []
        for take, tokens, lengths in both.batches(rows, budget):
            assert tokens.size <= budget or len(take) == 1
            for i, line, length in zip(take, tokens, lengths):
                assert np.array_equal(line[:length], both.tokens(rows[i])) and length == len(both.tokens(rows[i]))
            seen += take.tolist()
        assert sorted(seen) == list(range(13))
    with pytest.raises(ConfigError):
        next(both.batches(rows, 0))


def test_a_subset_is_a_store_of_its_own(both, tmp_path):
    for number, rows in enumerate(([4, 0, 9], np.arange(16) % 3 == 0, slice(10, None))):
        part = both.subset(tmp_path / f"part{number}", rows)
        part.validate()
        pd.testing.assert_frame_equal(part.to_frame().reset_index(drop=True), both.to_frame(rows).reset_index(drop=True))
        assert all(np.array_equal(part.tokens(i), both.tokens(j)) for i, j in enumerate(np.arange(16)[rows]))
        assert part.info["import"] == {"subset_of": both.content_hash}
    assert both.subset(tmp_path / "all", slice(None)).content_hash == both.content_hash
    with pytest.raises(InputError, match="holds a store already"):
        both.subset(tmp_path / "all", [1])
    assert len(both.subset(tmp_path / "all", [1], overwrite=True)) == 1
    with pytest.raises(InputError, match="at least one transcript"):
        both.subset(tmp_path / "none", [])
    with pytest.raises(InputError, match="has no report"):
        part.report
    assert len(part.subset(tmp_path / "part of a part", [0])) == 1


def test_a_pickled_store_opens_again(both):
    again = pickle.loads(pickle.dumps(both))
    assert type(again) is TranscriptStore and again.content_hash == both.content_hash and again[3].sequence == both[3].sequence


# joined stores

def test_joining_equals_building_at_once(apart, both, sources, homology, tmp_path):
    joined = concat_stores(tmp_path / "grouped", apart, homology)
    joined.validate()
    assert joined.content_hash == both.content_hash and joined.transcripts.equals(both.transcripts) and np.array_equal(joined.nucleotides, both.nucleotides)
    assert joined.species == ["ant", "bee"] and joined.info["import"]["concatenated"] == [store.content_hash for store in apart]
    ungrouped = build_store(tmp_path / "ungrouped", sources, config=CONFIG, progress=False)
    assert concat_stores(tmp_path / "joined", apart).content_hash == ungrouped.content_hash != both.content_hash
    backwards = concat_stores(tmp_path / "backwards", apart[::-1], homology)
    assert backwards.species == ["bee", "ant"] and sorted(backwards.transcripts.group) == sorted(both.transcripts.group) and backwards.content_hash != both.content_hash
    assert concat_stores(tmp_path / "one", apart[:1]).content_hash == apart[0].content_hash


def test_transcripts_of_one_species_from_two_stores(both, tmp_path):
    odd = np.arange(len(both)) % 2 == 1
    parts = [both.subset(tmp_path / "odd", odd), both.subset(tmp_path / "even", ~odd)]
    joined = concat_stores(tmp_path / "joined", parts)
    assert set(joined.species) == {"ant", "bee"} and len(joined.species) == 2 and len(joined) == len(both)
    order = [*np.flatnonzero(odd), *np.flatnonzero(~odd)]
    pd.testing.assert_frame_equal(joined.to_frame(), both.to_frame(order).reset_index(drop=True))  # groups stay, and those of one name are one
    assert joined.summary.transcripts.to_dict() == both.summary.transcripts.to_dict()


def test_a_transcript_in_two_stores_is_refused(both, apart, tmp_path):
    for stores in ([both, apart[0]], [apart[0], apart[1], both.subset(tmp_path / "part", [3])]):
        with pytest.raises(InputError, match=rf"transcript .*\.[01] of (ant|bee) is in both .* and .*`subset`"):
            concat_stores(tmp_path / "joined", stores)
        assert not (tmp_path / "joined").exists() and not list(tmp_path.glob(".joined*"))
    with pytest.raises(InputError):
        concat_stores(tmp_path / "joined", [])
    concat_stores(tmp_path / "joined", apart)
    with pytest.raises(InputError, match="holds a store already"):
        concat_stores(tmp_path / "joined", apart)
    concat_stores(tmp_path / "joined", apart, overwrite=True).validate()


def test_a_store_may_be_joined_onto_itself(apart, tmp_path):
    "Overwriting one of the stores that are read."
    first = shutil.copytree(apart[0].path, tmp_path / "store")
    joined = concat_stores(first, [TranscriptStore.open(first), apart[1]], overwrite=True)
    joined.validate()
    assert len(joined) == 16


# made from a table

def table_and_tokens():
    table = pd.DataFrame({"transcript_id": ["T1", "T2"], "gene_id": ["x:G", "x:H"], "gene_name": ["g", ""], "species": "x", "chrom": "", "strand": "+",
                          "exon_starts": [[0, 4], [0]], "exon_ends": [[4, 9], [5]], "length_nt": [9, 5], "cds_start": [0, -1], "cds_end": [9, -1]})
    return table, [tokens_from_exons(encode_bases("ATGAAATAG"), [4, 5], 0, 9), tokens_from_exons(encode_bases("NNNNN"), [5])]


def test_writing_a_store_of_a_table(tmp_path):
    table, tokens = table_and_tokens()
    store = write_store(tmp_path / "s", table, tokens, {"from": "here"})
    store.validate()
    assert store.transcripts.columns.tolist() == SCHEMA.names and store.transcripts.group.tolist() == ["x:G", "x:H"] and store.info["import"] == {"from": "here"}
    assert store.transcripts.offset.tolist() == [0, 9] and store[1].sequence == "NNNNN" and store.transcripts[["biotype", "appris"]].eq("").all(axis=None)
    pieces = np.split(np.concatenate(tokens), [1, 2, 10])  # pieces of any length
    assert write_store(tmp_path / "pieces", table, iter(pieces)).content_hash == store.content_hash
    shuffled = table[list(table)[::-1]].set_index(np.array([7, 7]))
    assert write_store(tmp_path / "shuffled", shuffled, tokens).content_hash == store.content_hash


@pytest.mark.parametrize("change, nucleotides, message", [
    (lambda t: t.drop(columns=["cds_end", "chrom"]), None, "lacking: .*chrom.*cds_end"),
    (lambda t: t.drop(columns="gene_id"), None, "lacking: .*gene_id"),
    (lambda t: t.iloc[:0], [], "at least one transcript"),
    (lambda t: t.assign(gene_id=["x:G", "G"]), None, "gene_id 'G' is no key of the form species:gene_id"),
    (lambda t: t.assign(gene_id=["y:G", "x:H"]), None, "gene_id 'y:G' is no key"),
    (lambda t: t.assign(species="x:y", gene_id="x:y:G"), None, "species 'x:y': give a short name"),
    (lambda t: t.assign(length_nt=[9, 6]), None, "transcript T2: length_nt is not the length of its exons"),
    (lambda t: t, [np.zeros(3, np.uint8)], "3 nucleotides were given for transcripts of 14 nt"),
    (lambda t: t, [], "0 nucleotides were given"),
    (lambda t: t.assign(length_nt=[-1, 15]), None, "length"),
    (lambda t: t.assign(cds_start=["0", "x"]), None, "cds_start"),
    (lambda t: t.assign(transcript_id=["T1", None]), None, "transcript_id"),
], ids=["columns", "no gene_id", "no rows", "no key", "another species", "species", "too few nt", "far too few nt", "no nt", "negative length", "text for numbers", "no id"])
def test_tables_that_make_no_store(tmp_path, change, nucleotides, message):
    table, tokens = table_and_tokens()
    table = change(table)
    with pytest.raises(InputError, match=message):
        write_store(tmp_path / "s", table, tokens if nucleotides is None else nucleotides)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_replaced_on_demand_alone(tmp_path):
    table, tokens = table_and_tokens()
    first = write_store(tmp_path / "s", table, tokens)
    with pytest.raises(InputError, match="holds a store already.*overwrite=True"):
        write_store(tmp_path / "s", table.iloc[:1], tokens[:1])
    assert TranscriptStore.open(tmp_path / "s").content_hash == first.content_hash
    with pytest.raises(InputError, match="14 nt"):
        write_store(tmp_path / "s", table, tokens[:1], overwrite=True)
    TranscriptStore.open(tmp_path / "s").validate()  # a failed attempt replaces nothing
    assert len(write_store(tmp_path / "s", table.iloc[:1], tokens[:1], overwrite=True)) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("x")
    (tmp_path / "file").write_text("x")
    for path in ("mine", "file"):
        for overwrite in (False, True):
            with pytest.raises(InputError, match="exists and is no store"):
                write_store(tmp_path / path, table, tokens, overwrite=overwrite)
    assert (tmp_path / "mine" / "letter").read_text() == (tmp_path / "file").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine", "s"]


# other formats

def test_fasta_holds_all_but_the_place_on_the_genome(both, tmp_path):
    both.to_fasta(tmp_path / "all.fa")
    for species in both.species:
        annotation, bases, extra = read_mature(tmp_path / "all.fa", species)
        rows = np.flatnonzero(both.transcripts.species == species)
        table = both.transcripts.iloc[rows]
        for name in ("transcript_id", "gene_name", "biotype"):
            assert annotation.rows[name].tolist() == table[name].tolist(), name
        assert (f"{species}:" + annotation.rows.gene_id).tolist() == table.gene_id.tolist()
        assert extra.species.tolist() == table.species.tolist() and extra.group.tolist() == table.group.tolist()
        expected = np.concatenate([both.tokens(row) for row in rows])
        assert np.array_equal(mark_transcripts(bases, annotation), expected)
    again = build_store(tmp_path / "again", [SpeciesSource(name, "", str(tmp_path / "all.fa")) for name in both.species], config=CONFIG, progress=False)
    same = ["transcript_id", "gene_id", "gene_name", "biotype", "species", "length_nt", "cds_start", "cds_end", "group", "offset"]
    pd.testing.assert_frame_equal(again.transcripts[same], both.transcripts[same])
    assert np.array_equal(again.nucleotides, both.nucleotides)
    lines = (tmp_path / "all.fa").read_text().splitlines()
    assert sum(line[0] == ">" for line in lines) == len(both) and max(len(line) for line in lines if line[0] != ">") == 60


names = st.text(st.characters(categories=["L", "N"], include_characters="-_.():;=|'/,+@#%>[]"), min_size=1, max_size=9)


@settings(anywhere, max_examples=60)
@given(st.lists(st.tuples(names, names, names, names, st.integers(1, 40), st.booleans()), min_size=1, max_size=4, unique_by=lambda row: row[0]))
def test_names_with_any_signs_come_back_from_fasta(tmp_path_factory, rows):
    "Whatever the names hold but blanks, which end a word of a FASTA header, they come back; or else `to_fasta` says that they cannot."
    folder, rng = tmp_path_factory.mktemp("n"), random.Random(5)
    table = pd.DataFrame([{"transcript_id": name, "gene_id": f"x:{gene}", "gene_name": symbol, "biotype": biotype, "species": "x", "chrom": "", "strand": "+", "exon_starts": [0],
                           "exon_ends": [n], "length_nt": n, "cds_start": 0 if coding else -1, "cds_end": n if coding else -1} for name, gene, symbol, biotype, n, coding in rows])
    tokens = [tokens_from_exons(encode_bases("".join(rng.choices("ACGTN", k=n))), [n], *((0, n) if coding else ())) for *_, n, coding in rows]
    store = write_store(folder / "s", table, tokens)
    try:
        store.to_fasta(folder / "s.fa")
    except InputError:
        assert not (folder / "s.fa").exists()
        return
    annotation, bases, extra = read_mature(folder / "s.fa")
    for name in ("transcript_id", "gene_name", "biotype"):
        assert annotation.rows[name].tolist() == table[name].tolist()
    assert ("x:" + annotation.rows.gene_id).tolist() == table.gene_id.tolist() == extra.group.tolist()
    assert np.array_equal(mark_transcripts(bases, annotation), store.nucleotides)


def test_parquet_for_other_programs(both, tmp_path):
    for rows_at_once in (1, 5, 4096):
        both.to_parquet(tmp_path / "all.parquet", rows_at_once)
        frame = pd.read_parquet(tmp_path / "all.parquet")
        assert frame.sequence.tolist() == [both.sequence(row) for row in range(len(both))]
        pd.testing.assert_frame_equal(frame.drop(columns="sequence"), both.transcripts.drop(columns="offset"))
    assert pq.ParquetFile(tmp_path / "all.parquet").schema_arrow.names == [*SCHEMA.names[:-1], "sequence"]


def test_parquet_of_a_part_of_a_store_equals_its_frame(both, tmp_path):
    part = both.subset(tmp_path / "part", [9, 2, 5])
    part.to_parquet(tmp_path / "part.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "part.parquet"), part.to_frame())


# numbers and the figure

def test_summary_counts_as_a_loop_does(both):
    table, summary = both.transcripts, both.summary
    assert summary.index.tolist() == ["ant", "bee"]
    for species in both.species:
        mine = [row for row in table.itertuples() if row.species == species]
        elsewhere = {row.group for row in table.itertuples() if row.species != species}
        expected = {
            "transcripts": len(mine), "coding": sum(row.cds_start >= 0 for row in mine), "genes": len({row.gene_id for row in mine}), "groups": len({row.group for row in mine}),
            "transcripts_in_shared_groups": sum(row.group in elsewhere for row in mine), "median_length_nt": float(np.median([row.length_nt for row in mine])),
        }
        assert summary.loc[species].to_dict() == expected
    assert summary.transcripts_in_shared_groups.tolist() == [5, 4]


def test_the_figure_holds_the_counts_of_the_table(both, tmp_path):
    for store in (both, both.subset(tmp_path / "one", [0])):
        figure, table = store.describe(), store.transcripts
        assert len(figure.data) == 3 * len(store.species) and f"{len(store):,} transcripts" in figure.layout.title.text
        for species, (counts, lengths, isoforms) in zip(store.species, zip(*[iter(figure.data)] * 3)):
            mine = table[table.species == species]
            assert counts.name == lengths.name == isoforms.name == species and counts.marker.color == lengths.line.color == isoforms.marker.color
            assert dict(zip(counts.x, counts.y)) == {"transcripts": len(mine), "coding": (mine.cds_start >= 0).sum(), "genes": mine.gene_id.nunique()}
            assert sum(lengths.y) == len(mine)
            sizes = mine.gene_id.value_counts()
            assert dict(zip(isoforms.x, isoforms.y)) == {**{str(n): (sizes == n).sum() for n in range(1, 10)}, "10+": (sizes >= 10).sum()}
        json.loads(figure.to_json())


def test_genes_of_ten_transcripts_and_more_are_one_bar(tmp_path):
    rows = [(f"T{i}", "x:many" if i < 12 else "x:ten" if i < 22 else f"x:{i}") for i in range(25)]
    table = pd.DataFrame(rows, columns=["transcript_id", "gene_id"]).assign(gene_name="", species="x", chrom="", strand="+", exon_starts=[[0]] * 25, exon_ends=[[3]] * 25,
                                                                           length_nt=3, cds_start=-1, cds_end=-1)
    store = write_store(tmp_path / "s", table, [np.array([0, 1, 18], np.uint8)] * 25)
    assert dict(zip(store.describe().data[2].x, store.describe().data[2].y)) == {"1": 3, **{str(n): 0 for n in range(2, 10)}, "10+": 2}
    assert sum(store.describe().data[1].y) == 25  # all of one length


def slow_weights(store, c: float, single_isoform: bool) -> dict[str, float]:
    counts = {}
    for one in store:
        counts[one.gene_id] = counts.get(one.gene_id, 0) + 1
    raw = {gene: float(np.log(n + c)) for gene, n in counts.items() if n > 1 or single_isoform}
    mean = sum(raw.values()) / len(raw) if raw else 1.0
    return {gene: raw.get(gene, 0.0) / mean for gene in counts}


@pytest.mark.parametrize("c", [1, 1.0, 0.5, 1e-6, 10.0])
@pytest.mark.parametrize("single_isoform", [True, False])
def test_gene_weights_as_a_loop_computes_them(both, c, single_isoform):
    weights, expected = both.gene_weights(c, single_isoform), slow_weights(both, c, single_isoform)
    assert weights.index.tolist() == list(expected) and np.allclose(weights, list(expected.values()), rtol=1e-12)
    assert np.isclose(weights[weights > 0].mean(), 1) and ((weights > 0).all() or not single_isoform) and np.isfinite(weights).all()


def test_gene_weights_where_no_gene_has_two_transcripts(both, tmp_path):
    first = both.transcripts.drop_duplicates("gene_id").index.to_numpy()
    store = both.subset(tmp_path / "s", first)
    assert np.allclose(store.gene_weights(), 1) and (store.gene_weights(single_isoform=False) == 0).all() and len(store.gene_weights()) == len(first)
    assert store.gene_weights(single_isoform=False).dtype == float
    for c in (0, -1):
        with pytest.raises(ConfigError, match="c = "):
            store.gene_weights(c)


# opening and damage

def test_opening_reads_no_table_and_no_nucleotides(both, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the table was read")

    for owner in (pd, pq):
        monkeypatch.setattr(owner, "read_parquet" if owner is pd else "read_table", refuse)
    store = TranscriptStore.open(both.path)
    assert len(store) == 16 and store.species == ["ant", "bee"] and store.content_hash == both.content_hash and "16 transcripts" in repr(store)
    assert isinstance(store.nucleotides, np.memmap) and not store.nucleotides.flags.writeable
    with pytest.raises(AssertionError, match="the table was read"):
        store.transcripts


def test_another_format_version_is_refused(both, tmp_path):
    for version in (FORMAT_VERSION - 1, FORMAT_VERSION + 1, "2", None):
        shutil.copytree(both.path, tmp_path / "s", dirs_exist_ok=True)
        info = {**both.info, "format_version": version}
        (tmp_path / "s" / "store.json").write_text(json.dumps(info))
        with pytest.raises(InputError, match=f"is of format {version}, this isoclr reads {FORMAT_VERSION}"):
            TranscriptStore.open(tmp_path / "s")
    del info["format_version"]
    for content in (json.dumps(info), "[]", "1", "", "{"):
        (tmp_path / "s" / "store.json").write_text(content)
        with pytest.raises(InputError, match="is damaged"):
            TranscriptStore.open(tmp_path / "s")


@pytest.mark.parametrize("key", ["content_hash", "n_transcripts", "n_nucleotides", "species"])
def test_a_store_json_that_lacks_something(both, tmp_path, key):
    shutil.copytree(both.path, tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text(json.dumps({name: value for name, value in both.info.items() if name != key}))
    with pytest.raises(InputError, match="is damaged"):
        TranscriptStore.open(tmp_path / "s").validate()


def test_a_species_list_or_counts_that_are_wrong_are_found(both, tmp_path):
    shutil.copytree(both.path, tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text(json.dumps({**both.info, "species": ["ant", "cow"]}))
    with pytest.raises(InputError, match="is damaged"):
        TranscriptStore.open(tmp_path / "s").validate()


@pytest.fixture(scope="module")
def spare(both, tmp_path_factory):
    "A copy of a store, to be damaged."
    return shutil.copytree(both.path, tmp_path_factory.mktemp("spare") / "s")


@settings(anywhere, max_examples=400)
@given(st.sampled_from(["nucleotides.npy", "transcripts.parquet"]), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_every_flipped_byte_is_found(both, spare, name, where, flip):
    "Or else it changes nothing that is read, as in the name of the program that wrote the Parquet file."
    data = bytearray((both.path / name).read_bytes())
    data[int(where * len(data))] ^= flip
    try:
        (spare / name).write_bytes(data)
        store = TranscriptStore.open(spare)
        store.validate()
        assert name == "transcripts.parquet" or (np.array_equal(store.nucleotides, both.nucleotides) and store.nucleotides.dtype == np.uint8)
        pd.testing.assert_frame_equal(store.transcripts, both.transcripts)
        assert [one.sequence for one in store] == [one.sequence for one in both]
    except InputError as error:
        assert str(spare) in str(error)
    finally:
        shutil.copyfile(both.path / name, spare / name)


def test_every_flipped_bit_of_the_nucleotides_is_found(both, spare):
    whole = (both.path / "nucleotides.npy").read_bytes()
    begin = len(whole) - len(both.nucleotides)
    try:
        for at in range(0, len(both.nucleotides), 7):
            data = bytearray(whole)
            data[begin + at] ^= 1 << (at % 8)
            (spare / "nucleotides.npy").write_bytes(data)
            with pytest.raises(InputError, match="does not have the hash"):
                TranscriptStore.open(spare).validate()
    finally:
        shutil.copyfile(both.path / "nucleotides.npy", spare / "nucleotides.npy")


@pytest.mark.parametrize("name", ["nucleotides.npy", "transcripts.parquet"])
def test_a_byte_too_many_or_too_few_is_found(both, spare, name):
    whole = (both.path / name).read_bytes()
    try:
        for data in (whole[:-1], whole[: len(whole) // 2], whole[:3], b"", b"\0" + whole, whole + b"\0"):
            (spare / name).write_bytes(data)
            try:
                TranscriptStore.open(spare).validate()
                assert data[:-1] == whole and name == "nucleotides.npy"  # behind the array, where nothing is read
            except InputError as error:
                assert f"{spare} is damaged" in str(error)
    finally:
        (spare / name).write_bytes(whole)
    TranscriptStore.open(spare).validate()


def test_a_store_of_other_tables_does_not_validate(both, apart, spare):
    shutil.copyfile(apart[0].path / "transcripts.parquet", spare / "transcripts.parquet")
    with pytest.raises(InputError, match="is damaged: 8 transcripts, where store.json says 16"):
        TranscriptStore.open(spare)
    shutil.copyfile(both.path / "transcripts.parquet", spare / "transcripts.parquet")
    tokens = np.load(both.path / "nucleotides.npy")
    marks = tokens.copy()
    marks[(tokens & (CODON | EXON_END)) > 0] &= 7  # the sequence is right, the marks are gone
    np.save(spare / "nucleotides.npy", marks)
    with pytest.raises(InputError, match="does not have the hash"):
        TranscriptStore.open(spare).validate()
    shutil.copyfile(both.path / "nucleotides.npy", spare / "nucleotides.npy")


@pytest.mark.parametrize("column", SCHEMA.names)
def test_a_change_in_any_column_does_not_validate(both, spare, column):
    table = both.transcripts
    last = table[column].iloc[-1]
    changed = [*table[column].iloc[:-1], last + "x" if isinstance(last, str) else last + 1]
    try:
        pq.write_table(pa.Table.from_pandas(table.assign(**{column: changed}), SCHEMA, preserve_index=False), spare / "transcripts.parquet")
        with pytest.raises(InputError, match="is damaged"):
            TranscriptStore.open(spare).validate()
    finally:
        shutil.copyfile(both.path / "transcripts.parquet", spare / "transcripts.parquet")


def test_a_table_of_other_types_does_not_validate(both, spare):
    "As one flipped byte in the footer makes of text: bytes, which no name is equal to."
    table = pq.read_table(both.path / "transcripts.parquet")
    try:
        for name in SCHEMA.names:
            if table.schema.field(name).type == pa.string():
                at = table.schema.get_field_index(name)
                pq.write_table(table.set_column(at, name, table[name].cast(pa.binary())), spare / "transcripts.parquet")
                with pytest.raises(InputError, match="is damaged"):
                    TranscriptStore.open(spare).validate()
    finally:
        shutil.copyfile(both.path / "transcripts.parquet", spare / "transcripts.parquet")
