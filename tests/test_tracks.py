"""Tracks: parity with the published encoding, and oracles that go position by position."""

import numpy as np
import pandas as pd
import pytest
import torch
from Bio.Seq import Seq
from hypothesis import given
from hypothesis import strategies as st

from isoclr.config import InputError
from isoclr.data.annotation import read_annotation
from isoclr.data.genome import Genome, encode_bases
from isoclr.data.table import COLUMNS, Annotation, assemble
from isoclr.data.tracks import (
    BASE_BITS,
    CODON,
    EXON_END,
    MASK,
    PAD,
    codon_starts,
    exon_ends,
    mark_transcripts,
    sequence_from_tokens,
    splice,
    tokens_from_exons,
    track_table,
    tracks_from_tokens,
    transcript_coordinates,
    translate,
)


@st.composite
def transcripts(draw):
    "(bases, exon lengths, cds_start, cds_end, frame)"
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
    bases = np.array(draw(st.lists(st.integers(0, 4), min_size=sum(lengths), max_size=sum(lengths))), np.uint8)
    if draw(st.booleans()):
        return bases, lengths, -1, -1, 0
    start = draw(st.integers(0, len(bases) - 1))
    return bases, lengths, start, draw(st.integers(start + 1, len(bases))), draw(st.integers(0, 2))


def slow_tokens(bases, lengths, cds_start, cds_end, frame) -> list[int]:
    tokens = []
    ends = [sum(lengths[: i + 1]) - 1 for i in range(len(lengths))]
    for position, base in enumerate(bases.tolist()):
        in_codon = (position - cds_start + frame) % 3
        codon = cds_start >= 0 and cds_start <= position < cds_end and in_codon == 0
        tokens.append(base + 8 * codon + 16 * (position in ends))
    return tokens


@given(transcripts())
def test_one_transcript(transcript):
    bases, lengths, cds_start, cds_end, frame = transcript
    before = bases.copy()
    tokens = tokens_from_exons(bases, lengths, cds_start, cds_end, frame)
    assert tokens.dtype == np.uint8 and tokens.tolist() == slow_tokens(*transcript) and np.array_equal(bases, before)
    assert sequence_from_tokens(tokens) == "".join("ACGTN"[base] for base in bases) == sequence_from_tokens(torch.from_numpy(tokens))
    assert exon_ends(tokens).tolist() == (np.cumsum(lengths) - 1).tolist()
    assert codon_starts(tokens).tolist() == [i for i, token in enumerate(tokens) if token & CODON]


@given(st.lists(transcripts(), min_size=1, max_size=6))
def test_many_transcripts_end_to_end(many):
    shift = np.cumsum([0] + [len(t[0]) for t in many])[:-1]
    spans = [(t[2] + s, t[3] + s) if t[2] >= 0 else (-1, -1) for t, s in zip(many, shift)]
    tokens = tokens_from_exons(
        np.concatenate([t[0] for t in many]),
        np.concatenate([t[1] for t in many]),
        np.array([start for start, _ in spans]),
        np.array([end for _, end in spans]),
        np.array([t[4] for t in many]),
    )
    assert tokens.tolist() == sum([slow_tokens(*t) for t in many], [])


@pytest.mark.parametrize(
    "lengths, start, end, frame",
    [
        ([5], -1, -1, 0),
        ([4, 0, 4], -1, -1, 0),
        ([], -1, -1, 0),
        ([8], 3, 3, 0),
        ([8], 3, 9, 0),
        ([8], -1, 3, 0),
        ([8], 0, 3, 3),
        ([8], 0, 3, -1),
        ([8], 5, 2, 0),
    ],
)
def test_numbers_that_do_not_fit_together(lengths, start, end, frame):
    with pytest.raises(InputError):
        tokens_from_exons(np.zeros(8, np.uint8), lengths, start, end, frame)


def slow_tracks(token: int, zero_mean: bool) -> list[float]:
    base = token % 8
    if base >= PAD:
        return [0.0] * 6
    quarter = 0.25 if zero_mean else 0.0
    if base == MASK:
        return [0.25 - quarter] * 4 + [0.25, 0.25]
    letters = [0.25] * 4 if base == 4 else [1.0 if base == i else 0.0 for i in range(4)]
    return [value - quarter for value in letters] + [1.0 if token & CODON else 0.0, 1.0 if token & EXON_END else 0.0]


@pytest.mark.parametrize("zero_mean", [False, True])
@pytest.mark.parametrize("n_tracks", [4, 6])
def test_every_token(n_tracks, zero_mean):
    table = track_table(n_tracks, zero_mean)
    assert table.dtype == torch.float32 and table.tolist() == [slow_tracks(token, zero_mean)[:n_tracks] for token in range(32)]
    tokens = torch.randint(0, 32, (3, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    tracks = tracks_from_tokens(tokens, n_tracks, zero_mean)
    assert tracks.shape == (3, n_tracks, 50) and tracks.is_contiguous() and tracks.dtype == torch.float32
    for i in range(3):
        for position in range(50):
            assert tracks[i, :, position].tolist() == slow_tracks(int(tokens[i, position]), zero_mean)[:n_tracks]


def test_tracks_first_made_in_inference_mode_can_be_trained_on():
    from isoclr.data import tracks as module

    module._table_on.cache_clear()
    tokens = torch.zeros(1, 4, dtype=torch.uint8)
    with torch.inference_mode():
        tracks_from_tokens(tokens)
    layer = torch.nn.Conv1d(6, 2, 3)
    layer(tracks_from_tokens(tokens)).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("tokens", [torch.zeros(5, dtype=torch.uint8), torch.zeros(1, 5), torch.zeros(1, 5, dtype=torch.int64)])
def test_other_tensors_are_refused(tokens):
    with pytest.raises(InputError, match=r"\(B, L\) uint8"):
        tracks_from_tokens(tokens)
    with pytest.raises(InputError, match="6 tracks"):
        track_table(5)


@given(st.text("ACGT", max_size=120))
def test_translation_equals_biopython(sequence):
    whole = sequence[: len(sequence) // 3 * 3]
    assert translate(sequence) == str(Seq(whole).translate()) == translate(sequence.lower().replace("t", "u"))


def test_unknown_bases_give_x():
    assert translate("ATGNNNTANTAA") == "MXX*"


def test_parity_with_the_published_encoding(shared_data, shared_reference):
    "All 60 transcripts of six_tracks.npz, exactly."
    reference = dict(np.load(shared_reference / "six_tracks.npz"))
    files = {
        "human": ("hg38.regions.fa.gz", "hg38.regions.refseq.genePred.tsv.gz"),
        "mouse": ("mm10.regions.fa.gz", "mm10.regions.gencodeVM18.genePred.tsv.gz"),
    }
    compared = 0
    for species, (fasta, path) in files.items():
        annotation = read_annotation(shared_data / "annotation" / path)
        first = annotation.exon_starts[annotation.exon_offsets[:-1]]
        keys = np.array([f"{species}|{row.transcript_id}|{row.chrom}|{start}" for row, start in zip(annotation.rows.itertuples(), first)])
        wanted = annotation.take(np.isin(keys, list(reference)))
        keys, lengths = keys[np.isin(keys, list(reference))], transcript_coordinates(wanted).length_nt.to_numpy()
        for rows, tokens in splice(Genome(shared_data / "genome" / fasta), wanted, "published", progress=False):
            for key, part in zip(keys[rows], np.split(tokens, np.cumsum(lengths[rows])[:-1]), strict=True):
                tracks = tracks_from_tokens(torch.from_numpy(part.copy())[None])[0].T.numpy()
                assert np.array_equal(tracks, reference[key].astype(np.float32)), key
                compared += 1
    assert compared == len(reference) == 60


@st.composite
def annotated(draw):
    "(strand, exons, bases before the CDS, its length)"
    position, exons = draw(st.integers(0, 9)), []
    for _ in range(draw(st.integers(1, 4))):
        exons.append((position, position + draw(st.integers(1, 9))))
        position = exons[-1][1] + draw(st.integers(0, 9))
    length = sum(end - start for start, end in exons)
    before = draw(st.integers(0, length))
    return draw(st.sampled_from("+-")), exons, before, draw(st.integers(0, length - before))


def as_annotation(transcripts, frames=None) -> Annotation:
    "Transcripts of `annotated`, with frames for their exons in order of the chromosome."
    rows, exons = [], []
    for i, (strand, spans, before, length) in enumerate(transcripts):
        coding = reading(strand, spans)[before : before + length]
        row = {**dict.fromkeys(COLUMNS, ""), "transcript_id": f"T{i}", "strand": strand, "line": i + 1}
        rows.append({**row, "cds_start": min(coding, default=-1), "cds_end": max(coding, default=-2) + 1})
        exons += [(i, *span) for span in spans]
    owner, starts, ends = np.array(exons, np.int64).reshape(-1, 3).T
    return assemble(pd.DataFrame(rows, columns=COLUMNS), owner, starts, ends, np.full(len(exons), -1) if frames is None else np.array(frames))


def reading(strand, spans) -> list[int]:
    return [position for start, end in spans for position in range(start, end)][:: 1 if strand == "+" else -1]


@given(st.lists(annotated(), max_size=8))
def test_transcript_coordinates_base_by_base(transcripts):
    expected = []
    for strand, spans, before, length in transcripts:
        n = len(reading(strand, spans))
        expected.append([n, before, before + length] if length else [n, -1, -1])
    assert transcript_coordinates(as_annotation(transcripts)).values.tolist() == expected


@given(st.lists(annotated(), max_size=6), st.data())
def test_marks_base_by_base(transcripts, data):
    "Codons counted base by base: from the frame of each exon that has one, or straight through the CDS."
    frames = [data.draw(st.integers(-1, 2)) for _, spans, _, _ in transcripts for _ in spans]
    annotation, annotated_marks, published_marks, exon_marks, bases = as_annotation(transcripts, frames), [], [], [], 0
    rest = iter(frames)
    for strand, spans, before, length in transcripts:
        given_frames, at, phase = dict(zip(spans, rest)), 0, 0
        for start, end in spans if strand == "+" else spans[::-1]:
            for k, rank in enumerate(range(at, at + end - start)):
                if before <= rank < before + length:
                    if (k == 0 or rank == before) and given_frames[start, end] >= 0:
                        phase = given_frames[start, end]
                    annotated_marks += [bases + rank] * (phase == 0)
                    published_marks += [bases + rank] * ((rank - before) % 3 == 0)
                    phase = (phase + 1) % 3
            at += end - start
            exon_marks.append(bases + at - 1)
        bases += at
    codes = np.arange(bases, dtype=np.uint8) % 5
    for frame, expected in (("annotated", annotated_marks), ("published", published_marks)):
        tokens = mark_transcripts(codes, annotation, frame)
        assert np.array_equal(tokens & BASE_BITS, codes) and codon_starts(tokens).tolist() == expected and exon_ends(tokens).tolist() == exon_marks


def test_parity_needs_the_marks():
    "The comparison above can fail: one mark moved is one value off."
    bases = encode_bases("ATGAAATAG")
    assert (tokens_from_exons(bases, [9], 0, 9) != tokens_from_exons(bases, [9], 0, 9, frame=1)).any()
