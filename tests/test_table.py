"""The transcript table: frames, problems and selection against oracles that go base by base, and lines of text from outside."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import InputError
from isoclr.data.table import COLUMNS, Annotation, assemble, exon_frames, flat_positions, numbered_lines, whole_number


def frames_base_by_base(exons, frames, strand, cds_start, cds_end) -> list[int]:
    "Frames of ascending exons: read 5'→3', counting, and jumping to the given frame at the first coding base of an exon that has one."
    result, frame, begun = {}, 0, False
    for (start, end), given_frame in list(zip(exons, frames))[:: 1 if strand == "+" else -1]:
        result[start] = -1
        for position in range(start, end)[:: 1 if strand == "+" else -1]:
            if cds_start >= 0 and cds_start <= position < cds_end:
                if result[start] < 0:
                    frame = given_frame if given_frame >= 0 else frame if begun else 0
                    result[start] = frame
                begun, frame = True, (frame + 1) % 3
    return [result[start] for start, _ in exons]


def problem_of(strand, exons, cds_start, cds_end) -> str:
    bases = [position for start, end in exons for position in range(start, end)]
    if not exons:
        return "no_exons"
    if strand not in ("+", "-"):
        return "no_strand"
    if len(set(bases)) < len(bases):
        return "overlapping_exons"
    return "cds_outside_exons" if cds_start >= 0 and not {cds_start, cds_end - 1} <= set(bases) else ""


@st.composite
def tables(draw, sound: bool = False):
    "Transcripts as (strand, exons, given frames, cds_start, cds_end); overlaps, no exons, a CDS outside and odd strands unless `sound`."
    transcripts = []
    for _ in range(draw(st.integers(0 if not sound else 1, 5))):
        position, exons = draw(st.integers(0, 9)), []
        for _ in range(draw(st.integers(1 if sound else 0, 4))):
            end = position + draw(st.integers(1, 9))
            exons.append((position, end))
            position = max(0, end + draw(st.integers(0 if sound else -3, 9)))
        exons.sort()
        frames = draw(st.lists(st.integers(-1, 2), min_size=len(exons), max_size=len(exons)))
        cds = sorted(draw(st.lists(st.integers(0, position + 1), min_size=2, max_size=2, unique=True))) if draw(st.booleans()) else (-1, -1)
        transcripts.append((draw(st.sampled_from("+-" if sound else "+-.")), exons, frames, *cds))
    return transcripts


def flat(transcripts):
    owner = np.array([i for i, t in enumerate(transcripts) for _ in t[1]], np.int64)
    starts, ends = (np.array([exon[k] for t in transcripts for exon in t[1]], np.int64) for k in (0, 1))
    return owner, starts, ends, np.array([frame for t in transcripts for frame in t[2]], np.int64)


def rows_of(transcripts) -> pd.DataFrame:
    n = len(transcripts)
    words = {name: np.array([f"{name}{i}" for i in range(n)], object) for name in COLUMNS}
    numbers = {"cds_start": [t[3] for t in transcripts], "cds_end": [t[4] for t in transcripts], "line": range(n)}
    return pd.DataFrame({**words, **{name: np.array(values, np.int64) for name, values in numbers.items()}}).assign(
        strand=np.array([t[0] for t in transcripts], object), problem=""
    )


@settings(deadline=None, max_examples=300)
@given(tables(sound=True))
def test_frames(transcripts):
    owner, starts, ends, given_frames = flat(transcripts)
    forward = np.array([t[0] == "+" for t in transcripts])
    cds_start, cds_end = (np.array([t[k] for t in transcripts]) for k in (3, 4))
    frames = exon_frames(owner, starts, ends, forward, cds_start, cds_end, given_frames)
    expected = [frames_base_by_base(exons, frames, strand, *cds) for strand, exons, frames, *cds in transcripts]
    assert frames.tolist() == sum(expected, []) and frames.dtype == np.int8


@settings(deadline=None, max_examples=300)
@given(tables(), st.randoms(use_true_random=False))
def test_assembly_sorts_and_finds_what_is_wrong(transcripts, rng):
    owner, starts, ends, frames = flat(transcripts)
    order = list(range(len(owner)))
    rng.shuffle(order)
    annotation = assemble(rows_of(transcripts), owner[order], starts[order], ends[order], frames[order])
    assert list(annotation.rows.columns) == COLUMNS and len(annotation) == len(transcripts)
    assert annotation.rows.problem.tolist() == [problem_of(strand, exons, *cds) for strand, exons, _, *cds in transcripts]
    table = annotation.to_frame()
    for row, (strand, exons, frames, *cds) in zip(table.itertuples(), transcripts):
        assert list(zip(row.exon_starts, row.exon_ends)) == sorted(exons)
        if row.problem == "":
            assert row.exon_frames.tolist() == frames_base_by_base(exons, frames, strand, *cds)
    assert np.repeat(np.arange(len(transcripts)), np.diff(annotation.exon_offsets)).tolist() == owner.tolist()


def test_a_problem_that_the_reader_found_goes_first():
    rows = rows_of([("+", [(0, 9), (5, 12)], [0, 0], -1, -1)] * 2).assign(problem=["repeated_id", ""])
    annotation = assemble(rows, np.array([0, 0, 1, 1]), np.array([0, 5, 0, 5]), np.array([9, 12, 9, 12]), np.zeros(4, np.int64))
    assert annotation.rows.problem.tolist() == ["repeated_id", "overlapping_exons"]


@settings(deadline=None, max_examples=200)
@given(tables(), st.data())
def test_take_is_taking_rows_of_the_frame(transcripts, data):
    annotation = assemble(rows_of(transcripts), *flat(transcripts))
    n = len(annotation)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
    picks = [np.flatnonzero(mask), mask]
    if n:
        picks.append(np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=9)), np.int64))  # again, and in any order
    for pick in picks:
        taken = annotation.take(pick)
        assert isinstance(taken, Annotation)
        pd.testing.assert_frame_equal(taken.to_frame(), annotation.to_frame().iloc[pick].reset_index(drop=True), check_dtype=n > 0)
        assert taken.exon_offsets[0] == 0 and taken.exon_offsets[-1] == len(taken.exon_starts) == len(taken.exon_ends) == len(taken.exon_frames)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.data())
def test_flat_positions(counts, data):
    offsets = np.concatenate([[0], np.cumsum(counts)])
    rows = np.array(data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=8)), np.int64)
    assert flat_positions(offsets, rows).tolist() == [position for row in rows for position in range(offsets[row], offsets[row + 1])]


@given(st.text(st.sampled_from("0123456789-+_ e.٣²\t\0"), max_size=14))
def test_a_whole_number_is_digits_with_a_sign_at_most(text):
    digits = text.removeprefix("-")
    if 1 <= len(digits) <= 12 and set(digits) <= set("0123456789"):
        assert whole_number("a", 7, "start", text) == int(text)
    else:
        with pytest.raises(InputError, match="^a:7: start is "):
            whole_number("a", 7, "start", text)


def test_lines_are_numbered_as_an_editor_does(tmp_path):
    (tmp_path / "a").write_bytes(b"one\r\n\r\n \t\ntwo\nthree")
    assert list(numbered_lines(tmp_path / "a")) == [(1, "one"), (4, "two"), (5, "three")]
