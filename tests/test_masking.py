"""Masks: as many as asked for, everywhere alike, in spans that are whole, and never on padding."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.data.tracks import BASE_BITS, CODON, EXON_END, MASK, PAD
from isoclr.pretrain.masking import _happens, augment, drop_tracks, mask_tokens
from isoclr.pretrain.pairs import PairBatch, PairConfig


def generator(seed):
    return torch.Generator().manual_seed(seed)


def transcripts(lengths, seed=0):
    "Random tokens with marks, padded; and where they are valid."
    lengths = torch.tensor(lengths, dtype=torch.int32)
    valid = torch.arange(int(lengths.max())) < lengths[:, None]
    marks = 8 * torch.randint(4, valid.shape, generator=generator(seed))
    return torch.where(valid, torch.randint(5, valid.shape, generator=generator(seed + 1)) + marks, PAD).to(torch.uint8), lengths, valid


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6), share=st.floats(0, 0.9999), span=st.integers(1, 70), seed=st.integers(0, 999))
def test_masks_leave_padding_and_the_input_alone(lengths, share, span, seed):
    tokens, lengths, valid = transcripts(lengths, seed)
    before = tokens.clone()
    masked = mask_tokens(tokens, lengths, share, span, generator(seed))
    assert torch.equal(tokens, before) and masked.dtype == torch.uint8 and masked.shape == tokens.shape
    changed = masked != tokens
    assert not changed[~valid].any() and (masked[changed] == MASK).all()
    assert torch.equal(masked, mask_tokens(tokens, lengths, share, span, generator(seed)))


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4), share=st.floats(0.01, 0.9), span=st.integers(1, 50), seed=st.integers(0, 999))
def test_spans_are_what_a_loop_makes_of_their_starts(lengths, share, span, seed):
    tokens, lengths, _ = transcripts(lengths, seed)
    n, longest = tokens.shape
    chance = 1 - (1 - share) ** (1 / span)
    starts = _happens((n, longest + span - 1), chance, tokens.device, generator(seed))
    expected = tokens.clone()
    for i in range(n):
        for start in starts[i].nonzero().flatten().tolist():
            begin = start - (span - 1)  # spans may begin before the transcript
            for position in range(max(begin, 0), min(begin + span, int(lengths[i]))):
                expected[i, position] = MASK
    assert torch.equal(mask_tokens(tokens, lengths, share, span, generator(seed)), expected)


@pytest.mark.parametrize("span", [1, 2, 7, 30, 300])
@pytest.mark.parametrize("share", [0.03, 0.4])
def test_every_nucleotide_is_hidden_with_the_chance_asked_for(span, share):
    n, length = 20_000, 40
    masked = mask_tokens(torch.zeros(n, 50, dtype=torch.uint8), torch.full((n,), length), share, span, generator(span)) == MASK
    error = (share * (1 - share) / n) ** 0.5
    assert not masked[:, length:].any()
    assert (masked[:, :length].float().mean(0) - share).abs().max() < 5 * error  # the first and the last like the others


@pytest.mark.parametrize("chance", [1e-5, 1 / 3, 0.05, 0.999])
def test_chances_are_kept_exactly(chance):
    n = 4_000_000
    hits = _happens((4000, 1000), chance, torch.device("cpu"), generator(5)).float()
    assert abs(hits.double().mean().item() - chance) < 5 * (chance * (1 - chance) / n) ** 0.5
    assert hits.mean(0).std() < 5 * (chance * (1 - chance) / 4000) ** 0.5


def test_neighbours_are_hidden_independently():
    hits = _happens((2000, 1000), 0.3, torch.device("cpu"), generator(6)).double() - 0.3
    for lag in (1, 2, 3, 4, 8):
        assert abs((hits[:, lag:] * hits[:, :-lag]).mean().item()) < 5 * 0.21 / 2e6**0.5


def test_no_share_is_no_work():
    tokens, lengths, _ = transcripts([9, 4])
    assert mask_tokens(tokens, lengths, 0.0, 5) is tokens and drop_tracks(tokens, 0.0) is tokens


@pytest.mark.parametrize("chance", [0.2, 0.7])
def test_tracks_go_from_whole_transcripts_and_each_by_itself(chance):
    tokens = torch.tensor([[0 | CODON, 1 | EXON_END, 4 | CODON | EXON_END, MASK, PAD]], dtype=torch.uint8).repeat(5000, 1)
    before = tokens.clone()
    kept = drop_tracks(tokens, chance, generator(3))
    assert torch.equal(tokens, before) and torch.equal(kept & BASE_BITS, tokens & BASE_BITS)
    lost = {}
    for bit in (CODON, EXON_END):
        there = (kept & bit > 0)[:, (tokens & bit > 0)[0]]
        assert torch.equal(there.all(1), there.any(1))  # all of them or none
        lost[bit] = ~there.any(1)
        assert lost[bit].float().mean().item() == pytest.approx(chance, abs=0.03)
    assert (lost[CODON] & lost[EXON_END]).float().mean().item() == pytest.approx(chance**2, abs=0.03)
    assert torch.equal(drop_tracks(tokens, 1.0), tokens & BASE_BITS)


def pair_batch():
    (tokens_1, lengths_1, _), (tokens_2, lengths_2, _) = transcripts([900, 500, 30], 1), transcripts([40, 700, 800], 2)
    return PairBatch(tokens_1, lengths_1, tokens_2, lengths_2, torch.ones(3), torch.zeros(3), torch.arange(3), torch.arange(3), torch.arange(3))


def test_one_member_or_both():
    batch = pair_batch()
    kept = [batch.tokens_1.clone(), batch.tokens_2.clone()]
    config = PairConfig(mask_share=0.3, mask_span=4, track_dropout=0.5)
    both, one = augment(batch, config, generator(0)), augment(batch, config.replace(mask_members="one"), generator(0))
    assert (both.tokens_1 == MASK).any() and (both.tokens_2 == MASK).any() and (one.tokens_2 == MASK).any()
    assert one.tokens_1 is batch.tokens_1
    assert torch.equal(batch.tokens_1, kept[0]) and torch.equal(batch.tokens_2, kept[1])
    for name in ("lengths_1", "lengths_2", "weight", "relation", "group", "rows_1", "rows_2"):
        assert getattr(both, name) is getattr(batch, name)
    again = augment(batch, config, generator(0))
    assert torch.equal(again.tokens_1, both.tokens_1) and torch.equal(again.tokens_2, both.tokens_2)
    assert not torch.equal(augment(batch, config, generator(1)).tokens_1, both.tokens_1)


def test_a_transcript_paired_with_itself_is_hidden_differently():
    batch = pair_batch()
    batch = PairBatch(batch.tokens_1, batch.lengths_1, batch.tokens_1, batch.lengths_1, *(getattr(batch, name) for name in ("weight", "relation", "group", "rows_1", "rows_2")))
    hidden = augment(batch, PairConfig(mask_share=0.2), generator(0))
    assert not torch.equal(hidden.tokens_1, hidden.tokens_2)


def test_nothing_to_hide():
    batch = pair_batch()
    hidden = augment(batch, PairConfig(mask_share=0.0))
    assert hidden.tokens_1 is batch.tokens_1 and hidden.tokens_2 is batch.tokens_2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_masking_on_a_gpu_waits_for_nothing():
    batch, config = pair_batch().to("cuda"), PairConfig(mask_share=0.3, mask_span=4, track_dropout=0.5)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        hidden = augment(batch, config, torch.Generator("cuda").manual_seed(0))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (hidden.tokens_1 == MASK).any() and torch.equal(hidden.tokens_1 == PAD, batch.tokens_1 == PAD)
