"""The panels beside the map: exons base by base, shares by counting, and what is refused."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError
from isoclr.latent.colors import PART_COLORS
from isoclr.latent.panels import SELECTED_COLOR, draw_enrichment, draw_histogram, draw_transcripts, transcript_parts
from isoclr.latent.structure import enrichment


def table(*rows):
    "Transcripts of a store, as (transcript, gene, strand, exons, cds)."
    return pd.DataFrame([{
        "transcript_id": name, "gene_id": f"human:{gene}", "gene_name": gene, "chrom": "chr1", "strand": strand,
        "exon_starts": np.array([start for start, _ in exons]), "exon_ends": np.array([end for _, end in exons]), "cds_start": cds[0], "cds_end": cds[1],
    } for name, gene, strand, exons, cds in rows])


def bases(strand, exons, cds):
    "The slow way: exon number, place in the genome and whether it codes, of every base 5'→3'."
    positions = [(exon, at) for exon, (start, end) in enumerate(exons) for at in range(start, end)]
    if strand == "-":
        positions = [(len(exons) - 1 - exon, at) for exon, at in reversed(positions)]
    return [(exon + 1, at, cds[0] <= place < cds[1]) for place, (exon, at) in enumerate(positions)]


@st.composite
def transcripts(draw):
    sizes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=5))
    exons, at = [], draw(st.integers(0, 5))
    for gap, size in sizes:
        exons.append((at + gap, at + gap + size))
        at += gap + size
    length = sum(size for _, size in sizes)
    start = draw(st.integers(0, length - 1))
    cds = draw(st.sampled_from([(-1, -1), (start, draw(st.integers(start + 1, length)))]))
    return draw(st.sampled_from("+-")), exons, cds


@settings(max_examples=150, deadline=None)
@given(transcripts())
def test_parts_are_the_bases(transcript):
    strand, exons, cds = transcript
    expected = bases(strand, exons, cds)
    frame = table(("T", "G", strand, exons, cds))
    spliced, genome = transcript_parts(frame), transcript_parts(frame, "genome")
    assert [(part.exon, part.coding) for part in spliced.itertuples() for _ in range(part.start, part.end)] == [(exon, coding) for exon, _, coding in expected]
    assert spliced.start.tolist() == [0, *spliced.end.tolist()[:-1]]
    turned = [range(part.start, part.end) if strand == "+" else range(part.end - 1, part.start - 1, -1) for part in genome.itertuples()]
    assert [at for one in turned for at in one] == [at for _, at, _ in expected]
    assert genome[["exon", "coding"]].equals(spliced[["exon", "coding"]])


ISOFORMS = table(
    ("T1", "A", "-", [(100, 200), (300, 350)], (20, 80)), ("S1", "B", "+", [(1000, 1010), (1050, 1090)], (-1, -1)), ("T2", "A", "-", [(100, 200)], (0, 100)),
)


def rectangles(trace):
    "x0, x1 and line of each box of a trace."
    x, y = np.array(trace.x, float).reshape(-1, 6), np.array(trace.y, float).reshape(-1, 6)
    return [(left, right, -round((low + high) / 2)) for left, right, low, high in zip(x[:, 0], x[:, 2], y[:, 0], y[:, 1])]


def test_isoforms_stand_together_and_are_drawn_to_scale():
    figure = draw_transcripts(ISOFORMS)
    assert list(figure.layout.yaxis.ticktext) == ["A T1", "A T2", "B S1"]
    drawn = {trace.name: rectangles(trace) for trace in figure.data}
    assert drawn["CDS"] == [(20, 50, 0), (50, 80, 0), (0, 100, 1)] and drawn["UTR"] == [(0, 20, 0), (80, 150, 0)] and drawn["no CDS"] == [(0, 10, 2), (10, 50, 2)]
    assert {trace.name: trace.fillcolor for trace in figure.data} == PART_COLORS


def test_genome_coordinates_of_one_gene_are_those_of_its_chromosome():
    figure = draw_transcripts(ISOFORMS.iloc[[0, 2]], "genome")
    assert figure.layout.xaxis.autorange == "reversed" and "chr1" in figure.layout.xaxis.title.text
    assert sorted(rectangles(figure.data[2])) == [(100, 200, 1), (170, 200, 0), (300, 330, 0)]
    assert draw_transcripts(ISOFORMS.iloc[[1]], "genome").layout.xaxis.autorange is True


def test_several_genes_start_at_their_own_5_prime_end():
    figure = draw_transcripts(ISOFORMS, "genome")
    drawn = {trace.name: rectangles(trace) for trace in figure.data[1:]}
    assert drawn["no CDS"] == [(0, 10, 2), (50, 90, 2)] and (150, 250, 1) in drawn["CDS"] and drawn["UTR"][0] == (0, 20, 0)
    assert list(figure.data[0].x)[:2] == [0, 250]  # the line through the introns of T1


def test_a_long_list_is_cut_and_says_so():
    many = pd.concat([ISOFORMS] * 30, ignore_index=True)
    figure = draw_transcripts(many, most=12)
    assert len(figure.layout.yaxis.ticktext) == 12 and figure.layout.title.text == "12 of 90 transcripts"
    assert draw_transcripts(ISOFORMS).layout.title.text == ""


def test_refusals_of_transcripts():
    with pytest.raises(InputError, match="no transcripts to draw"):
        draw_transcripts(ISOFORMS[:0])
    with pytest.raises(InputError, match="lack strand"):
        draw_transcripts(ISOFORMS.drop(columns="strand"))
    with pytest.raises(ConfigError, match="Did you mean 'genome'"):
        draw_transcripts(ISOFORMS, "genomic")


@pytest.mark.parametrize("seed", [0, 1])
def test_histogram_shares_are_counts(seed):
    rng = np.random.default_rng(seed)
    values = pd.Series(np.where(rng.random(500) < 0.1, np.nan, rng.normal(size=500)), name="half_life")
    selected = rng.random(500) < 0.3
    others, chosen = draw_histogram(values, selected).data
    for bars, mask in ((others, ~selected), (chosen, selected)):
        numbers = values[mask].dropna()
        half = bars.width / 2
        slow = [sum(center - half <= number < center + half for number in numbers) for center in bars.x[:-1]]
        assert np.abs(np.array(bars.y[:-1]) * len(numbers) - slow).max() <= 1  # a number on an edge may fall on either side
        assert sum(bars.y) == pytest.approx(1)
    assert chosen.name == f"selected ({selected.sum():,})" and chosen.marker.color == SELECTED_COLOR


def test_histogram_of_categories_and_of_extremes():
    values = pd.Series(["a", "b", "b", None, "c"], name="kind")
    others, chosen = draw_histogram(values, np.array([True, True, False, True, False])).data
    assert dict(zip(chosen.x, chosen.y)) == {"a": pytest.approx(1 / 3), "b": pytest.approx(1 / 3), "missing": pytest.approx(1 / 3)}
    assert dict(zip(others.x, others.y))["b"] == 0.5
    nobody = draw_histogram(values, np.zeros(5, bool))
    assert not any(nobody.data[1].y) and max(nobody.data[0].y) == 0.4
    assert sum(draw_histogram(pd.Series([3.0], name="x"), np.array([True])).data[1].y) == 1
    with pytest.raises(InputError, match="Every value of x is missing"):
        draw_histogram(pd.Series([np.nan, np.nan], name="x"), np.array([True, False]))
    with pytest.raises(InputError, match="2 booleans"):
        draw_histogram(pd.Series([1.0, 2.0]), np.array([0, 1]))


def test_enrichment_bars_point_where_the_selection_has_more():
    n = 200
    obs = pd.DataFrame({
        "transcript_id": [f"T{i}" for i in range(n)], "gene_id": [f"human:G{i}" for i in range(n)], "kind": np.repeat(["more", "less"], n // 2),
        "length_nt": np.r_[np.full(50, 9000), np.random.default_rng(0).integers(100, 1000, n - 50)],
    })
    found = enrichment(obs, np.arange(50))
    figure = draw_enrichment(found)
    length = dict(zip(figure.layout.yaxis.ticktext, figure.data[0].x))
    assert length["kind: more"] > 5 and length["kind: less"] < -5 and length["length_nt"] > 5
    assert figure.layout.yaxis.ticktext[-1] == (found.column[0] if pd.isna(found.odds_ratio[0]) else f"{found.column[0]}: {found.value[0]}")
    assert len(draw_enrichment(found, most=1).data[0].x) == 1
    with pytest.raises(InputError, match="Nothing could be tested"):
        draw_enrichment(found.assign(fdr=np.nan))
