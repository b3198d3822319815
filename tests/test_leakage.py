"""The report of leaks against sets of strings, and planted leaks that it must tell."""
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import InputError
from isoclr.probe import leakage
from isoclr.probe.leakage import leakage_report, nearest_train, worst_pairs
from isoclr.probe.similarity import word_sets
from isoclr.probe.splits import Split, SplitConfig, task_splits
from isoclr.probe.tasks import Task

LETTERS = np.array(list("ACGT"))


def random_sequence(rng, n):
    return "".join(rng.choice(LETTERS, n))


def mutated(rng, sequence, share):
    letters = np.array(list(sequence))
    changed = rng.random(len(letters)) < share
    letters[changed] = LETTERS[(np.searchsorted(LETTERS, letters[changed]) + rng.integers(1, 4, changed.sum())) % 4]
    return "".join(letters)


def words_of(sequence, k):
    return {sequence[i : i + k] for i in range(len(sequence) - k + 1) if "N" not in sequence[i : i + k]}


def containment(one, other, k):
    "Share of one's words that another has: the definition."
    if one == other:
        return 1.0
    own = words_of(one, k)
    return len(own & words_of(other, k)) / len(own) if own else 0.0


@st.composite
def cases(draw):
    "Sequences with shared stretches; some short, some with N, some twice; and a division."
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    origins = ["".join(rng.choice(list(draw(st.sampled_from(["ACGT", "AC", "ACGTN"]))), 60)) for _ in range(3)]
    sequences = []
    for _ in range(draw(st.integers(2, 20))):
        begin, end = np.sort(rng.integers(0, 61, 2))
        sequences.append(origins[rng.integers(3)][begin:end] + "".join(rng.choice(LETTERS, rng.integers(0, 20))))
    side = rng.integers(0, 3, len(sequences))
    side[rng.permutation(len(sequences))[:2]] = [0, 1]
    return sequences, np.flatnonzero(side == 1), np.flatnonzero(side == 0)


@settings(max_examples=200, deadline=None)
@given(cases(), st.integers(2, 20), st.sampled_from([1, 40, 20_000_000]))
def test_the_nearest_is_that_of_comparing_all_pairs(case, k, block):
    sequences, test, train = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leakage, "_BLOCK", block)
        found, nearest = nearest_train(word_sets(sequences, k=k), test, train)
    every = np.array([[containment(sequences[t], sequences[r], k) for r in train] for t in test])
    assert found == pytest.approx(every.max(1))
    assert set(nearest.tolist()) <= set(train.tolist())
    assert [containment(sequences[t], sequences[r], k) for t, r in zip(test, nearest, strict=True)] == pytest.approx(every.max(1))


@pytest.fixture
def families():
    "Forty genes of twenty families of two, three isoforms each, with their sequences; a task of transcripts and one of genes."
    rng = np.random.default_rng(0)
    sequences, lines = [], []
    for gene in range(40):
        if gene % 2 == 0:
            exons = [random_sequence(rng, 150) for _ in range(5)]
        exons = [mutated(rng, exon, 0.02 if gene % 2 else 0) for exon in exons]
        for isoform in range(3):
            sequences.append("".join(exon for i, exon in enumerate(exons) if i != isoform + 1))
            lines.append(("x", f"t{gene}.{isoform}", f"x:g{gene}", f"n{gene}", f"chr{gene % 3}", f"family{gene // 2}"))
    obs = pd.DataFrame(lines, columns=["species", "transcript_id", "gene_id", "gene_name", "chrom", "group"])
    transcripts = Task.from_table(obs[["transcript_id"]].assign(y=rng.normal(size=120)), obs, name="transcripts", value="y", species="x")
    genes = Task.from_table(obs[["gene_name"]].drop_duplicates().assign(y=rng.normal(size=40)), obs, name="genes", value="y", match="gene_name", species="x")
    return obs, sequences, transcripts, genes


def splits_of(task, obs, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return task_splits(task, obs, SplitConfig(kind=kind, seeds=(0, 1), test_fraction=0.3))


def test_what_each_kind_of_split_leaks(families):
    obs, sequences, transcripts, genes = families
    words = word_sets(sequences)
    for task in (transcripts, genes):
        of = {kind: leakage_report(task, splits_of(task, obs, kind), obs, words) for kind in ("random", "gene", "chromosome", "homology")}
        assert all((report.n_train + report.n_test == len(task)).all() and (report.n_left_out == 0).all() and (report.split == kind).all() for kind, report in of.items())
        safe = of["homology"]
        assert (safe[["shared_transcripts", "shared_genes", "shared_groups", "in_shared_groups", "identical", "above_0.5", "above_0.9"]] == 0).all(axis=None) and safe.nearest_max.max() < 0.05
        assert (of["gene"].shared_genes == 0).all() and (of["gene"].shared_groups > 0).all() and (of["gene"]["above_0.5"] > 0.3).all()
        assert (of["chromosome"].in_shared_groups > 0.9).all()
    assert (of["random"].shared_genes == 0).all(), "a gene is one unit of a task of genes"
    shuffled = leakage_report(transcripts, splits_of(transcripts, obs, "random"), obs, words)
    assert (shuffled.shared_genes > 10).all() and (shuffled["above_0.5"] > 0.9).all()


def test_the_report_is_that_of_the_definition(families):
    "Every column, counted with sets, for a task of genes; the worst pairs, too."
    obs, sequences, _, genes = families
    k, split = 12, splits_of(genes, obs, "gene")[0]
    sequences = list(sequences)
    sequences[genes.rows[genes.unit_of_row == split.test[0]][1]] = sequences[genes.rows[genes.unit_of_row == split.train[0]][0]]
    (report,) = leakage_report(genes, [split], obs, sequences, k=k).to_dict("records")
    assert report["identical"] == 1
    rows = {unit: np.flatnonzero(obs.gene_id == name).tolist() for unit, name in enumerate(genes.units)}
    trained = [row for unit in split.train for row in rows[unit]]
    per_unit = np.array([max(containment(sequences[t], sequences[r], k) for t in rows[unit] for r in trained) for unit in split.test])
    identical = sum(any(sequences[t] == sequences[r] for t in rows[unit] for r in trained) for unit in split.test)
    group = {unit: obs.group[rows[unit][0]] for unit in rows}
    of_train, of_test = {group[unit] for unit in split.train}, [group[unit] for unit in split.test]
    assert report == pytest.approx({
        "split": "gene", "seed": 0, "fold": 0, "n_train": 28, "n_test": 12, "n_left_out": 0, "shared_transcripts": 0, "shared_genes": 0, "shared_groups": len(of_train & set(of_test)),
        "in_shared_groups": np.mean([one in of_train for one in of_test]), "identical": identical, "nearest_50": np.quantile(per_unit, 0.5), "nearest_90": np.quantile(per_unit, 0.9),
        "nearest_max": per_unit.max(), "above_0.5": (per_unit > 0.5).mean(), "above_0.9": (per_unit > 0.9).mean(), "one_in": 1})
    pairs = worst_pairs(genes, split, obs, sequences, k=k, n=5)
    assert pairs.containment.tolist() == pytest.approx(np.sort(per_unit)[::-1][:5]) and pairs.test.is_unique
    for pair in pairs.itertuples():
        t, r = (int(np.flatnonzero(obs.transcript_id == name)[0]) for name in (pair.test_transcript_id, pair.train_transcript_id))
        assert containment(sequences[t], sequences[r], k) == pytest.approx(pair.containment)
        assert (obs.gene_id[t], obs.gene_id[r]) == (pair.test, pair.train) == (pair.test_gene_id, pair.train_gene_id)
        assert pair.same_gene == (pair.test == pair.train) and pair.same_group == (obs.group[t] == obs.group[r])


def joined(obs, sequences, line, sequence):
    return pd.concat([obs, pd.DataFrame([line], columns=obs.columns)], ignore_index=True), [*sequences, sequence]


@pytest.mark.parametrize("leak", ["a copy under another gene name", "an isoform of a tested gene", "a homolog without a group"])
def test_a_planted_leak_is_caught(families, leak):
    "A transcript is added to the train side; nothing else of its family is there, and the split claims to be safe."
    obs, sequences, task, _ = families
    split, rng = splits_of(task, obs, "homology")[0], np.random.default_rng(1)
    clean = leakage_report(None, [split], obs, sequences)
    row = int(split.test[5])
    original = obs.iloc[row]
    line, sequence = {
        "a copy under another gene name": (("x", "new", "x:new", "new", "chr9", "new"), sequences[row]),
        "an isoform of a tested gene": (("x", "new", original.gene_id, original.gene_name, "chr9", original.group), sequences[row][:300] + sequences[row][420:]),
        "a homolog without a group": (("x", "new", "x:new", "new", "chr9", "new"), mutated(rng, sequences[row], 0.003)),
    }[leak]
    obs, sequences = joined(obs, sequences, line, sequence)
    split = split._replace(train=np.r_[split.train, len(obs) - 1])
    with pytest.warns(UserWarning) as caught:
        report = leakage_report(None, [split], obs, sequences).iloc[0]
    text = " ".join(str(warning.message) for warning in caught)
    assert clean.nearest_max[0] < 0.05 and report.nearest_max > 0.7
    if leak == "an isoform of a tested gene":
        assert report.shared_genes == report.shared_groups == 1 and report.in_shared_groups > 0 and "share groups between train and test, 1 with seed 0, fold 0" in text
    else:
        assert report.shared_genes == report.shared_groups == 0 < report["above_0.9"] and "homology table does not know" in text
        assert report.identical == (leak == "a copy under another gene name")
    worst = worst_pairs(None, split, obs, sequences, n=1).iloc[0]
    assert (worst.test, worst.train) == (f"x|{original.transcript_id}", "x|new") or worst.test_gene_id == original.gene_id and worst.train == "x|new"
    assert worst.same_gene == worst.same_group == (leak == "an isoform of a tested gene")


def test_a_safe_split_raises_no_warning_and_names_alone_will_do(families):
    obs, sequences, task, _ = families
    splits = splits_of(task, obs, "homology")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full, names = leakage_report(task, splits, obs, sequences), leakage_report(task, splits, obs)
        leakage_report(task, splits_of(task, obs, "random"), obs, sequences)  # claims nothing
    pd.testing.assert_frame_equal(names, full[names.columns])
    assert "identical" not in names and names.columns[-1] == "in_shared_groups"
    with pytest.warns(UserWarning, match="2 of 2 splits by homology share groups"):
        leakage_report(task, splits, obs.assign(group="one"))


def test_units_on_neither_side_and_on_both(families):
    obs, _, task, _ = families
    some = Split(3, np.arange(0, 60), np.arange(90, 120), 120, 2, "gene")
    report = leakage_report(task, [some, some._replace(test=np.arange(50, 90))], obs)
    assert report.n_left_out.tolist() == [30, 30] and report.shared_transcripts.tolist() == [0, 10] and (report.seed == 3).all() and (report.fold == 2).all()


def test_sampled_words_say_so_and_keep_the_verdict(families):
    obs, sequences, task, _ = families
    splits = splits_of(task, obs, "gene")
    exact, sampled = (leakage_report(task, splits, obs, word_sets(sequences, max_words=most)) for most in (10**7, 20_000))
    assert (exact.one_in == 1).all() and (sampled.one_in == 4).all()
    assert sampled.nearest_50.to_numpy() == pytest.approx(exact.nearest_50.to_numpy(), abs=0.1)


def test_what_does_not_fit(families):
    obs, sequences, task, _ = families
    splits = splits_of(task, obs, "homology")
    with pytest.raises(InputError, match="119 sequences for 120 transcripts"):
        leakage_report(task, splits, obs, sequences[:-1])
    with pytest.raises(InputError, match="no column 'group'"):
        leakage_report(task, splits, obs.drop(columns="group"))
    with pytest.raises(InputError, match="0 to test"):
        leakage_report(task, [splits[0]._replace(test=np.array([], dtype=int))], obs)
    with pytest.raises(InputError, match="none of this task"):
        leakage_report(task, [splits[0]._replace(test=np.array([500]))], obs)
    with pytest.raises(InputError, match="119 sequences"):
        worst_pairs(task, splits[0], obs, sequences[:-1])
    rows = np.arange(120)[::-1]
    pd.testing.assert_frame_equal(leakage_report(task, splits, obs, sequences[::-1], rows), leakage_report(task, splits, obs, sequences))


def test_splits_with_an_empty_side_and_no_splits_are_refused():
    obs = pd.DataFrame({"species": "human", **{name: list("abcd") for name in ("transcript_id", "gene_id", "group")}})
    rows, none = np.arange(4), np.arange(0)
    for empty in (Split(0, none, rows[:2], 4), Split(0, rows[:2], none, 4)):
        for of in (lambda: worst_pairs(None, empty, obs, ["ACGTTGCA" * 4] * 4), lambda: leakage_report(None, [empty], obs)):
            with pytest.raises(InputError, match="units to train on and"):
                of()
    with pytest.raises(InputError, match="no splits"):
        leakage_report(None, [], obs)


@pytest.mark.data
def test_what_splits_of_real_regions_leak(shared_data, tmp_path):
    "Isoforms by transcript, homologs by gene; by homology only what HomoloGene does not know: CDK11A and its twin CDK11B."
    from isoclr.data.build import SpeciesSource, build_store
    from isoclr.data.homology import read_homology

    sources = [
        SpeciesSource("human", str(shared_data / "genome/hg38.regions.fa.gz"), str(shared_data / "annotation/hg38.regions.refseq.genePred.tsv.gz")),
        SpeciesSource("mouse", str(shared_data / "genome/mm10.regions.fa.gz"), str(shared_data / "annotation/mm10.regions.gencodeVM18.genePred.tsv.gz")),
    ]
    homology = read_homology(shared_data / "homology/homologene_build68.tsv.gz", {"human": 9606, "mouse": 10090})
    store = build_store(tmp_path / "store", sources, homology, progress=False)
    obs, words = store.transcripts, word_sets(store)
    labels = obs[["species", "transcript_id"]].assign(length=np.log2(obs.length_nt))
    task = Task.from_table(labels, obs, name="length", value="length")
    reports, splits = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in ("random", "gene", "homology"):
            splits[kind] = task_splits(task, obs, SplitConfig(kind=kind, seeds=(0, 1, 2)))
            reports[kind] = leakage_report(task, splits[kind], obs, words)
    medians = {kind: report.nearest_50.mean() for kind, report in reports.items()}
    assert medians["random"] > 0.85 and 0.02 < medians["gene"] < 0.1 and medians["homology"] < 0.01
    assert (reports["homology"].shared_groups == 0).all() and (reports["homology"]["above_0.5"] < 0.06).all() and (reports["gene"].in_shared_groups > 0.5).all()
    pairs = pd.concat([worst_pairs(task, split, obs, words) for split in splits["homology"]])
    assert {("human:CDK11A", "human:CDK11B"), ("human:CDK11B", "human:CDK11A")} & set(zip(pairs.test_gene_id, pairs.train_gene_id, strict=True)) and not pairs.same_group.any()
