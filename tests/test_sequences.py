"""Sequences as a store: what the table says is what the store holds, and what contradicts itself is refused."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import InputError
from isoclr.data.build import SpeciesSource, build_store
from isoclr.data.homology import read_homology
from isoclr.data.sequences import store_of_sequences
from isoclr.data.simulate import SimulateConfig, simulate
from isoclr.data.store import TranscriptStore


def naive_tokens(sequence: str, exon_lengths: list[int], cds_start: int, cds_end: int) -> list[int]:
    "Letter by letter, as the format says it."
    ends, tokens = np.cumsum(exon_lengths).tolist(), []
    for i, letter in enumerate(sequence.upper().replace("U", "T")):
        token = "ACGT".index(letter) if letter in "ACGT" else 4
        if 0 <= cds_start <= i < cds_end and (i - cds_start) % 3 == 0:
            token += 8
        if i + 1 in ends:
            token += 16
        tokens.append(token)
    return tokens


@st.composite
def transcripts(draw):
    exons = draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    n = sum(exons)
    sequence = draw(st.text("ACGTUNacgtunRY", min_size=n, max_size=n))
    start, end = sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))
    return sequence, exons, *((start, end) if draw(st.booleans()) else (-1, -1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sequences")


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(transcripts(), min_size=1, max_size=6), exons_as=st.sampled_from(["exon_lengths", "exon_ends"]), empty=st.sampled_from([-1, None, np.nan]))
def test_tokens_are_those_of_the_slow_way(folder, rows, exons_as, empty):
    sequences, exons, starts, ends = zip(*rows)
    table = pd.DataFrame({
        "sequence": sequences, "cds_start": [start if start >= 0 else empty for start in starts], "cds_end": [end if end >= 0 else empty for end in ends],
        exons_as: [np.cumsum(lengths).tolist() if exons_as == "exon_ends" else lengths for lengths in exons],
    })
    store = store_of_sequences(folder / "naive", table, overwrite=True)
    store.validate()
    for i, row in enumerate(rows):
        assert store.tokens(i).tolist() == naive_tokens(*row)
        held = store.transcripts.iloc[i]
        assert (held.length_nt, held.cds_start, held.cds_end) == (len(row[0]), row[2], row[3])
        assert np.subtract(held.exon_ends, held.exon_starts).tolist() == row[1] and held.exon_starts[0] == 0


@pytest.fixture(scope="module")
def annotated(folder) -> TranscriptStore:
    simulation = simulate(folder / "genomes", SimulateConfig(n_families=6, seed=2), progress=False)
    sources = [SpeciesSource.from_dict(source) for source in simulation.sources]
    return build_store(folder / "annotated", sources, read_homology(simulation.homology, simulation.taxa), progress=False)


def test_a_store_comes_back_from_its_frame(annotated, folder):
    assert set(annotated.transcripts.strand) == {"+", "-"} and annotated.transcripts.exon_starts.map(len).max() > 1
    again = store_of_sequences(folder / "again", annotated.to_frame())
    pd.testing.assert_frame_equal(again.transcripts, annotated.transcripts)
    assert np.array_equal(again.nucleotides, annotated.nucleotides) and again.content_hash == annotated.content_hash


def test_rows_are_in_the_order_of_the_table(annotated, folder):
    rows = np.random.default_rng(0).permutation(len(annotated))[:7]
    store = store_of_sequences(folder / "order", annotated.to_frame(rows))
    assert store.transcripts.transcript_id.tolist() == annotated.transcripts.transcript_id.iloc[rows].tolist()
    assert [store.sequence(i) for i in range(7)] == [annotated.sequence(row) for row in rows]


@pytest.mark.parametrize("sequences", [["ACGU", "acgt", "NNN"], ("ACGU", "acgt", "NNN"), pd.Series(["ACGU", "acgt", "NNN"], index=[5, 5, 5]), iter(["ACGU", "acgt", "NNN"])])
def test_sequences_alone(folder, sequences):
    store = store_of_sequences(folder / "alone", sequences, overwrite=True)
    table = store.transcripts
    assert [store.sequence(i) for i in range(3)] == ["ACGT", "ACGT", "NNN"] and table.transcript_id.tolist() == ["1", "2", "3"]
    assert table.gene_id.tolist() == table.group.tolist() == ["unknown:1", "unknown:2", "unknown:3"]
    assert set(table.cds_start) == set(table.cds_end) == {-1} and set(table.species) == {"unknown"} and set(table.strand) == {"+"}
    assert (table[["gene_name", "chrom", "biotype", "appris"]] == "").all(axis=None)
    assert store.info["import"] == {"sequences": 3}


def test_what_else_a_table_may_say(folder):
    table = pd.DataFrame({
        "sequence": ["ACGT", "AC", "GG"], "species": ["human", "mouse", "human"], "transcript_id": ["a", "a", "b"], "gene_id": ["G1", "mouse:G1", "human:G2"],
        "appris": ["PRINCIPAL:1", None, ""], "biotype": ["b", "c", None], "group": ["x", "x", "y"], "ignored": [1, 2, 3],
    }, index=[7, 7, 9])
    before = table.copy()
    store = store_of_sequences(folder / "more", table)
    held = store.transcripts
    assert held.gene_id.tolist() == ["human:G1", "mouse:G1", "human:G2"] and held.transcript_id.tolist() == ["a", "a", "b"]
    assert held.appris.tolist() == ["PRINCIPAL:1", "", ""] and held.biotype.tolist() == ["b", "c", ""] and held.group.tolist() == ["x", "x", "y"]
    pd.testing.assert_frame_equal(table, before)  # the caller's table is left alone


def test_some_rows_may_have_exons_and_others_not(folder):
    table = pd.DataFrame({"sequence": ["ACGTAC", "ACG"], "exon_lengths": [[2, 4], None]})
    store = store_of_sequences(folder / "some", table)
    assert store[0].exon_ends.tolist() == [1, 5] and store[1].exon_ends.tolist() == [2]


@pytest.mark.parametrize("ends, expected", [(None, [5]), ([2, 6], [1, 5])])
def test_some_rows_may_lie_on_a_chromosome_and_others_not(folder, ends, expected):
    table = pd.DataFrame({"sequence": ["ACG", "ACGTAC"], "strand": "-", "exon_starts": [[10, 20], None], "exon_ends": [[11, 22], ends]})
    store = store_of_sequences(folder / "placed", table, overwrite=True)
    assert store.transcripts.exon_starts[0].tolist() == [10, 20] and store[0].exon_ends.tolist() == [1, 2] and store[1].exon_ends.tolist() == expected


ONE = {"sequence": ["AC", "ACGTAC"]}


@pytest.mark.parametrize("table, message", [
    (pd.DataFrame({"seq": ["ACGT"]}), "no column 'sequence'. It has: seq"),
    ([], "there is no sequence: give at least one"),
    (pd.DataFrame({"sequence": []}), "there is no sequence: give at least one"),
    (["ACGT", ""], r"transcript '2' \(row 1 of the table\): there is no sequence"),
    (["ACGT", None], r"transcript '2' \(row 1 of the table\): there is no sequence"),
    (["ACGT", 5], r"transcript '2' \(row 1 of the table\): there is no sequence"),
    (["AC GT!"], r"transcript '1' \(row 0 of the table\)"),
    (pd.DataFrame(ONE | {"transcript_id": ["x", "x"]}), r"transcript_id 'x' stands twice in the table \(row 1\)"),
    (pd.DataFrame(ONE | {"cds_start": [-1, 0]}), r"transcript '2' \(row 1 of the table\): cds_start is 0 and cds_end -1. Give both, or neither"),
    (pd.DataFrame(ONE | {"cds_start": [-1, 3], "cds_end": [-1, 7]}), r"transcript '2' \(row 1 of the table\): CDS 3 to 7"),
    (pd.DataFrame(ONE | {"cds_start": [-1, 3], "cds_end": [-1, 3]}), r"transcript '2' \(row 1 of the table\): CDS 3 to 3"),
    (pd.DataFrame(ONE | {"cds_start": ["-1", "three"], "cds_end": ["-1", "6"]}), r"transcript '2' \(row 1 of the table\)"),
    (pd.DataFrame(ONE | {"exon_lengths": [[2], [2, 3]]}), r"transcript '2' \(row 1 of the table\): Exons of .*2.*3.* nt do not make up a sequence of 6 nt"),
    (pd.DataFrame(ONE | {"exon_ends": [[2], [4, 4, 6]]}), r"transcript '2' \(row 1 of the table\): Exons of .*4.*0.*2.* nt do not make up"),
    (pd.DataFrame(ONE | {"exon_starts": [[0], [0, 9]], "exon_ends": [[2], [6]]}), r"transcript '2' \(row 1 of the table\)"),
    (pd.DataFrame(ONE | {"species": ["a b", "a b"]}), "species 'a b': give a short name"),
])
def test_what_contradicts_itself_is_refused(tmp_path, table, message):
    with pytest.raises(InputError, match=message):
        store_of_sequences(tmp_path / "store", table)
    assert not list(tmp_path.iterdir())


def test_a_store_that_is_there_stays_unless_asked(tmp_path):
    store_of_sequences(tmp_path / "store", ["ACGT"])
    with pytest.raises(InputError, match="holds a store already"):
        store_of_sequences(tmp_path / "store", ["GG"])
    assert TranscriptStore.open(tmp_path / "store").sequence(0) == "ACGT"
    assert store_of_sequences(tmp_path / "store", ["GG"], overwrite=True).sequence(0) == "GG"
