"""Words that sequences share, and the groups that they make, against sets of strings."""
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError
from isoclr.data.store import write_store
from isoclr.data.tracks import tokens_from_exons
from isoclr.data.genome import encode_bases
from isoclr.probe.similarity import similarity_groups, word_sets


def words_of(sequence, k):
    "The distinct words without N: the definition."
    sequence = sequence.upper().replace("U", "T")
    return {sequence[i : i + k] for i in range(len(sequence) - k + 1) if set(sequence[i : i + k]) <= set("ACGT")}


def linked(sequences, k, least):
    "Groups by comparing all pairs, joined until nothing changes: the definition."
    sets, group = [words_of(sequence, k) for sequence in sequences], list(range(len(sequences)))
    for a in range(len(sequences)):
        for b in range(a):
            common, fewer = len(sets[a] & sets[b]), min(len(sets[a]), len(sets[b]))
            if sequences[a] == sequences[b] or (common and common >= least * fewer - 1e-9):
                group = [group[a] if other == group[b] else other for other in group]
    return pd.factorize(np.array(group))[0]


@st.composite
def libraries(draw):
    "Pieces of few letters and few origins, so that words are shared; some with N, some too short, some twice."
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    letters = draw(st.sampled_from(["ACGT", "AC", "ACGTN", "AAAAAC"]))
    origins = ["".join(rng.choice(list(letters), 40)) for _ in range(draw(st.integers(1, 4)))]
    sequences = []
    for _ in range(draw(st.integers(1, 25))):
        origin = list(origins[rng.integers(len(origins))])
        for _ in range(rng.integers(0, 6)):
            origin[rng.integers(40)] = rng.choice(list(letters))
        begin = rng.integers(0, 30)
        sequences.append("".join(origin)[begin : begin + rng.integers(1, 41)])
    return sequences


@settings(max_examples=150, deadline=None)
@given(libraries(), st.integers(1, 12))
def test_words_are_those_of_the_definition(sequences, k):
    words, sets = word_sets(sequences, k=k), [words_of(sequence, k) for sequence in sequences]
    assert words.n_words.tolist() == [len(own) for own in sets] and (words.k, words.one_in) == (k, 1)
    common = (words.matrix @ words.matrix.T).toarray()
    for a, one in enumerate(sets):
        for b, other in enumerate(sets):
            assert a == b or common[a, b] == len(one & other)
    assert words.copy_of.tolist() == [sequences.index(sequence) for sequence in sequences]


@settings(max_examples=150, deadline=None)
@given(libraries(), st.integers(2, 12), st.sampled_from([0.05, 0.3, 0.5, 0.75, 1.0]))
def test_groups_are_those_of_comparing_all_pairs(sequences, k, least):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = similarity_groups(sequences, k=k, min_containment=least)
    assert labels.tolist() == [f"like{group}" for group in linked(sequences, k, least)]


def test_long_words_and_letters():
    rng = np.random.default_rng(0)
    sequence = "".join(rng.choice(list("ACGT"), 200))
    for k in (15, 21, 31):
        words = word_sets([sequence, sequence.lower().replace("t", "u"), sequence[:100] + "N" + sequence[101:]], k=k)
        assert words.copy_of.tolist() == [0, 0, 2] and words.n_words.tolist() == [201 - k] * 2 + [201 - 2 * k]
    for k in (0, 32):
        with pytest.raises(ConfigError, match="between 1 and 31"):
            word_sets([sequence], k=k)
    with pytest.raises(InputError):
        word_sets(["ACGT", "AC?T"], k=2)


def test_nothing_to_compare():
    assert word_sets([]).matrix.shape == (0, 0) and similarity_groups([]).tolist() == []
    assert similarity_groups(["ACGT", "", "NNN", "ACGT", ""]).tolist() == ["like0", "like1", "like2", "like0", "like1"]
    for least in (0, 1.1):
        with pytest.raises(ConfigError, match="min_containment"):
            similarity_groups(["ACGT"], min_containment=least)


def test_sampled_words_are_the_same_in_all_sequences_and_estimate_shares():
    rng = np.random.default_rng(0)
    one = "".join(rng.choice(list("ACGT"), 60_000))
    half = one[:30_000] + "".join(rng.choice(list("ACGT"), 30_000))
    exact, sampled = word_sets([one, half]), word_sets([one, half], max_words=12_000)
    assert exact.one_in == 1 and sampled.one_in == 10
    assert sampled.n_words == pytest.approx(exact.n_words / 10, rel=0.05)
    share = {words.one_in: (words.matrix @ words.matrix.T).toarray()[0, 1] / words.n_words[0] for words in (exact, sampled)}
    assert share[1] == pytest.approx(0.5, abs=0.001) and share[10] == pytest.approx(share[1], abs=3 * np.sqrt(0.25 / 6000))


def test_many_batches_are_one():
    "More than two million letters are cut into words in several rounds."
    rng = np.random.default_rng(0)
    whole = rng.choice(list("ACGT"), (300, 9000))
    whole[250:, :5000] = whole[:50, :5000]
    whole[250:, 5000] = np.where(whole[:50, 5000] == "A", "C", "A")
    sequences = ["".join(letters) for letters in whole]
    words = word_sets(sequences, k=31)
    common = (words.matrix @ words.matrix.T).toarray()
    assert words.n_words.tolist() == [8970] * 300 and (common[np.arange(250, 300), np.arange(50)] == 4970).all()
    assert (common > 0).sum() == 2 * 50 + 100


def test_a_store_is_read_by_its_rows(tmp_path):
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACGT"), 60)) for _ in range(4)]
    table = pd.DataFrame({"transcript_id": list("abcd"), "gene_id": [f"x:{c}" for c in "abcd"], "gene_name": "", "species": "x", "chrom": "1", "strand": "+", "exon_starts": [[0]] * 4,
                          "exon_ends": [[60]] * 4, "length_nt": 60, "cds_start": 0, "cds_end": 60})
    store = write_store(tmp_path / "store", table, [tokens_from_exons(encode_bases(sequence), [60], 0, 60) for sequence in sequences])
    rows = np.array([2, 0, 2])
    of_store, of_text = word_sets(store, rows, k=8), word_sets([sequences[row] for row in rows], k=8)
    assert (of_store.matrix != of_text.matrix).nnz == 0 and of_store.n_words.tolist() == of_text.n_words.tolist() and of_store.copy_of.tolist() == [0, 1, 0]
    assert similarity_groups(store, rows).tolist() == ["like0", "like1", "like0"]


def test_an_adapter_does_not_chain_and_a_chain_is_told():
    rng = np.random.default_rng(0)
    adapter = "".join(rng.choice(list("ACGT"), 25))
    own = ["".join(rng.choice(list("ACGT"), 50)) for _ in range(200)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(set(similarity_groups([adapter + sequence for sequence in own]))) == 200
    long = "".join(rng.choice(list("ACGT"), 1000))
    walk = [long[i : i + 50] for i in range(0, 900, 15)]
    with pytest.warns(UserWarning, match="60 of 60 sequences, chained"):
        assert set(similarity_groups(walk)) == {"like0"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(set(similarity_groups(walk, min_containment=0.8))) == 60


@pytest.mark.data
def test_variants_of_real_leaders_stay_together(shared_data):
    "Of 50,600 leaders none is apart from one that differs by a base; the largest group is a small share."
    leaders = pd.read_csv(shared_data / "mrl/sample2019_human5utr_mrl.tsv.gz", sep="\t")["utr"].tolist()
    group = pd.factorize(similarity_groups(leaders))[0]
    assert len(leaders) == 50_600 and np.bincount(group).max() == 82 and group.max() + 1 == 25_169
    hidden: dict[str, set[int]] = {}
    for leader, own in zip(leaders, group.tolist(), strict=True):
        for i in range(50):  # two that differ at i alone are the same without it
            hidden.setdefault(f"{leader[:i]}.{leader[i + 1:]}", set()).add(own)
    assert all(len(groups) == 1 for groups in hidden.values())
