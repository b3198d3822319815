"""Pairs: who may meet whom and how often, batches of like length, every rank its part, and the same again for the same step."""
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from isoclr.config import ConfigError
from isoclr.data.homology import ISOFORM, ORTHOLOG, PARALOG, SELF
from isoclr.data.store import TranscriptStore
from isoclr.pretrain.pairs import PairConfig, PairSampler, _starts, cut_by_length, holdout_groups


def memory_store(genes: list[tuple[str, str, int]], seed: int = 0, lengths: list[int] | None = None) -> TranscriptStore:
    "A store of genes (species, group, transcripts) that was never written: lengths and relations under control."
    rng = np.random.default_rng(seed)
    rows = [(f"{species}:{i}", species, group) for i, (species, group, n) in enumerate(genes) for _ in range(n)]
    table = pd.DataFrame(rows, columns=["gene_id", "species", "group"])
    table["length_nt"] = rng.integers(1, 200, len(rows)) if lengths is None else lengths
    table = table.sample(frac=1, random_state=seed, ignore_index=True)  # genes need not be contiguous
    table["transcript_id"] = [f"T{i}" for i in range(len(table))]
    table["offset"] = table.length_nt.cumsum() - table.length_nt
    tokens = rng.integers(0, 5, table.length_nt.sum()) + 8 * rng.integers(0, 4, table.length_nt.sum())
    info = {"n_transcripts": len(table), "n_nucleotides": len(tokens), "species": sorted(set(table.species))}
    store = TranscriptStore(Path("memory"), info, tokens.astype(np.uint8))
    store.__dict__["transcripts"] = table
    return store


def slow_relations(table, row, rows):
    "Relation → rows that may be the partner of a row."
    found = {ISOFORM: set(), PARALOG: set(), ORTHOLOG: set()}
    me = table.iloc[row]
    for other in rows:
        you = table.iloc[other]
        if other == row or you.group != me.group:
            continue
        relation = ISOFORM if you.gene_id == me.gene_id else PARALOG if you.species == me.species else ORTHOLOG
        found[relation].add(other)
    return found


def shares(isoform, paralog, ortholog):
    return {"isoform_share": isoform, "paralog_share": paralog, "ortholog_share": ortholog}


gene_lists = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("uvwxyz"), st.integers(1, 3)), min_size=4, max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    genes=gene_lists, weights=st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 3), batch_pairs=st.integers(2, 5), seed=st.integers(0, 99),
    singles=st.sampled_from(["self", "leave_out"]), partner=st.sampled_from(["different", "any"]),
)
def test_every_pair_is_of_the_relation_it_claims(genes, weights, batch_pairs, seed, singles, partner):
    store = memory_store(genes, seed)
    table = store.transcripts
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(rng.random(len(table)) < 0.8)
    try:
        sampler = PairSampler(store, rows, PairConfig(batch_pairs=batch_pairs, singles=singles, partner=partner, **shares(*weights)), seed)
    except ConfigError:
        return
    possible = {row: slow_relations(table, row, rows) for row in rows}
    open_to = {row: {r for r, weight in zip((ISOFORM, PARALOG, ORTHOLOG), weights) if weight and possible[row][r]} for row in rows}
    for epoch in range(3):
        anchors = []
        for pairs in sampler.plan(epoch):
            assert 1 <= len(pairs.rows_1) <= batch_pairs
            for one, other, relation in zip(pairs.rows_1, pairs.rows_2, pairs.relation):
                if relation == SELF:
                    assert other == one and (not open_to[one] or (partner == "any" and ISOFORM in open_to[one]))
                else:
                    assert relation in open_to[one] and other in possible[one][relation]
            anchors += pairs.rows_1.tolist()
        visited = [row for row in rows if open_to[row] or singles == "self"]
        assert Counter(table.gene_id.iloc[anchors]) == Counter(table.gene_id.iloc[visited].unique())
        assert set(anchors) <= set(rows)


GENES = [("a", "g", 3), ("a", "g", 2), ("b", "g", 1), ("b", "g", 4), ("c", "g", 1), ("a", "h", 2), ("a", "i", 1)]


def draws(store, config, seed, gene, epochs=3000):
    "How often each (anchor, partner, relation) of a gene was drawn."
    sampler, drawn, mine = PairSampler(store, None, config, seed), Counter(), set(store.transcripts.index[store.transcripts.gene_id == gene])
    for epoch in range(epochs):
        for pairs in sampler.plan(epoch):
            drawn.update(triple for triple in zip(pairs.rows_1.tolist(), pairs.rows_2.tolist(), pairs.relation.tolist()) if triple[0] in mine)
    assert drawn.total() == epochs
    return drawn


@pytest.mark.parametrize("seed", [0, 1])
def test_every_partner_is_drawn_as_often_as_the_shares_say(seed):
    store = memory_store(GENES)
    drawn = draws(store, PairConfig(batch_pairs=3, **shares(2.0, 1.0, 5.0)), seed, "a:0")
    gene, count = store.transcripts.gene_id.to_dict(), store.transcripts.groupby("gene_id").size()
    expected = Counter()  # the slow way: relation, then gene, then transcript
    for one in [row for row in gene if gene[row] == "a:0"]:
        for relation, chance in ((ISOFORM, 2 / 8), (PARALOG, 1 / 8), (ORTHOLOG, 5 / 8)):
            others = slow_relations(store.transcripts, one, range(len(store)))[relation]
            genes = {gene[other] for other in others}
            for other in others:
                alike = len([row for row in others if gene[row] == gene[other]])
                expected[one, other, relation] = 3000 / count["a:0"] * chance / len(genes) / alike
    assert set(drawn) == set(expected) and len(expected) == 3 * (2 + 2 + 6)
    assert chisquare([drawn[key] for key in expected], list(expected.values())).pvalue > 1e-4


def test_a_draw_with_replacement_may_be_the_anchor_itself():
    store = memory_store(GENES)
    drawn = draws(store, PairConfig(batch_pairs=3, partner="any", **shares(1.0, 0.0, 0.0)), 2, "a:0")
    assert len(drawn) == 9 and all((one == other) == (relation == SELF) for one, other, relation in drawn)
    assert chisquare(list(drawn.values())).pvalue > 1e-4
    assert all(one != other for one, other, _ in draws(store, PairConfig(batch_pairs=3, **shares(1.0, 0.0, 0.0)), 2, "a:0", 200))


def test_weight_of_a_pair_is_that_of_its_gene_times_that_of_its_relation():
    store = memory_store(GENES)
    losses = (0.5, 1.0, 2.0, 4.0)
    for gene_weight in ("equal", "log"):
        weights, relations = {}, set()
        for epoch in range(20):
            for pairs in PairSampler(store, None, PairConfig(batch_pairs=3, gene_weight=gene_weight, loss_weights=losses)).plan(epoch):
                assert pairs.weight.dtype == np.float32
                for row, relation, weight in zip(pairs.rows_1, pairs.relation, pairs.weight):
                    weights.setdefault(store.transcripts.gene_id[row], set()).add(round(float(weight) / losses[relation], 4))
                    relations.add(int(relation))
        expected = {f"{species}:{i}": np.log(n + 1) if gene_weight == "log" else 1.0 for i, (species, _, n) in enumerate(GENES)}
        mean = np.mean(list(expected.values()))
        assert weights == {gene: {round(weight / mean, 4)} for gene, weight in expected.items()}
        assert relations == {SELF, ISOFORM, PARALOG, ORTHOLOG}


@pytest.fixture(scope="module")
def families():
    rng = np.random.default_rng(1)
    return memory_store([(species, f"family {i}", int(rng.integers(1, 5))) for i in range(40) for species in "ab"])


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_pairs_are_a_function_of_the_step(families):
    config = PairConfig(batch_pairs=16, token_budget=2000)
    straight, jumping = PairSampler(families, None, config, 3), PairSampler(families, None, config, 3)
    steps = [straight.chunks(step) for step in range(12)]
    for step in (11, 0, 7):
        assert all(same(one, other) for one, other in zip(steps[step], jumping.chunks(step), strict=True))
    assert not np.array_equal(PairSampler(families, None, config, 4).batch_of(0).rows_1, straight.batch_of(0).rows_1)


def test_groups_are_told_apart(families):
    pairs = PairSampler(families, None, PairConfig(batch_pairs=16)).batch_of(2)
    names = families.transcripts["group"].to_numpy()[pairs.rows_1]
    assert np.array_equal(pairs.group[:, None] == pairs.group, names[:, None] == names)
    assert [column.dtype for column in pairs] == [np.int64, np.int64, np.uint8, np.float32, np.int64]


def test_batches_are_of_like_length_and_size(families):
    sampler = PairSampler(families, None, PairConfig(batch_pairs=16))
    lengths = families.transcripts.length_nt.to_numpy()
    sizes, within, over_all = [], [], []
    for epoch in range(10):
        for pairs in sampler.plan(epoch):
            longest = np.maximum(lengths[pairs.rows_1], lengths[pairs.rows_2])
            assert (np.diff(longest) <= 0).all()
            sizes.append(len(longest))
            within.append(longest.std())
            over_all += longest.tolist()
    assert max(sizes) - min(sizes) <= 1 and max(sizes) <= 16
    assert np.mean(within) < 0.5 * np.std(over_all)


def test_epochs_differ(families):
    sampler = PairSampler(families, None, PairConfig(batch_pairs=16))
    first, second = ({tuple(sorted(pairs.rows_1.tolist())) for pairs in sampler.plan(epoch)} for epoch in (0, 1))
    assert not first & second


@settings(max_examples=60, deadline=None)
@given(world=st.integers(1, 3), batch_pairs=st.integers(6, 30), budget=st.integers(0, 4000), seed=st.integers(0, 99))
def test_parts_of_the_ranks_make_up_the_batch(families, world, batch_pairs, budget, seed):
    lengths = families.transcripts.length_nt.to_numpy()
    budget = budget and max(budget, 2 * int(lengths.max()) * min(world, 2))
    config = PairConfig(batch_pairs=batch_pairs, token_budget=budget)
    alone = PairSampler(families, None, config.replace(token_budget=0), seed)
    ranks = [PairSampler(families, None, config, seed, rank, world) for rank in range(world)]
    for step in range(alone.batches_per_epoch + 1):  # into the second epoch
        parts = [rank.chunks(step) for rank in ranks]
        joint = sorted(zip(*(np.concatenate([chunk[i] for part in parts for chunk in part]).tolist() for i in range(5))))
        assert joint == sorted(zip(*(column.tolist() for column in alone.batch_of(step))))
        sizes = [sum(len(chunk.rows_1) for chunk in part) for part in parts]
        assert max(sizes) - min(sizes) <= 1 and len({len(part) for part in parts}) == 1
        for rank, part in enumerate(parts):
            whole = ranks[0].batch_of(step)
            assert np.array_equal(np.concatenate([chunk.rows_1 for chunk in part]), np.array_split(whole.rows_1, world)[rank])
            for chunk in part:
                padded = 2 * len(chunk.rows_1) * max(lengths[chunk.rows_1].max(), lengths[chunk.rows_2].max())
                assert len(chunk.rows_1) >= 1 and (not budget or padded <= budget)
        if not budget:
            assert all(len(part) == 1 for part in parts)


def padded_sizes(longest, bounds):
    return [2 * (end - start) * longest[start] for start, end in zip(bounds, bounds[1:])]


@settings(max_examples=200, deadline=None)
@given(longest=st.lists(st.integers(1, 50), min_size=1, max_size=8), spare=st.integers(0, 400), more=st.integers(0, 2))
def test_chunks_are_as_few_and_as_even_as_can_be(longest, spare, more):
    longest = np.sort(np.array(longest))[::-1]
    n, budget = len(longest), 2 * int(longest[0]) + spare
    every = {k: [(0, *cuts, n) for cuts in combinations(range(1, n), k - 1)] for k in range(1, n + 1)}  # all ways to cut
    possible = {k: min(max(padded_sizes(longest, bounds)) for bounds in ways) for k, ways in every.items()}
    fewest = min(k for k, size in possible.items() if size <= budget)
    assert len(_starts(longest, budget)) == fewest
    wanted = min(fewest + more, n)
    bounds = cut_by_length(longest, wanted, budget)
    assert len(bounds) == wanted + 1 and bounds[0] == 0 and bounds[-1] == n and (np.diff(bounds) > 0).all()
    assert max(padded_sizes(longest, bounds)) <= max(possible[wanted], min(4 * longest[0], budget))
    if budget >= 4 * longest[0] and wanted == fewest:
        assert (np.diff(bounds)[:-1] >= 2).all()


def test_pairs_that_cannot_be_had_are_refused(families):
    with pytest.raises(ConfigError, match="there are 40 homology groups.*Set it to 40 or less"):
        PairSampler(families, None, PairConfig(batch_pairs=41))
    loners = memory_store([("a", f"g{i}", 1) for i in range(9)])
    with pytest.raises(ConfigError, match="no pairs to learn from"):
        PairSampler(loners, None, PairConfig(batch_pairs=4))
    with pytest.raises(ConfigError, match="no pairs to learn from"):
        PairSampler(families, None, PairConfig(batch_pairs=4, isoform_share=0, ortholog_share=0))
    with pytest.raises(ConfigError, match="0 homology groups"):
        PairSampler(families, np.array([], int), PairConfig())
    few = memory_store([("a", f"g{i}", 1 + (i < 3)) for i in range(9)])
    with pytest.raises(ConfigError, match="there are 3 homology groups"):
        PairSampler(few, None, PairConfig(batch_pairs=4, singles="leave_out"))
    with pytest.raises(ConfigError, match="batch_pairs = 7 for 4 ranks: set it to 8"):
        PairSampler(families, None, PairConfig(batch_pairs=7), rank=1, world=4)
    with pytest.raises(ConfigError, match="rank = 2"):
        PairSampler(families, None, PairConfig(batch_pairs=8), rank=2, world=2)


@pytest.mark.parametrize("world", [1, 3])
def test_a_budget_below_the_longest_transcript_is_refused(families, world):
    lengths = families.transcripts.length_nt
    longest = families.transcripts.loc[lengths.idxmax()]
    rows = np.flatnonzero((lengths < longest.length_nt) | (lengths.index == longest.name))  # one of that length
    least = 2 * longest.length_nt * min(world, 2)
    config = PairConfig(batch_pairs=12, token_budget=int(least) - 1)
    with pytest.raises(ConfigError, match=rf"{longest.species}\|{longest.transcript_id}, has {longest.length_nt} nt.*Set token_budget to {least}"):
        PairSampler(families, rows, config, world=world)
    PairSampler(families, rows, config.replace(token_budget=int(least)), world=world).chunks(0)
    PairSampler(families, np.setdiff1d(rows, longest.name), config, world=world).chunks(0)


@pytest.mark.parametrize("wrong, message", [
    ({"batch_pairs": 1}, "batch_pairs = 1"), ({"token_budget": -1}, "token_budget = -1"), ({"isoform_share": -1.0}, "relation_shares"),
    (shares(0, 0, 0), "one of them above 0"), ({"paralog_share": float("nan")}, "relation_shares"), ({"ortholog_share": float("inf")}, "relation_shares"),
    ({"loss_weights": (1.0, 1.0)}, "give 4 numbers"), ({"loss_weights": (0, 0, 0, 0)}, "loss_weights"), ({"loss_weights": "abcd"}, "loss_weights"),
    ({"mask_share": 1.0}, "mask_share"), ({"mask_share": float("nan")}, "mask_share"), ({"mask_span": 0}, "mask_span"),
    ({"track_dropout": 1.1}, "track_dropout"), ({"singles": "leave-out"}, "Did you mean 'leave_out'"), ({"partner": "nobody"}, "Known: any, different"),
    ({"gene_weight": "logs"}, "Did you mean 'log'"), ({"mask_members": "bot"}, "Did you mean 'both'"), ({"mask_span": 2.5}, "mask_span"),
])
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        PairConfig(**wrong)


def test_an_old_name_of_a_setting_is_refused_with_the_new_one():
    with pytest.raises(ConfigError, match="Did you mean 'isoform_share'"):
        PairConfig.from_dict({"isoform_weight": 1.0})


def test_settings_survive_json():
    config = PairConfig(loss_weights=(0.0, 1, 2, 3))
    assert PairConfig.from_dict({**config.to_dict(), "loss_weights": [0, 1, 2, 3]}) == config


def test_held_out_groups_depend_on_their_names_alone():
    names = np.array([f"human:gene{i}" for i in range(2000)])
    groups = np.random.default_rng(0).choice(names, 10_000)
    held = holdout_groups(groups, 0.2, seed=1)
    by_name = dict(zip(groups, held))
    assert all(by_name[name] == flag for name, flag in zip(groups, held))  # whole groups
    some = np.unique(groups)[::-3]
    assert [by_name[name] for name in some] == holdout_groups(some, 0.2, seed=1).tolist()  # whatever else is there, in any order
    assert holdout_groups(names, 0.2, 1).mean() == pytest.approx(0.2, abs=0.03)
    assert (holdout_groups(names, 0.2, 1) & holdout_groups(names, 0.2, 2)).mean() == pytest.approx(0.04, abs=0.015)
    assert not holdout_groups(names, 0.0).any() and holdout_groups(pd.Series(names), 1.0).all()


def test_held_out_groups_are_the_same_on_every_machine():
    assert np.flatnonzero(holdout_groups([f"alpha:G{i}" for i in range(30)], 0.2)).tolist() == [1, 3, 5, 9, 12, 13, 16, 17, 29]
