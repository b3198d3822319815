"""Features against slow counting, on fabricated transcripts."""
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError
from isoclr.data.features import codon_usage, engineered_features, kmer_frequencies, kmer_names
from isoclr.data.genome import encode_bases
from isoclr.data.tracks import tokens_from_exons

NAMES = ("length", "utr5_length", "cds_length", "utr3_length", "cds_share", "exons", "exon_density", "cds_junction_density", "gc", "gc_utr5", "gc_cds", "gc_utr3", "gc_codon_3")


def store_of(*transcripts):
    "A stand-in for a store: (sequence, exon lengths, cds_start, cds_end, bases of the first codon before the CDS) each."
    tokens = [tokens_from_exons(encode_bases(s), np.array(exons), start, end, *frame) for s, exons, start, end, *frame in transcripts]

    class Store(SimpleNamespace):
        def __len__(self):
            return len(tokens)

    table = pd.DataFrame([(start, end, len(s)) for s, _, start, end, *_ in transcripts], columns=["cds_start", "cds_end", "length_nt"])
    return Store(transcripts=table, tokens=lambda i: tokens[i])


def coding(sequence, start=0, end=None, frame=0):
    "One exon with a CDS."
    return sequence, [len(sequence)], start, len(sequence) if end is None else end, frame


def non_coding(sequence):
    return sequence, [len(sequence)], -1, -1


def slow_words(sequence, size):
    "All words without N, one by one."
    windows = [sequence[i : i + size] for i in range(len(sequence) - size + 1)]
    return [window for window in windows if "N" not in window]


def slow_words_in_frame(sequence, start, end, frame, size):
    "Words without N that begin a codon and end inside the CDS, one by one."
    windows = [sequence[i : i + size] for i in range(start + (3 - frame) % 3, end - size + 1, 3)]
    return [window for window in windows if "N" not in window]


@st.composite
def transcripts(draw):
    "A transcript with a CDS or without."
    sequence = draw(st.text("ACGTN", min_size=1, max_size=60))
    if draw(st.booleans()):
        return non_coding(sequence)
    start = draw(st.integers(0, len(sequence) - 1))
    return coding(sequence, start, draw(st.integers(start + 1, len(sequence))), draw(st.integers(0, 2)))


@settings(max_examples=60, deadline=None)
@given(st.text("ACGTN", min_size=1, max_size=60), st.sets(st.integers(1, 5), min_size=1))
def test_kmers_equal_slow_counting(sequence, k):
    found = kmer_frequencies(store_of(non_coding(sequence)), k)[0]
    names = kmer_names(k)
    assert len(names) == len(found) == sum(4**size for size in k)
    for name, value in zip(names, found):
        windows = slow_words(sequence, len(name))
        assert value == pytest.approx(windows.count(name) / len(windows) if windows else 0)


def test_long_words_equal_slow_counting():
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACGTN"), n, p=[0.3, 0.2, 0.2, 0.28, 0.02])) for n in (6, 7, 800, 2000)]
    found, names = kmer_frequencies(store_of(*map(non_coding, sequences)), range(3, 8), sparse=True), kmer_names(range(3, 8))
    assert found.shape == (4, 21_824)
    for row, sequence in enumerate(sequences):
        expected = {}
        for size in range(3, 8):
            windows = slow_words(sequence, size)
            expected |= {word: windows.count(word) / len(windows) for word in set(windows)}
        one = found[[row]].tocoo()
        assert {names[column]: value for column, value in zip(one.coords[1], one.data)} == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(transcripts(), st.sets(st.sampled_from([1, 2, 3, 4]), min_size=1))
def test_words_in_frame_equal_slow_counting(transcript, k):
    found = kmer_frequencies(store_of(transcript), k, in_frame=True)[0]
    sequence, _, start, end, *frame = transcript
    for name, value in zip(kmer_names(k), found):
        windows = slow_words_in_frame(sequence, start, end, frame[0], len(name)) if start >= 0 else []
        assert value == pytest.approx(windows.count(name) / len(windows) if windows else 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(transcripts(), min_size=1, max_size=6), st.sets(st.integers(1, 4), min_size=1), st.booleans())
def test_sparse_is_dense_and_rows_keep_their_order(several, k, in_frame):
    store = store_of(*several)
    dense, sparse = kmer_frequencies(store, k, in_frame=in_frame), kmer_frequencies(store, k, sparse=True, in_frame=in_frame)
    assert sparse.format == "csr" and sparse.dtype == dense.dtype == np.float32 and sparse.has_canonical_format
    assert np.array_equal(sparse.toarray(), dense) and (sparse.data > 0).all()
    for row, one in enumerate(several):
        assert np.array_equal(kmer_frequencies(store_of(one), k, in_frame=in_frame)[0], dense[row])


def test_frequencies_of_each_length_add_up():
    store, begin = store_of(non_coding("ACGTNACGTTGCA"), non_coding("AC"), non_coding("NNNN")), 0
    frequencies = kmer_frequencies(store, (1, 3, 4))
    for size, expected in ((1, [1, 1, 0]), (3, [1, 0, 0]), (4, [1, 0, 0])):  # nothing so short has a word of 3
        assert frequencies[:, begin : begin + 4**size].sum(1) == pytest.approx(expected)
        begin += 4**size


def test_sparse_frequencies_take_the_memory_of_the_words_that_occur():
    rng = np.random.default_rng(0)
    store = store_of(*(non_coding("".join(rng.choice(list("ACGT"), 300))) for _ in range(500)))
    tracemalloc.start()
    found = kmer_frequencies(store, range(3, 8), sparse=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    dense = 500 * 21_824 * 4
    assert found.nnz < 500 * 5 * 300 and peak < dense / 3


def test_kmer_names():
    assert kmer_names((2, 1)) == [*"ACGT", *(a + b for a in "ACGT" for b in "ACGT")] == kmer_names(range(1, 3))
    assert kmer_names(3) == kmer_names((3,)) == kmer_names(np.array([3, 3])) and len(kmer_names(range(3, 8))) == 21_824


@pytest.mark.parametrize("k", [(), (0,), (3, 9), (2.5,), ("5",), 0])
def test_impossible_word_lengths(k):
    for words in (kmer_names, lambda k: kmer_frequencies(store_of(non_coding("ACGT")), k)):
        with pytest.raises(ConfigError, match="whole numbers between 1 and 8"):
            words(k)


def test_codon_usage_by_hand():
    #                  GC ATG GCN GCC GCC TAA A
    usage = codon_usage(store_of(coding("GCATGGCNGCCGCCTAAA", 2, 17), non_coding("ATGGCC"), coding("ATGA")))
    assert list(usage.columns) == kmer_names((3,)) and usage.shape == (3, 64)
    assert usage.loc[0, ["ATG", "GCC", "TAA"]].tolist() == [0.25, 0.5, 0.25] and usage.loc[0].sum() == 1  # the codon with N is not one
    assert (usage.loc[1] == 0).all()
    assert usage.loc[2, "ATG"] == 1  # the incomplete codon at the end is none


def test_codons_in_the_frame_of_an_incomplete_cds():
    usage = codon_usage(store_of(coding("CATGGCC", frame=2), coding("GCATGGCC", frame=1), coding("ATGGCC", frame=0)))
    assert (usage[["ATG", "GCC"]] == 0.5).all(axis=None)


def test_relative_synonymous_codon_usage_is_as_defined():
    "A codon's count over the mean count of the codons of its amino acid, in Biopython's table of the standard code."
    table = pytest.importorskip("Bio.Data.CodonTable", reason="Biopython is not installed").unambiguous_dna_by_id[1]
    acid = table.forward_table | dict.fromkeys(table.stop_codons, "*")
    assert sorted(acid) == kmer_names((3,))
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACGT"), 3 * n, p=[0.4, 0.1, 0.2, 0.3])) for n in (1, 5, 40, 400)]
    usage = codon_usage(store_of(*map(coding, sequences), non_coding("ATGGCC")), rscu=True)
    for row, sequence in enumerate(sequences):
        codons = [sequence[i : i + 3] for i in range(0, len(sequence), 3)]
        for codon in acid:
            counts = [codons.count(other) for other in acid if acid[other] == acid[codon]]
            expected = codons.count(codon) * len(counts) / sum(counts) if sum(counts) else 1
            assert usage.loc[row, codon] == pytest.approx(expected, rel=1e-5)
    assert (usage.loc[4] == 1).all()


def test_engineered_features_by_hand():
    #           5'UTR  CDS              3'UTR   junctions after 4 and 12
    sequence = "GCN" + "ATGGCCGAATAA" + "ATTTA"
    row = engineered_features(store_of((sequence, [5, 8, 7], 3, 15))).iloc[0]
    assert 2 ** row[["length", "utr5_length", "cds_length", "utr3_length"]].to_numpy(float) - 1 == pytest.approx([20, 3, 12, 5])
    assert row.cds_share == 0.6 and row.exon_density == 150 and row.exons == 2
    assert row.cds_junction_density == pytest.approx(1000 * 2 / 12)
    assert row.gc == pytest.approx(7 / 19) and row.gc_utr5 == 1 and row.gc_utr3 == 0 and row.gc_cds == pytest.approx(5 / 12)
    assert row.gc_codon_3 == pytest.approx(2 / 4)  # ATG GCC GAA TAA
    assert tuple(row.index) == NAMES


@pytest.mark.parametrize("first_exon, inside", [(2, 0), (3, 0), (4, 1), (14, 1), (15, 0), (16, 0)])
def test_a_junction_is_inside_the_cds_where_both_sides_are(first_exon, inside):
    row = engineered_features(store_of(("GCNATGGCCGAATAAATTTA", [first_exon, 20 - first_exon], 3, 15))).iloc[0]
    assert row.cds_junction_density == pytest.approx(1000 * inside / 12) and row.exon_density == 100


@settings(max_examples=60, deadline=None)
@given(transcripts(), transcripts())
def test_parts_of_a_transcript_add_up(one, other):
    features = engineered_features(store_of(one, other))
    assert np.isfinite(features.to_numpy()).all()
    for (sequence, _, start, end, *_), row in zip((one, other), features.itertuples()):
        parts = [round(2**value - 1) for value in (row.utr5_length, row.cds_length, row.utr3_length)]
        assert parts == ([start, end - start, len(sequence) - end] if start >= 0 else [len(sequence), 0, 0])
        for part, gc in ((sequence[: parts[0]], row.gc_utr5), (sequence[start:end] if start >= 0 else "", row.gc_cds), (sequence[len(sequence) - parts[2] :], row.gc_utr3)):
            known = [base for base in part if base != "N"]
            assert gc == pytest.approx(sum(base in "GC" for base in known) / len(known) if known else row.gc)


def test_non_coding_and_unknown_bases_give_finite_features():
    features = engineered_features(store_of(("ACGTACGTGG", [10], -1, -1), ("NNNN", [2, 2], -1, -1), ("ATGTAA", [6], 0, 6)))
    assert np.isfinite(features.to_numpy()).all()
    assert features.cds_share.tolist() == [0, 0, 1] and features.cds_junction_density.tolist() == [0, 0, 0]
    assert features.gc_cds[0] == features.gc[0] and features.gc[1] == 0.5 and features.gc_utr5[2] == features.gc[2]
