"""Splits never share a group, whatever the groups look like, and have the size that was asked for wherever groups allow."""
import warnings
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError
from isoclr.probe.splits import SPLIT_KINDS, SplitConfig, fold_splits, group_splits, kfold_splits, label_strata, task_splits
from isoclr.probe.tasks import Task


@st.composite
def structures(draw):
    "Group sizes, giant ones among them, which groups are eligible, and a stratum of each unit; rows in any order."
    sizes = draw(st.lists(st.one_of(st.integers(1, 4), st.integers(50, 200)), min_size=4, max_size=40))
    held_out = draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    order = rng.permutation(sum(sizes))
    strata = rng.integers(0, 4, len(order)) if draw(st.booleans()) else None
    return np.repeat([f"g{i}" for i in range(len(sizes))], sizes)[order], np.repeat(held_out, sizes)[order], strata


def same(one, other):
    return len(one) == len(other) and all(a.train.tolist() == b.train.tolist() and a.test.tolist() == b.test.tolist() for a, b in zip(one, other))


@settings(max_examples=200, deadline=None)
@given(structures(), st.floats(0.05, 0.6))
def test_no_group_on_both_sides(structure, fraction):
    groups, eligible, strata = structure
    try:
        splits = group_splits(groups, range(3), fraction, eligible, strata)
    except InputError:
        assume(False)
    largest, wanted = np.unique(groups[eligible], return_counts=True)[1].max(), fraction * len(groups)
    for split in splits:
        assert not set(groups[split.train]) & set(groups[split.test])
        assert sorted([*split.train, *split.test]) == list(range(len(groups)))
        assert eligible[split.test].all() and len(split.test) and len(split.train)
        assert split.n_eligible == eligible.sum() and (split.fold, split.kind) == (0, "homology")
        assert abs(len(split.test) - wanted) <= max(largest / 2, 1) and abs(len(split.test) - wanted) <= max(wanted / 2, 1)
    assert same(splits, group_splits(groups, range(3), fraction, eligible, strata))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 5), st.integers(10, 60)), min_size=3, max_size=11), st.floats(0.05, 0.7), st.booleans(), st.integers(0, 99))
def test_the_size_is_the_best_that_any_choice_of_groups_gives(sizes, fraction, stratify, seed):
    groups = np.repeat([f"g{i}" for i in range(len(sizes))], sizes)
    wanted = fraction * len(groups)
    best = min(abs(sum(chosen) - wanted) for n in range(1, len(sizes)) for chosen in combinations(sizes, n))
    try:
        (split,) = group_splits(groups, [seed], fraction, strata=np.arange(len(groups)) % 3 if stratify else None)
    except InputError:
        assert best > max(wanted / 2, 1)
    else:
        assert abs(len(split.test) - wanted) == pytest.approx(best, abs=0.5 + 1e-9 if wanted < 0.5 else 1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 10), min_size=60, max_size=100), st.lists(st.integers(30, 300), max_size=3), st.booleans(), st.integers(0, 10**6))
def test_sizes_within_five_percent_of_asked_where_groups_allow(sizes, giants, stratify, seed):
    groups = np.repeat([f"g{i}" for i in range(len(sizes) + len(giants))], sizes + giants)
    assume(0.2 * len(groups) < 0.9 * sum(sizes))
    (split,) = group_splits(groups, [seed], 0.2, strata=np.arange(len(groups)) % 5 if stratify else None)
    assert abs(len(split.test) / (0.2 * len(groups)) - 1) <= 0.05


def test_same_groups_whatever_the_order_of_rows():
    groups = np.repeat([f"g{i}" for i in range(30)], 3)
    shuffled = np.random.default_rng(0).permutation(groups)
    for splits in (group_splits, lambda groups, seeds: kfold_splits(groups, 4, seeds)):
        for one, other in zip(splits(groups, range(5)), splits(shuffled, range(5)), strict=True):
            assert set(groups[one.test]) == set(shuffled[other.test])


def test_seeds_differ_and_repeat():
    groups = [f"g{i}" for i in range(60)]
    tests = [tuple(s.test) for s in group_splits(groups, range(10))]
    assert len(set(tests)) == 10 and tests == [tuple(s.test) for s in group_splits(groups, range(10))]
    assert tests[7] == tuple(group_splits(groups, [7])[0].test), "a split depends on its own seed alone"
    folds = [tuple(s.test) for s in kfold_splits(groups, 3, range(4))]
    assert len(set(folds)) == 12 and folds[9:] == [tuple(s.test) for s in kfold_splits(groups, 3, [3])]


def test_every_small_group_is_tested_as_often_as_another():
    "One unit in five is tested, so each of 100 groups in about a fifth of 400 splits; none is preferred for its name."
    groups = np.repeat(np.arange(100), 2)
    tested = np.bincount(np.concatenate([groups[s.test] for s in group_splits(groups, range(400), 0.2)]), minlength=100) / 2
    assert 50 < tested.min() and tested.max() < 115 and abs(tested[:50].mean() - tested[50:].mean()) < 3


def test_strata_are_tested_alike():
    "Far nearer to their share than at random: by deciles of a label that groups have in common, and by a rare class."
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(300), rng.integers(1, 4, 300))
    label = rng.normal(size=300)[groups] + 0.3 * rng.normal(size=len(groups))
    for strata in (label_strata(label), (label > np.quantile(label, 0.93)).astype(np.int64)):
        share = np.bincount(strata) / len(strata)
        apart = {}
        for name, given_strata in (("stratified", strata), ("at random", None)):
            held_out = [np.bincount(strata[s.test], minlength=len(share)) / len(s.test) for s in group_splits(groups, range(20), 0.2, strata=given_strata)]
            folds = [np.bincount(strata[s.test], minlength=len(share)) / len(s.test) for s in kfold_splits(groups, 5, range(4), strata=given_strata)]
            apart[name] = [np.abs((np.array(shares) - share) / share).mean() for shares in (held_out, folds)]
        assert all(one < other / 4 for one, other in zip(apart["stratified"], apart["at random"], strict=True)), apart


@settings(max_examples=100, deadline=None)
@given(structures(), st.integers(2, 6))
def test_folds_test_every_eligible_unit_once(structure, n_folds):
    groups, eligible, strata = structure
    try:
        splits = kfold_splits(groups, n_folds, [0, 5], eligible, strata)
    except InputError:
        assume(False)
    assert [(s.seed, s.fold) for s in splits] == [(seed, fold) for seed in (0, 5) for fold in range(n_folds)]
    for seed in (0, 5):
        assert sorted(np.concatenate([s.test for s in splits if s.seed == seed])) == np.flatnonzero(eligible).tolist()
    for split in splits:
        assert not set(groups[split.train]) & set(groups[split.test]) and len(split.test)
        assert sorted([*split.train, *split.test]) == list(range(len(groups))) and split.n_eligible == eligible.sum()
    assert same(splits, kfold_splits(groups, n_folds, [0, 5], eligible, strata))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=8), st.lists(st.integers(20, 60), max_size=4), st.integers(2, 4), st.booleans())
def test_giants_have_folds_of_their_own_and_the_rest_is_even(sizes, giants, n_folds, stratify):
    "Both ways: folds of giants beyond an even share hold nothing else, and the others differ by one group at most."
    assume(len(giants) < n_folds <= len(sizes) + len(giants) and len(sizes) + len(giants) >= 3)
    sizes, own = sorted([*giants, *sizes], reverse=True), []
    while sizes[len(own)] > sum(sizes[len(own) :]) / (n_folds - len(own)) and len(own) < n_folds - 1:
        own.append(sizes[len(own)])
    groups = np.repeat(np.arange(len(sizes)), sizes)
    found = sorted((len(s.test) for s in kfold_splits(groups, n_folds, [1], strata=np.arange(len(groups)) % 3 if stratify else None)), reverse=True)
    even, rest = found[: len(own)], found[len(own) :]
    assert even == own and max(rest) - min(rest) <= max(sizes[len(own) :]) and min(rest) > 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 8), min_size=150, max_size=250), st.booleans(), st.integers(2, 5), st.booleans(), st.integers(0, 10**6))
def test_folds_are_even_within_five_percent_where_groups_allow(sizes, giant, n_folds, stratify, seed):
    "A giant family that fills most of a fold among them."
    sizes = sizes + ([int(sum(sizes) / n_folds * 0.7)] if giant else [])
    groups = np.repeat([f"g{i}" for i in range(len(sizes))], sizes)
    strata = np.random.default_rng(seed).integers(0, 3, len(groups)) if stratify else None
    even = len(groups) / n_folds
    assert all(abs(len(s.test) / even - 1) <= 0.05 for s in kfold_splits(groups, n_folds, [seed], strata=strata))


@pytest.mark.parametrize("groups, eligible, fraction, message", [
    (["a", "a", "b", "b"], None, 0.25, "Too few groups"),
    ([f"g{i}" for i in range(20)], [True] * 3 + [False] * 17, 0.15, "Lower test_fraction to 0.112 or less"),
    ([f"g{i}" for i in range(20)], [False] * 20, 0.15, "Too few groups"),
    ([], None, 0.15, "Too few groups"),
    (["a", "a", "b", "c", "d"], [True, False, True, True, True], 0.2, "Group a .* in part"),
    (["a", "b", "c"], [True, False], 0.2, "one boolean for each of 3"),
    (["a", "b", "c"], [1, 0, 1], 0.2, "one boolean for each of 3"),
    (["a"] * 50 + ["b"] * 50 + ["c"] * 50, None, 0.1, "about 15 units to test: there are 3 groups of 50 to 50"),
    (["a"] * 50 + ["b"] * 50 + ["c"] * 50 + ["d"], None, 0.1, "about 15 units to test: there are 4 groups of 1 to 50"),
    (["a", np.nan, "b", None, "d"], None, 0.2, "2 of 5 units have no group, the first is unit 1"),
])
def test_refusals(groups, eligible, fraction, message):
    with pytest.raises(InputError, match=message):
        group_splits(groups, range(2), fraction, eligible)


@pytest.mark.parametrize("groups, n_folds, strata, message", [
    (["a", "a", "b", "c"], 4, None, "4 folds of 3 groups"),
    (["a", "b"], 2, None, "2 folds of 2 groups"),
    (["a", "b", None], 2, None, "1 of 3 units have no group"),
    (list("abcdef"), 2, [0, 1], "one code for each of 6 units"),
    (list("abcdef"), 2, [0, 1, np.nan, 1, 0, 1], "none missing"),
])
def test_refusals_of_folds(groups, n_folds, strata, message):
    with pytest.raises(InputError, match=message):
        kfold_splits(groups, n_folds, [0], strata=strata)


@pytest.mark.parametrize("settings, message", [
    ({"kind": "homologs"}, "Did you mean 'homology'"), ({"seeds": ()}, "at least one"), ({"seeds": (1, 1)}, "none twice"), ({"seeds": (-1,)}, "none negative"),
    ({"test_fraction": 1.0}, "between 0 and 1"), ({"n_folds": 1}, "at least 2"), ({"kind": "published", "n_folds": 5}, "folds are given"), ({"kind": "published", "stratify": True}, "folds are given"),
])
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ConfigError, match=message):
        SplitConfig(**settings)


def test_impossible_fraction():
    with pytest.raises(ConfigError, match="between 0 and 1"):
        group_splits(["a", "b", "c"], test_fraction=1.0)
    with pytest.raises(ConfigError, match="at least 2"):
        kfold_splits(["a", "b", "c"], 1)


def test_strata_of_labels():
    assert np.bincount(label_strata(np.arange(50.0))).tolist() == [5] * 10
    assert label_strata(np.array([2, 0, 1])).tolist() == [2, 0, 1]
    assert label_strata(np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]], dtype=np.uint8)).tolist() == [1, 0, 3, 2]
    assert set(label_strata(np.zeros(9))) == {9}, "all equal: one stratum"
    with pytest.raises(InputError, match="1 of 3 labels are no finite numbers"):
        label_strata(np.array([0.0, np.nan, 1.0]))


def test_published_folds():
    folds = np.array(["10", "2", "1", "2", "", None, "10", "1"], dtype=object)
    with pytest.warns(UserWarning, match="2 of 8 units have no published fold"):
        splits = fold_splits(folds)
    assert [(s.fold, s.test.tolist(), s.train.tolist(), s.n_eligible, s.kind) for s in splits] == [
        (0, [2, 7], [0, 1, 3, 6], 6, "published"), (1, [1, 3], [0, 2, 6, 7], 6, "published"), (2, [0, 6], [1, 2, 3, 7], 6, "published")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        some = fold_splits(["a", "b", "b", "c"], np.array([True, True, False, False]))
    assert [(s.fold, s.test.tolist(), s.train.tolist(), s.n_eligible) for s in some] == [(0, [0], [1, 2, 3], 2), (1, [1], [0, 3], 2)]
    for bad, eligible, message in ((["a", "a", ""], None, "1 of them"), (["a", "b"], [True], "one boolean for each of 2"), (["a", "b"], [False, False], "nothing to test")):
        with pytest.raises(InputError, match=message), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fold_splits(bad, eligible)


@pytest.fixture
def made():
    "120 transcripts, 60 genes, 30 families, 8 chromosomes of two species, ten of the genes without a fold."
    rng = np.random.default_rng(0)
    gene = np.repeat(np.arange(60), 2)
    species = np.where(np.arange(60) % 2, "y", "x")
    obs = pd.DataFrame({"species": species[gene], "transcript_id": [f"t{i}" for i in range(120)], "gene_id": [f"{species[i]}:g{i}" for i in gene], "gene_name": [f"n{i}" for i in gene],
                        "chrom": [f"chr{i}" for i in rng.integers(0, 4, 60)[gene]], "group": [f"family{i // 2}" for i in gene]})
    table = obs[["species", "transcript_id"]].assign(label=rng.normal(size=120), fold=["" if i < 10 else str(i % 3) for i in gene])
    return Task.from_table(table, obs, name="made", value="label", fold="fold"), obs


@pytest.mark.parametrize("stratify", [False, True])
@pytest.mark.parametrize("n_folds", [0, 3])
@pytest.mark.parametrize("kind", SPLIT_KINDS)
def test_what_is_kept_whole(made, kind, n_folds, stratify):
    task, obs = made
    if kind == "published":
        if n_folds or stratify:
            return
        config = SplitConfig(kind=kind)
    else:
        config = SplitConfig(kind=kind, seeds=(0, 1), test_fraction=0.25, n_folds=n_folds, stratify=stratify)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        splits = task_splits(task, obs, config)
    assert len(splits) == (3 if kind == "published" else 2 * max(n_folds, 1)) and {s.kind for s in splits} == {kind}
    text = " ".join(str(warning.message) for warning in caught)
    assert ("isoforms and homologs" in text) == (kind == "random") and ("no published fold" in text) == (kind == "published")
    obs = obs.assign(chrom=obs.species + obs.chrom)
    whole = {"homology": {"group", "gene_id"}, "chromosome": {"chrom", "gene_id"}, "gene": {"gene_id"}, "random": set(), "published": {"gene_id"}}[kind]
    for column in ("group", "gene_id", "chrom"):
        values = task.of_units(obs[column].to_numpy(object))
        shared = [set(values[s.train]) & set(values[s.test]) for s in splits]
        assert not any(shared) if column in whole else all(shared), column


@pytest.mark.parametrize("n_folds", [0, 3])
@pytest.mark.parametrize("kind", SPLIT_KINDS)
def test_only_held_out_families_are_tested(made, kind, n_folds):
    task, obs = made
    heldout = obs.group.isin([f"family{i}" for i in range(12)]).to_numpy()
    config = SplitConfig(kind=kind, seeds=(0,), n_folds=0 if kind == "published" else n_folds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        splits = task_splits(task, obs, config, heldout)
    chromosome = task.of_units((obs.species + obs.chrom).to_numpy())
    for split in splits:
        assert heldout[split.test].all() and (~heldout[split.train]).any()
        assert split.n_eligible == (heldout & (task.folds != "") if kind == "published" else heldout).sum()
        assert kind != "chromosome" or not set(chromosome[split.train]) & set(chromosome[split.test]), "its pretrained units are not trained on either"
    with pytest.raises(InputError, match="one boolean for each of 120 transcripts"):
        task_splits(task, obs, config, heldout[:5])


def test_tasks_that_cannot_be_split(made):
    task, obs = made
    with pytest.raises(InputError, match="no published folds"):
        task_splits(Task.from_table(obs[["species", "transcript_id"]].assign(y=np.arange(120.0)), obs, name="none", value="y"), obs, SplitConfig(kind="published"))
    for kind, column in (("homology", "group"), ("chromosome", "chrom"), ("gene", "gene_id")):
        with pytest.raises(InputError, match=f"no column '{column}'"):
            task_splits(task, obs.drop(columns=column), SplitConfig(kind=kind))
    for nothing in (None, np.nan, pd.NA):
        with pytest.raises(InputError, match="units have no group"):
            task_splits(task, obs.assign(group=obs.group.astype(object).where(obs.group != "family3", nothing)))
    with pytest.raises(InputError, match="in part"):
        task_splits(task, obs, heldout=np.arange(120) % 4 < 2)


def test_a_gene_on_two_chromosomes_counts_for_its_first(made):
    task, obs = made
    genes = Task.from_table(obs[["species", "gene_name"]].assign(y=np.repeat(np.arange(60.0), 2)).drop_duplicates(), obs, name="genes", value="y", match="gene_name")
    moved = obs.assign(chrom=obs.chrom.where(np.arange(120) != 1, "chrY"))
    config = SplitConfig(kind="chromosome", seeds=(0,), test_fraction=0.25)
    assert same(task_splits(genes, moved, config), task_splits(genes, obs, config))


def test_published_folds_leave_the_caller_s_array_alone():
    eligible = np.ones(4, dtype=bool)
    with pytest.warns(UserWarning, match="no published fold"):
        splits = fold_splits(["a", "a", "b", ""], eligible)
    assert eligible.all() and [s.n_eligible for s in splits] == [3, 3]
