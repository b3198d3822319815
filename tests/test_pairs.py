"""Pairs: who may meet whom, batches of like length, the same again for the same step, and masks that leave padding alone."""
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError
from isoclr.data.homology import ISOFORM, ORTHOLOG, PARALOG, SELF
from isoclr.data.tracks import CODON, MASK, PAD
from isoclr.pretrain.pairs import PairConfig, PairSampler, holdout_groups, mask_tokens


class Table:
    "What the sampler needs of a store, with lengths and relations under control."

    def __init__(self, genes: list[tuple[str, str, int]], seed: int = 0):
        rng = np.random.default_rng(seed)
        rows = [(f"{species}:{i}", species, group) for i, (species, group, n) in enumerate(genes) for _ in range(n)]
        self.transcripts = pd.DataFrame(rows, columns=["gene_id", "species", "group"])
        self.transcripts["length_nt"] = rng.integers(1, 200, len(rows))
        self.transcripts = self.transcripts.sample(frac=1, random_state=seed, ignore_index=True)  # genes need not be contiguous

    def gather(self, rows):
        lengths = self.transcripts.length_nt.to_numpy(np.int32)[rows]
        tokens = np.full((len(rows), lengths.max()), PAD, np.uint8)
        for line, row, length in zip(tokens, rows, lengths):
            line[:length] = row % 4
        return tokens, lengths


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


gene_lists = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("uvwxyz"), st.integers(1, 3)), min_size=4, max_size=20)


@settings(max_examples=60, deadline=None)
@given(genes=gene_lists, weights=st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 3), batch_pairs=st.integers(2, 5), seed=st.integers(0, 99))
def test_every_pair_is_of_the_relation_it_claims(genes, weights, batch_pairs, seed):
    store = Table(genes, seed)
    table = store.transcripts
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(rng.random(len(table)) < 0.8)
    try:
        config = PairConfig(batch_pairs=batch_pairs, isoform_weight=weights[0], paralog_weight=weights[1], ortholog_weight=weights[2])
        sampler = PairSampler(store, rows, config, seed)
    except ConfigError:
        return
    for epoch in range(3):
        anchors = []
        for rows_1, rows_2, relations in sampler.plan(epoch):
            assert 1 <= len(rows_1) <= batch_pairs
            for one, other, relation in zip(rows_1, rows_2, relations):
                possible = slow_relations(table, one, rows)
                open_to_it = {r for r, weight in zip((ISOFORM, PARALOG, ORTHOLOG), weights) if weight and possible[r]}
                assert relation in (open_to_it or {SELF})
                assert other == one if relation == SELF else other in possible[relation]
            anchors += rows_1.tolist()
        assert Counter(table.gene_id.iloc[anchors]) == Counter(table.gene_id.iloc[rows].unique())
        assert set(anchors) <= set(rows)


def test_every_partner_is_drawn_as_often_as_the_weights_say():
    store = Table([("a", "g", 3), ("a", "g", 2), ("b", "g", 1), ("b", "g", 4), ("c", "g", 1), ("a", "h", 2), ("a", "i", 1)])
    table = store.transcripts
    sampler = PairSampler(store, None, PairConfig(batch_pairs=3, isoform_weight=2.0, paralog_weight=1.0, ortholog_weight=5.0))
    drawn = Counter()
    for epoch in range(4000):
        for rows_1, rows_2, relations in sampler.plan(epoch):
            drawn.update(zip(rows_1.tolist(), rows_2.tolist(), relations.tolist()))
    gene = table.index[table.gene_id == "a:0"]
    total = sum(count for (one, _, _), count in drawn.items() if one in gene)
    assert total == 4000
    for relation, share in ((ISOFORM, 2 / 8), (PARALOG, 1 / 8), (ORTHOLOG, 5 / 8)):
        partners = Counter()
        for (one, other, r), count in drawn.items():
            if one in gene and r == relation:
                partners[other] += count
        assert sum(partners.values()) / total == pytest.approx(share, abs=0.03)
        assert set(partners) == set().union(*(slow_relations(table, one, range(len(table)))[relation] for one in gene))
    orthologs = Counter()
    for (one, other, r), count in drawn.items():
        if one in gene and r == ORTHOLOG:
            orthologs[table.gene_id[other]] += count
    for count in orthologs.values():  # each gene alike, however many transcripts it has
        assert count / sum(orthologs.values()) == pytest.approx(1 / 3, abs=0.03)


@pytest.fixture
def families():
    rng = np.random.default_rng(1)
    return Table([(species, f"family {i}", int(rng.integers(1, 5))) for i in range(40) for species in "ab"])


def test_a_batch_is_a_function_of_the_step(families):
    config = PairConfig(batch_pairs=16)
    straight, jumping = PairSampler(families, None, config, 3), PairSampler(families, None, config, 3)
    batches = [straight.batch(step) for step in range(12)]
    for step in (11, 0, 7):
        one, other = batches[step], jumping.batch(step)
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)
    other_seed = PairSampler(families, None, config, 4).batch(0)
    assert not np.array_equal(other_seed.rows_1.numpy(), batches[0].rows_1.numpy())


def test_a_batch_holds_what_it_says(families):
    table = families.transcripts
    batch = PairSampler(families, None, PairConfig(batch_pairs=16)).batch(2)
    assert batch.tokens_1.dtype == torch.uint8 and batch.lengths_1.dtype == torch.int32 and batch.relation.dtype == torch.uint8
    assert batch.weight.tolist() == [1.0] * len(batch)
    for rows, tokens, lengths in ((batch.rows_1, batch.tokens_1, batch.lengths_1), (batch.rows_2, batch.tokens_2, batch.lengths_2)):
        expected, expected_lengths = families.gather(rows.numpy())
        assert np.array_equal(tokens.numpy(), expected) and np.array_equal(lengths.numpy(), expected_lengths)
    names = table["group"].to_numpy()[batch.rows_1.numpy()]
    assert np.array_equal(batch.group[:, None].numpy() == batch.group.numpy(), names[:, None] == names)


def test_batches_are_of_like_length_and_size(families):
    sampler = PairSampler(families, None, PairConfig(batch_pairs=16))
    lengths = families.transcripts.length_nt.to_numpy()
    sizes, within, over_all = [], [], []
    for epoch in range(10):
        for rows_1, rows_2, _ in sampler.plan(epoch):
            longest = np.maximum(lengths[rows_1], lengths[rows_2])
            sizes.append(len(rows_1))
            within.append(longest.std())
            over_all += longest.tolist()
    assert max(sizes) - min(sizes) <= 1 and max(sizes) <= 16
    assert np.mean(within) < 0.5 * np.std(over_all)


def test_epochs_differ(families):
    sampler = PairSampler(families, None, PairConfig(batch_pairs=16))
    first, second = ({tuple(sorted(rows_1.tolist())) for rows_1, _, _ in sampler.plan(epoch)} for epoch in (0, 1))
    assert not first & second


def test_pairs_that_cannot_be_had_are_refused(families):
    with pytest.raises(ConfigError, match="there are 40 homology groups.*Set it to 40 or less"):
        PairSampler(families, None, PairConfig(batch_pairs=41))
    loners = Table([("a", f"g{i}", 1) for i in range(9)])
    with pytest.raises(ConfigError, match="no pairs to learn from"):
        PairSampler(loners, None, PairConfig(batch_pairs=4))
    with pytest.raises(ConfigError, match="no pairs to learn from"):
        PairSampler(families, None, PairConfig(batch_pairs=4, isoform_weight=0, ortholog_weight=0))
    with pytest.raises(ConfigError, match="0 homology groups"):
        PairSampler(families, np.array([], int), PairConfig())
    no_relation = {"isoform_weight": 0, "paralog_weight": 0, "ortholog_weight": 0}
    for bad in ({"batch_pairs": 1}, {"isoform_weight": -1.0}, {"mask_share": 1.0}, no_relation):
        with pytest.raises(ConfigError):
            PairConfig(**bad)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6), share=st.floats(0, 0.99), seed=st.integers(0, 999))
def test_masks_leave_padding_and_the_input_alone(lengths, share, seed):
    lengths = torch.tensor(lengths)
    valid = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.where(valid, torch.randint(4, valid.shape) + CODON, PAD).to(torch.uint8)
    before = tokens.clone()
    masked = mask_tokens(tokens, lengths, share, torch.Generator().manual_seed(seed))
    assert torch.equal(tokens, before) and masked.dtype == torch.uint8
    changed = masked != tokens
    assert not changed[~valid].any() and (masked[changed] == MASK).all()
    assert torch.equal(masked, mask_tokens(tokens, lengths, share, torch.Generator().manual_seed(seed)))


def test_share_of_masked_nucleotides():
    tokens, lengths = torch.zeros(50, 2000, dtype=torch.uint8), torch.full((50,), 1000)
    masked = mask_tokens(tokens, lengths, 0.15, torch.Generator().manual_seed(0)) == MASK
    assert masked[:, :1000].float().mean().item() == pytest.approx(0.15, abs=0.005) and not masked[:, 1000:].any()
    assert not (mask_tokens(tokens, lengths, 0.0) == MASK).any()


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
