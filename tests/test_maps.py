"""Figures of several maps show the coordinates they were given."""
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from isoclr.config import InputError
from isoclr.latent.align import aligned_maps, checkpoint_maps
from isoclr.latent.maps import draw_animation, draw_side_by_side


def embeddings(seed, n=40):
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({"transcript_id": [f"t{i}" for i in range(n)], "species": np.where(np.arange(n) % 3, "x", "y"), "half_life": rng.normal(size=n)}, index=[f"t{i}" for i in range(n)])
    return AnnData(rng.normal(size=(n, 6)).astype(np.float32), obs)


def shown(traces):
    "All points of some traces, sorted."
    points = np.concatenate([np.column_stack([trace.x, trace.y]) for trace in traces])
    return points[np.lexsort(points.T)]


def ordered(xy):
    return xy[np.lexsort(xy.T)]


@pytest.mark.parametrize("color, traces", [("species", 2), ("half_life", 1)])
def test_each_panel_has_its_own_map(color, traces):
    maps = aligned_maps({"one": embeddings(0), "two": embeddings(1), "three": embeddings(2)}, "pca")
    figure = draw_side_by_side(maps, embeddings(0).obs, color)
    assert len({(trace.xaxis, trace.name) for trace in figure.data}) == 3 * traces and sum(bool(trace.showlegend) for trace in figure.data) == (2 if traces == 2 else 0)
    for number, axis in enumerate(("x", "x2", "x3")):
        own = [trace for trace in figure.data if trace.xaxis == axis]
        assert np.allclose(shown(own), ordered(np.asarray(maps.xy[number], float)), atol=1e-5)
    assert [a.text.split(" ")[0] for a in figure.layout.annotations] == ["one", "two", "three"] and "(" in figure.layout.annotations[1].text
    assert len({tuple(figure.layout[f"xaxis{n}"].range) for n in ("", 2, 3)}) == 1, "one frame for all"


def test_frames_are_the_checkpoints():
    maps = checkpoint_maps({step: embeddings(step) for step in (0, 10, 20)}, "pca")
    figure = draw_animation(maps, embeddings(0).obs)
    assert [frame.name for frame in figure.frames] == ["0", "10", "20"] == [step.label for step in figure.layout.sliders[0].steps]
    for number, frame in enumerate(figure.frames):
        assert np.allclose(shown(frame.data), ordered(np.asarray(maps.xy[number], float)), atol=1e-5)


def test_the_wrong_table_is_refused():
    maps = aligned_maps({"one": embeddings(0), "two": embeddings(1)}, "pca")
    with pytest.raises(InputError, match="5 of 40 transcripts of the maps are not in the table"):
        draw_side_by_side(maps, embeddings(0).obs.iloc[:35])
    with pytest.raises(InputError, match="Did you mean 'species'"):
        draw_animation(maps, embeddings(0).obs, "specie")
