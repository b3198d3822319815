"""Feed: the same nucleotides from the memory map, from a thread and from a device; errors reach who asks."""
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError
from isoclr.data.tracks import PAD
from isoclr.pretrain.feed import PairFeed, ResidentStore, fits_on
from isoclr.pretrain.pairs import PairConfig, PairSampler
from test_pairs import memory_store

NAMES = ("tokens_1", "lengths_1", "tokens_2", "lengths_2", "weight", "relation", "group", "rows_1", "rows_2")


@pytest.fixture
def store():
    rng = np.random.default_rng(1)
    return memory_store([(species, f"family {i}", int(rng.integers(1, 5))) for i in range(40) for species in "ab"])


@pytest.fixture
def sampler(store):
    return PairSampler(store, None, PairConfig(batch_pairs=16, token_budget=2000, gene_weight="log", loss_weights=(0.5, 1, 2, 3)), 3)


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        for name in NAMES:
            assert torch.equal(getattr(a, name).cpu(), getattr(b, name).cpu()) and getattr(a, name).dtype == getattr(b, name).dtype, name


def slow_gather(store, rows):
    "Tokens and lengths, transcript by transcript and nucleotide by nucleotide."
    table = store.transcripts
    lengths = [int(table.length_nt[row]) for row in rows]
    tokens = np.full((len(rows), max(lengths)), PAD)
    for i, row in enumerate(rows):
        for j in range(lengths[i]):
            tokens[i, j] = store.nucleotides[table.offset[row] + j]
    return tokens, lengths


def test_a_batch_holds_what_it_says(store, sampler):
    for step in (0, 5):
        chunks, batches = sampler.chunks(step), PairFeed(store, sampler).batch(step)
        assert len(batches) == len(chunks) > 1
        for batch, pairs in zip(batches, chunks):
            assert len(batch) == len(pairs.weight)
            for rows, tokens, lengths in ((pairs.rows_1, batch.tokens_1, batch.lengths_1), (pairs.rows_2, batch.tokens_2, batch.lengths_2)):
                expected, expected_lengths = slow_gather(store, rows)
                assert np.array_equal(tokens.numpy(), expected) and lengths.tolist() == expected_lengths
            for name in pairs._fields:
                assert np.array_equal(getattr(batch, name).numpy(), getattr(pairs, name))
            types = {name: getattr(batch, name).dtype for name in NAMES}
            assert types["tokens_1"] == types["relation"] == torch.uint8 and types["lengths_2"] == torch.int32
            assert types["weight"] == torch.float32 and types["group"] == types["rows_1"] == torch.int64


def test_the_thread_brings_the_same_in_whatever_order(store, sampler):
    here = PairFeed(store, sampler)
    other = PairSampler(store, None, sampler.config, 3)
    assert here.resident
    with PairFeed(store, other, resident=False) as fetched:
        for step in (0, 1, 2, 9, 10, 4, 4, 0, 17, 18):
            assert_same(fetched.batch(step), here.batch(step))


def test_a_device_gives_the_same(store, sampler):
    here, there = PairFeed(store, sampler), PairFeed(store, sampler)
    there._source = ResidentStore(store, "cpu")  # as on a GPU
    for step in (0, 7, 3):
        assert_same(there.batch(step), here.batch(step))


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8), data=st.data())
def test_a_gather_on_a_device_is_that_of_the_store(lengths, data):
    store = memory_store([("a", "g", len(lengths))], 0, lengths)
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=10)))
    tokens, found = ResidentStore(store, "cpu").gather(rows)
    expected, expected_lengths = store.gather(rows)
    assert np.array_equal(tokens.numpy(), expected) and tokens.dtype == torch.uint8
    assert np.array_equal(found.numpy(), expected_lengths) and found.dtype == torch.int32


def test_a_store_is_copied_piece_by_piece(store, monkeypatch):
    monkeypatch.setattr("isoclr.pretrain.feed._PIECE", 1000)
    assert len(store.nucleotides) > 3000
    assert np.array_equal(ResidentStore(store, "cpu").nucleotides.numpy(), store.nucleotides)


def watched(store, broken=()):
    "A store that tells who gathers from it, and fails on some rows."
    seen = []

    def gather(rows):
        seen.append((threading.current_thread(), rows.tolist()))
        if set(rows.tolist()) & set(broken):
            raise InputError("the disk is gone: look at /data/store")
        return store.gather(rows)

    return SimpleNamespace(gather=gather, nucleotides=store.nucleotides, transcripts=store.transcripts), seen


def test_the_next_step_is_gathered_ahead_by_the_one_thread(store, sampler):
    other, seen = watched(store)
    begun, last = threading.Event(), sampler.chunks(1)[-1].rows_2.tolist()
    gather = other.gather
    other.gather = lambda rows: (gather(rows), begun.set() if rows.tolist() == last else None)[0]
    feed = PairFeed(other, sampler, resident=False)
    feed.batch(0)
    assert begun.wait(60)  # step 1, that nobody asked for yet
    feed.batch(1)
    feed.close()  # waits for what the thread is doing
    assert {thread for thread, _ in seen}.isdisjoint({threading.current_thread()}) and len({thread for thread, _ in seen}) == 1
    rows = [gathered for _, gathered in seen]
    wanted = [part.tolist() for step in range(2) for pairs in sampler.chunks(step) for part in (pairs.rows_1, pairs.rows_2)]
    assert rows[: len(wanted)] == wanted  # each once, in order; step 2 may have begun


def test_closing_ends_the_thread(store, sampler):
    with PairFeed(store, sampler, resident=False) as feed:
        feed.batch(0)
        assert any(thread.name.startswith("pairs") for thread in threading.enumerate())
    assert not any(thread.name.startswith("pairs") for thread in threading.enumerate())
    feed.close()
    with PairFeed(store, sampler) as feed:
        assert feed.batch(0)


def test_an_error_of_the_thread_is_raised_where_its_step_is_asked_for(store, sampler):
    broken = sampler.chunks(1)[-1].rows_2[:1].tolist()
    other, _ = watched(store, broken)
    clean = next(step for step in range(2, 5) if not {*sampler.batch_of(step).rows_1, *sampler.batch_of(step).rows_2} & {*broken})
    assert not {*sampler.batch_of(0).rows_1, *sampler.batch_of(0).rows_2} & {*broken}
    with PairFeed(other, sampler, resident=False) as feed:
        assert_same(feed.batch(0), PairFeed(store, sampler).batch(0))  # step 1 fails meanwhile
        for _ in range(2):
            with pytest.raises(InputError, match="the disk is gone"):
                feed.batch(1)
        assert_same(feed.batch(clean), PairFeed(store, sampler).batch(clean))


def test_a_store_lives_on_a_gpu_when_it_leaves_room(store, monkeypatch):
    gpu, size = torch.device("cuda", 0), store.nucleotides.nbytes
    for free, expected in ((int(size / 0.39), True), (int(size / 0.41), False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10 * free))
        assert fits_on(store, gpu) == expected
    assert fits_on(store, torch.device("cpu"))


def test_resident_is_yes_no_or_auto(store, sampler):
    with pytest.raises(ConfigError, match="resident = 'yes'"):
        PairFeed(store, sampler, resident="yes")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("resident", [True, False])
def test_a_gpu_gets_the_same_and_the_host_does_not_wait(store, sampler, resident):
    here = PairFeed(store, sampler)
    with PairFeed(store, sampler, "cuda", resident) as feed:
        feed.batch(0)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            batches = [feed.batch(step) for step in (1, 2, 8)]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for step, batch in zip((1, 2, 8), batches):
            assert all(each.tokens_1.is_cuda and each.rows_2.is_cuda for each in batch)
            assert_same(batch, here.batch(step))
