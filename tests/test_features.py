"""Features against slow counting, on fabricated transcripts."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError
from isoclr.data.features import engineered_features, kmer_frequencies, kmer_names
from isoclr.data.genome import encode_bases
from isoclr.data.tracks import tokens_from_exons


def store_of(*transcripts):
    "A stand-in for a store: (sequence, exon lengths, cds_start, cds_end) each."
    tokens = [tokens_from_exons(encode_bases(s), np.array(exons), start, end) for s, exons, start, end in transcripts]

    class Store(SimpleNamespace):
        def __len__(self):
            return len(tokens)

    table = pd.DataFrame([(start, end, len(s)) for s, _, start, end in transcripts], columns=["cds_start", "cds_end", "length_nt"])
    return Store(transcripts=table, tokens=lambda i: tokens[i])


@settings(max_examples=60, deadline=None)
@given(st.text("ACGTN", min_size=1, max_size=60), st.sets(st.integers(1, 5), min_size=1))
def test_kmers_equal_slow_counting(sequence, k):
    found = kmer_frequencies(store_of((sequence, [len(sequence)], -1, -1)), k)[0]
    names = kmer_names(k)
    assert len(names) == len(found) == sum(4**size for size in k)
    for name, value in zip(names, found):
        windows = [sequence[i : i + len(name)] for i in range(len(sequence) - len(name) + 1)]
        windows = [w for w in windows if "N" not in w]
        assert value == pytest.approx(windows.count(name) / len(windows) if windows else 0)


def test_engineered_features_by_hand():
    #           5'UTR  CDS              3'UTR   junctions after 4 and 12
    sequence = "GCN" + "ATGGCCGAATAA" + "ATTTA"
    row = engineered_features(store_of((sequence, [5, 8, 7], 3, 15))).iloc[0]
    assert 2 ** row[["length", "utr5_length", "cds_length", "utr3_length"]].to_numpy(float) - 1 == pytest.approx([20, 3, 12, 5])
    assert row.cds_share == 0.6 and row.exon_density == 150 and row.exons == 2
    assert row.cds_junction_density == pytest.approx(1000 * 2 / 12)
    assert row.gc == pytest.approx(7 / 19) and row.gc_utr5 == 1 and row.gc_utr3 == 0 and row.gc_cds == pytest.approx(5 / 12)
    assert row.gc_codon_3 == pytest.approx(2 / 4)  # ATG GCC GAA TAA


def test_non_coding_and_unknown_bases_give_finite_features():
    features = engineered_features(store_of(("ACGTACGTGG", [10], -1, -1), ("NNNN", [2, 2], -1, -1), ("ATGTAA", [6], 0, 6)))
    assert np.isfinite(features.to_numpy()).all()
    assert features.cds_share.tolist() == [0, 0, 1] and features.cds_junction_density.tolist() == [0, 0, 0]
    assert features.gc_cds[0] == features.gc[0] and features.gc[1] == 0.5 and features.gc_utr5[2] == features.gc[2]


@pytest.mark.parametrize("k", [(), (0,), (3, 9)])
def test_impossible_word_lengths(k):
    with pytest.raises(ConfigError, match="between 1 and 8"):
        kmer_names(k)
