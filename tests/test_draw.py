"""The static map: what is drawn, in which colours, and that its page needs no network."""
import json
import re

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad

from isoclr.config import InputError
from isoclr.latent.colors import MISSING_COLOR, PALETTE
from isoclr.latent.draw import draw_map, write_html


def embeddings(n=50, **columns):
    named = {"gene_name": "A<b>", "transcript_id": [f"NM_{i}" for i in range(n)], "species": "human", "length_nt": np.arange(n) + 100}
    obs = pd.DataFrame({**named, **columns}, index=[f"t{i}" for i in range(n)])
    return AnnData(np.zeros((n, 3), dtype=np.float32), obs=obs, obsm={"X_umap": np.random.default_rng(0).normal(size=(n, 2))})


def drawn(figure):
    "Transcripts of each name in the legend, in their order."
    names = dict.fromkeys(trace.name for trace in figure.data)
    return {name: sorted((row[1] for trace in figure.data if trace.name == name for row in trace.customdata), key=lambda one: int(one[3:])) for name in names}


@pytest.mark.parametrize("through_file", [False, True])
def test_categories_and_missing(tmp_path, through_file):
    kinds = np.array(["b", "a", None, "", "a"] * 10, dtype=object)
    adata = embeddings(kind=kinds)
    if through_file:
        adata.write_h5ad(tmp_path / "x.h5ad")
        adata = read_h5ad(tmp_path / "x.h5ad")
    figure = draw_map(adata, "kind")
    assert [trace.name for trace in figure.data[:3]] == ["missing", "a", "b"]
    assert {trace.name: trace.marker.color for trace in figure.data} == {"missing": MISSING_COLOR, "a": PALETTE[0], "b": PALETTE[1]}
    assert all(trace.type == "scattergl" for trace in figure.data)
    for name, transcripts in drawn(figure).items():
        assert transcripts == [f"NM_{i}" for i in range(50) if (kinds[i] or "missing") == name]
    for trace in figure.data:
        rows = [int(row[1][3:]) for row in trace.customdata]
        assert np.array_equal(np.column_stack([trace.x, trace.y]), adata.obsm["X_umap"][rows])


def test_numbers_are_a_scale_and_gaps_are_grey():
    values = np.arange(50.0)
    values[[3, 4]] = np.nan, np.inf
    figure = draw_map(embeddings(half_life=values), "half_life")
    assert [trace.name for trace in figure.data] == ["missing", "half_life"]
    assert drawn(figure)["missing"] == ["NM_3", "NM_4"] and figure.data[1].marker.color.tolist() == np.delete(values, [3, 4]).tolist()
    assert "half_life %{customdata[4]}" in figure.data[1].hovertemplate and figure.data[0].customdata[0][4] == "missing"


@pytest.mark.parametrize("values, names", [
    (np.full(50, np.nan), ["missing"]), (np.full(50, None), ["missing"]),
    (np.arange(50) % 2 == 0, ["False", "True"]), (np.arange(50), ["it"]),
    (pd.array([None, 1] * 25, dtype="Int64"), ["missing", "it"]), (pd.array([None, True] * 25, dtype="boolean"), ["missing", "True"]),
    (pd.Categorical(["x", None] * 25, categories=["x", "unused"]), ["missing", "x"]),
])
def test_every_kind_of_column(values, names):
    assert list(drawn(draw_map(embeddings(it=values), "it"))) == names


def test_no_category_hides_another():
    figure = draw_map(embeddings(3000, species=np.repeat(["human", "mouse", "yeast"], 1000)), "species")
    names = [trace.name for trace in figure.data]
    assert len(names) == 15 and all(len(set(names[i:i + 3])) == 3 for i in range(0, 15, 3)), "they take turns"
    assert [trace.name for trace in figure.data if trace.showlegend] == ["human", "mouse", "yeast"]
    assert all(trace.legendgroup == trace.name for trace in figure.data), "the legend hides all of a category"
    assert {name: len(ids) for name, ids in drawn(figure).items()} == {"human": 1000, "mouse": 1000, "yeast": 1000} and len(set().union(*drawn(figure).values())) == 3000


def test_more_categories_than_colours():
    figure = draw_map(embeddings(400, gene=[f"g{min(i, 99):02}" for i in range(400)]), "gene")
    assert len(figure.data) == 35 and figure.data[0].name == "66 others" and sum(len(trace.x) for trace in figure.data) == 400
    assert "g99" in drawn(figure)  # the largest keeps a colour of its own
    assert len({(trace.marker.color, trace.marker.symbol) for trace in figure.data}) == 35


def test_hover_names_gene_transcript_species_and_length():
    hover = draw_map(embeddings(), "species").data[0].hovertemplate
    assert [part.split()[0] for part in hover.removesuffix("<extra></extra>").split("<br>")] == ["gene", "transcript", "species", "length"]
    bare = embeddings()
    del bare.obs["gene_name"]
    assert draw_map(bare, "length_nt").data[0].hovertemplate.startswith("transcript")


def test_one_transcript_and_one_dimension():
    assert len(draw_map(embeddings(1), "species").data[0].x) == 1
    adata = embeddings()
    adata.obsm["X_pca"] = adata.obsm["X_umap"][:, :1]
    assert not draw_map(adata, "species", "pca").data[0].y.any()


def test_refusals():
    with pytest.raises(InputError, match=r"no column 'specie' .*Did you mean 'species'"):
        draw_map(embeddings(), "specie")
    with pytest.raises(InputError, match=r"no projection 'pca': call project\(adata, 'pca'\) first.*umap"):
        draw_map(embeddings(), "species", "pca")
    with pytest.raises(InputError, match="no transcripts to draw"):
        draw_map(embeddings()[:0].copy(), "species")


def test_page_is_whole_deterministic_and_fetches_nothing(tmp_path):
    figure = draw_map(embeddings(), "species")
    write_html(figure, tmp_path / "my map.html")
    page = (tmp_path / "my map.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|iframe)\b[^>]*\b(src|href)\s*=", page) and "Plotly.newPlot" in page and len(page) > 2e6
    assert '"showSendToCloud": false' in page.split("Plotly.newPlot")[-1]  # no button that uploads the data
    assert json.dumps("NM_49") in page and "A<b>" not in page.split("Plotly.newPlot")[-1]  # text cannot break out of the script
    write_html(figure, tmp_path / "again" / "my map.html")
    assert (tmp_path / "again" / "my map.html").read_bytes() == (tmp_path / "my map.html").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "my map.html"]


def test_several_columns_share_one_figure_with_a_menu(tmp_path):
    adata = embeddings(kind=np.array(["a", "b"] * 25), half_life=np.r_[np.nan, np.arange(49.0)])
    figure = draw_map(adata, ["kind", "half_life"])
    alone = [draw_map(adata, "kind"), draw_map(adata, "half_life")]
    buttons = figure.layout.updatemenus[0].buttons
    for button, single in zip(buttons, alone, strict=True):
        shown = [trace.name for trace, visible in zip(figure.data, button.args[0]["visible"], strict=True) if visible]
        assert shown == [trace.name for trace in single.data] and button.args[1]["title"]["text"] == single.layout.title.text
    assert [trace.visible for trace in figure.data] == [True] * 10 + [False] * 2 and not alone[0].layout.updatemenus
    with pytest.raises(InputError, match="at least one column"):
        draw_map(adata, [])


def test_pictures_are_whole_or_not_there(tmp_path, monkeypatch):
    from plotly.graph_objects import Figure

    from isoclr.latent.draw import write_image

    asked = []
    monkeypatch.setattr(Figure, "to_image", lambda self, **settings: asked.append(settings) or b"picture")
    for kind, scale in (("svg", 1), ("pdf", 1), ("png", 3.0)):
        write_image(Figure(), tmp_path / f"map.{kind}")
        assert (tmp_path / f"map.{kind}").read_bytes() == b"picture" and asked[-1]["format"] == kind and asked[-1]["scale"] == scale

    def fails(self, **settings):
        raise ValueError("no browser")

    monkeypatch.setattr(Figure, "to_image", fails)
    with pytest.raises(InputError, match="no browser.*pip install kaleido"):
        write_image(Figure(), tmp_path / "other.svg")
    with pytest.raises(InputError, match=r"\.svg, \.pdf or \.png"):
        write_image(Figure(), tmp_path / "map.gif")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.pdf", "map.png", "map.svg"]
