"""Splits never share a group, whatever the groups look like."""
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError
from isoclr.probe.splits import group_splits


@st.composite
def structures(draw):
    "Group sizes, giant ones among them, and which groups are eligible; rows in any order."
    sizes = draw(st.lists(st.one_of(st.integers(1, 4), st.integers(50, 200)), min_size=4, max_size=40))
    held_out = draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(sum(sizes))
    return np.repeat([f"g{i}" for i in range(len(sizes))], sizes)[order], np.repeat(held_out, sizes)[order]


@settings(max_examples=200, deadline=None)
@given(structures(), st.floats(0.05, 0.6))
def test_no_group_on_both_sides(structure, fraction):
    groups, eligible = structure
    try:
        splits = group_splits(groups, range(3), fraction, eligible)
    except InputError:
        assume(False)
    largest = np.unique(groups[eligible], return_counts=True)[1].max()
    for split in splits:
        assert not set(groups[split.train]) & set(groups[split.test])
        assert sorted([*split.train, *split.test]) == list(range(len(groups)))
        assert eligible[split.test].all() and len(split.test) and len(split.train)
        assert split.n_eligible == eligible.sum()
        assert abs(len(split.test) - fraction * len(groups)) <= largest / 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 10), min_size=60, max_size=100), st.integers(0, 10**6))
def test_sizes_within_five_percent_where_groups_allow(sizes, seed):
    groups = np.repeat([f"g{i}" for i in range(len(sizes))], sizes)
    (split,) = group_splits(groups, [seed], 0.2)
    assume(max(sizes) <= 0.05 * len(groups))
    assert abs(len(split.test) / len(groups) - 0.2) <= 0.05


def test_same_groups_whatever_the_order_of_rows():
    groups = np.repeat([f"g{i}" for i in range(30)], 3)
    shuffled = np.random.default_rng(0).permutation(groups)
    for one, other in zip(group_splits(groups, range(5)), group_splits(shuffled, range(5))):
        assert set(groups[one.test]) == set(shuffled[other.test])


def test_seeds_differ_and_repeat():
    groups = [f"g{i}" for i in range(60)]
    tests = [tuple(s.test) for s in group_splits(groups, range(10))]
    assert len(set(tests)) == 10 and tests == [tuple(s.test) for s in group_splits(groups, range(10))]


@pytest.mark.parametrize("groups, eligible, fraction, message", [
    (["a", "a", "b", "b"], None, 0.25, "Too few groups"),
    ([f"g{i}" for i in range(20)], [True] * 3 + [False] * 17, 0.15, "Lower test_fraction to 0.112 or less"),
    ([f"g{i}" for i in range(20)], [False] * 20, 0.15, "Too few groups"),
    (["a", "a", "b", "c", "d"], [True, False, True, True, True], 0.2, "Group a .* in part"),
    (["a", "b", "c"], [True, False], 0.2, "one boolean for each of 3"),
    (["a"] * 50 + ["b"] * 50 + ["c"] * 50, None, 0.1, "No group of at most 30"),
])
def test_refusals(groups, eligible, fraction, message):
    with pytest.raises(InputError, match=message):
        group_splits(groups, range(2), fraction, eligible)


def test_impossible_fraction():
    with pytest.raises(ConfigError, match="between 0 and 1"):
        group_splits(["a", "b", "c"], test_fraction=1.0)
