"""One frame for several maps, and old maps for new transcripts."""
import numpy as np
import pandas as pd
import pytest
import scipy.spatial
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError
from isoclr.latent import align as room
from isoclr.latent.align import OUTSIDE, align, aligned_maps, checkpoint_maps, place, procrustes
from isoclr.latent.project import project


def clouds(n=90, d=16, seed=0, weights="abc"):
    "Three clouds; names t0, t1, …"
    rng = np.random.default_rng(seed)
    X = 5 * rng.normal(size=(3, d))[np.arange(n) % 3] + rng.normal(size=(n, d))
    obs = pd.DataFrame({"gene_id": [f"g{i // 3}" for i in range(n)]}, index=[f"t{i}" for i in range(n)])
    return AnnData(X.astype(np.float32), obs=obs, uns={"isoclr": {"weights": weights}})


def moved(xy, seed, mirrored):
    "The same points turned, perhaps mirrored, scaled and shifted."
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(xy.shape[1],) * 2))[0]
    turn[:, 0] *= -1 if (np.linalg.det(turn) < 0) != mirrored else 1
    assert (np.linalg.det(turn) < 0) == mirrored
    return xy @ turn * rng.uniform(0.01, 100) + rng.normal(size=xy.shape[1]) * 50


# Procrustes


@settings(max_examples=60, deadline=None)
@given(n=st.integers(3, 40), d=st.integers(1, 4), seed=st.integers(0, 10**6), far=st.sampled_from([0.0, 1e4]))
def test_procrustes_is_that_of_scipy(n, d, seed, far):
    rng = np.random.default_rng(seed)
    reference, xy = rng.normal(size=(n, d)) * rng.uniform(0.01, 100) + far, rng.normal(size=(n, d)) + rng.normal(size=d)
    standard, theirs, disparity = scipy.spatial.procrustes(reference, xy)
    found = procrustes(reference, xy)
    assert found.explained == pytest.approx(1 - disparity, abs=1e-7)
    size = np.linalg.norm(reference - reference.mean(0))
    assert align(reference, xy) == pytest.approx(theirs * size + reference.mean(0), abs=1e-6 * size + 1e-6)
    left = ((reference - found(xy)) ** 2).sum() / size**2
    assert left == pytest.approx(1 - found.explained, abs=1e-7)  # what "explained" means


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), mirrored=st.booleans(), d=st.integers(2, 3))
def test_a_moved_map_comes_back(seed, mirrored, d):
    xy = np.random.default_rng(seed).normal(size=(20, d))
    there = moved(xy, seed, mirrored)
    found = procrustes(xy, there)
    assert align(xy, there) == pytest.approx(xy, abs=1e-7) and found.explained == pytest.approx(1)
    assert (np.linalg.det(found.rotation) < 0) == mirrored
    assert found.rotation @ found.rotation.T == pytest.approx(np.eye(d), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_no_other_frame_is_nearer(seed):
    rng = np.random.default_rng(seed)
    reference, xy = rng.normal(size=(12, 2)), rng.normal(size=(12, 2))
    best = ((reference - align(reference, xy)) ** 2).sum()
    for _ in range(30):
        assert ((reference - moved(xy, rng.integers(10**6), bool(rng.integers(2)))) ** 2).sum() >= best
        near = procrustes(reference, xy)
        angle, scale = rng.normal(scale=0.1), 1 + rng.normal(scale=0.1)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        assert ((reference - ((xy - near.center) @ near.rotation @ turn * near.scale * scale + near.target)) ** 2).sum() >= best - 1e-9


def test_points_that_were_not_used_come_along():
    xy = np.random.default_rng(0).normal(size=(30, 2))
    there = moved(xy, 3, True)
    assert procrustes(xy[:5], there[:5])(there) == pytest.approx(xy, abs=1e-8)


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_few_and_identical_points(n):
    spread = np.arange(2.0 * n).reshape(n, 2) ** 2
    one_place = np.full((n, 2), 1e6 + 0.1)
    for reference, xy in ((one_place, spread), (spread, one_place), (one_place, one_place + 3)):
        aligned = align(reference, xy)
        assert aligned.shape == (n, 2) and np.isfinite(aligned).all()
        if n:
            assert aligned.mean(0) == pytest.approx(reference.mean(0))
            assert aligned - aligned.mean(0) == pytest.approx(xy - xy.mean(0), abs=1e-6)  # shifted, and no more
    assert procrustes(one_place, one_place + 3).explained == 1
    if n > 1:
        assert procrustes(one_place, spread).explained == procrustes(spread, one_place).explained == 0
        assert align(spread, moved(spread, 5, False)) == pytest.approx(spread, abs=1e-8)  # on a line for n = 2
    repeated = np.repeat(np.random.default_rng(0).normal(size=(3, 2)), 4, axis=0)
    assert align(repeated, moved(repeated, 6, True)) == pytest.approx(repeated, abs=1e-8)


def test_procrustes_refuses():
    with pytest.raises(InputError, match=r"\(3, 2\) and \(4, 2\)"):
        procrustes(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(InputError, match=r"\(n, d\) twice"):
        procrustes(np.zeros(3), np.zeros(3))
    with pytest.raises(InputError, match="finite"):
        procrustes(np.zeros((3, 2)), np.full((3, 2), np.nan))


# several maps


def turned(adata, seed=1, noise=0.0):
    "The embeddings of an encoder that differs by a rotation."
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(adata.n_vars,) * 2))[0]
    return AnnData((adata.X @ turn + noise * rng.normal(size=adata.shape)).astype(np.float32), obs=adata.obs.copy())


def test_maps_of_two_encoders_in_one_frame(tmp_path):
    first = clouds()
    second = turned(first)[np.random.default_rng(2).permutation(90)].copy()
    maps = aligned_maps({"first": first, "second": second}, "pca", cache=tmp_path)
    assert maps.names == ("first", "second") and maps.transcripts.equals(first.obs_names)
    assert np.array_equal(maps.xy[0], first.obsm["X_pca"][:, :2]) and maps.xy.dtype == np.float32
    assert maps.xy[1] == pytest.approx(maps.xy[0], abs=1e-3) and maps.explained == pytest.approx([1, 1], abs=1e-6)
    noise = AnnData(np.random.default_rng(5).normal(size=(90, 16)).astype(np.float32), obs=first.obs.copy())
    assert aligned_maps({"first": first, "noise": noise}, "pca", cache=tmp_path).explained[1] < 0.3
    again = aligned_maps({"a": first, "b": turned(first, noise=1.0)}, "tsne", seed=3, cache=tmp_path)
    assert first.uns["tsne"]["params"]["seed"] == 3 and again.xy.shape == (2, 90, 2) and 0 < again.explained[1] < 1


def test_only_shared_transcripts_are_aligned(tmp_path):
    first = clouds()
    second, third = turned(first)[10:].copy(), turned(first, 2)[:50][::-1].copy()
    maps = aligned_maps({"a": first, "b": second, "c": third}, "pca", cache=tmp_path)
    assert maps.transcripts.tolist() == [f"t{i}" for i in range(10, 50)] and maps.xy.shape == (3, 40, 2)
    rows = second.obs_names.get_indexer(maps.transcripts)
    assert maps.xy[1] == pytest.approx(align(first.obsm["X_pca"][10:50, :2], second.obsm["X_pca"][rows, :2]), abs=1e-4)
    assert maps.xy[0] == pytest.approx(first.obsm["X_pca"][10:50, :2])


def test_aligned_maps_refuse():
    adata = clouds()
    with pytest.raises(InputError, match="no maps"):
        aligned_maps({})
    with pytest.raises(InputError, match="a, b share one transcript"):
        aligned_maps({"a": adata[:5].copy(), "b": adata[4:].copy()}, "pca")
    with pytest.raises(InputError, match="share no transcripts"):
        aligned_maps({"a": adata[:4].copy(), "b": adata[4:].copy()}, "pca")
    twice = adata.copy()
    twice.obs_names = ["t0", "t0", *adata.obs_names[2:]]
    with pytest.raises(InputError, match="b: t0 occurs more than once"):
        aligned_maps({"a": adata, "b": twice}, "pca")


# a film over training


def checkpoints(n=90):
    "Noise that becomes three clouds."
    done, rng = clouds(n), np.random.default_rng(7)
    noise = 3 * rng.normal(size=done.shape)
    return {step: AnnData((w * done.X + (1 - w) * noise).astype(np.float32), obs=done.obs.copy()) for step, w in [(0, 0.0), (10, 0.6), (20, 0.8), (30, 0.85)]}


def test_joint_pca_of_checkpoints(tmp_path):
    steps = checkpoints()
    film = checkpoint_maps(steps, "pca", cache=tmp_path)
    assert film.names == (0, 10, 20, 30) and film.xy.shape == (4, 90, 2) and film.transcripts.equals(steps[0].obs_names)
    stacked = np.concatenate([adata.X for adata in steps.values()]).astype(float)
    axes = np.linalg.svd(stacked - stacked.mean(0), full_matrices=False)[2][:2]
    axes *= np.sign(axes[[0, 1], np.abs(axes).argmax(1)])[:, None]
    assert film.xy.reshape(-1, 2) == pytest.approx((stacked - stacked.mean(0)) @ axes.T, abs=1e-3)
    assert film.explained[0] == 1 and film.explained[3] > 0.95 > film.explained[1]


def test_each_checkpoint_begins_where_the_last_one_ended(tmp_path, monkeypatch):
    steps, begun = checkpoints(), []

    def recorded(X, method, seed, init=None, **named):
        begun.append(None if init is None else init.copy())
        return room_project(X, method, seed, init=init, **named)

    room_project = room.project_vectors
    monkeypatch.setattr(room, "project_vectors", recorded)
    film = checkpoint_maps(steps, "tsne", seed=1, cache=tmp_path, perplexity=10)
    assert begun[0] is None and all(np.array_equal(init, frame) for init, frame in zip(begun[1:], film.xy))
    assert film.xy.shape == (4, 90, 2) and np.isfinite(film.xy).all() and film.explained[3] > film.explained[1]
    again = checkpoint_maps(steps, "tsne", seed=1, cache=tmp_path, perplexity=10)
    assert np.array_equal(again.xy, film.xy)
    still = checkpoint_maps({0: steps[30], 1: steps[30].copy()}, "tsne", seed=1, cache=tmp_path)
    assert still.explained[1] > 0.98


def test_checkpoint_maps_refuse():
    steps = checkpoints()
    with pytest.raises(InputError, match="transcripts of 10 are not those of 0"):
        checkpoint_maps({**steps, 10: steps[10][::-1].copy()}, "pca")
    with pytest.raises(InputError, match="no maps"):
        checkpoint_maps({}, "pca")
    with pytest.raises(InputError, match="of 16, 8 dimensions"):
        checkpoint_maps({0: steps[0], 1: steps[10][:, :8].copy()}, "pca")
    with pytest.raises(ConfigError, match="no projection 'pac'. Did you mean 'pca'"):
        checkpoint_maps(steps, "pac")
    with pytest.raises(ConfigError, match="n_components = 3"):
        checkpoint_maps(steps, "pca", n_components=3)


# new transcripts


def slow_place(X, X_map, xy_map, k):
    "One by one, by the book."
    unit = lambda v: v.astype(float) / np.linalg.norm(v.astype(float))  # noqa: E731
    distance = lambda a, b: ((unit(a) - unit(b)) ** 2).sum() / 2  # noqa: E731
    own = [min(distance(X_map[i], X_map[j]) for j in range(len(X_map)) if j != i) for i in range(len(X_map))]
    xy, outside = [], []
    for vector in X:
        d = np.array([distance(vector, other) for other in X_map])
        nearest = d.argsort()[:k]
        w = 1 / np.maximum(d[nearest], 1e-12)
        xy.append((w[:, None] * xy_map[nearest]).sum(0) / w.sum())
        outside.append(np.mean([one < d[nearest[0]] for one in own]))
    return np.array(xy), np.array(outside)


@pytest.mark.parametrize("k", [1, 4, 15, 200])
def test_place_by_the_book(k):
    adata_map, new = project(clouds(60), "pca", cache=False), clouds(30, seed=0)
    new.X = (new.X + np.random.default_rng(1).normal(size=new.shape)).astype(np.float32)
    xy, outside = slow_place(new.X, adata_map.X, adata_map.obsm["X_pca"], k)
    assert place(new, adata_map, "pca", k=k) is new
    assert new.obsm["X_pca"] == pytest.approx(xy, abs=1e-4) and new.obs["outside"].to_numpy() == pytest.approx(outside)
    assert len(set(outside)) > 5  # neither all in nor all out


def test_copies_land_on_their_twins_and_noise_is_outside():
    everything = project(clouds(150), "tsne", cache=False)
    kept = everything[50:].copy()
    before = kept.obsm["X_tsne"].copy()
    twins = place(AnnData(everything.X[50:70].copy(), uns={"isoclr": {"weights": "abc"}}), kept, "tsne")
    assert twins.obsm["X_tsne"] == pytest.approx(kept.obsm["X_tsne"][:20], abs=1e-4) and (twins.obs["outside"] == 0).all()
    nearly = AnnData((everything.X[50:70] * 3 + 1e-3).astype(np.float32), uns=twins.uns.copy())  # length does not count
    assert place(nearly, kept, "tsne").obsm["X_tsne"] == pytest.approx(kept.obsm["X_tsne"][:20], abs=0.05)
    assert (nearly.obs["outside"] < 0.05).all()
    noise = AnnData(np.random.default_rng(3).normal(size=(40, 16)).astype(np.float32), uns={"isoclr": {"weights": "abc"}})
    assert (place(noise, kept, "tsne").obs["outside"] > OUTSIDE).mean() > 0.95
    held_out = place(everything[:50].copy(), kept, "tsne")  # of the same clouds
    assert (held_out.obs["outside"] <= OUTSIDE).mean() > 0.9 and 0.2 < held_out.obs["outside"].mean() < 0.8
    centers = np.stack([kept.obsm["X_tsne"][(np.arange(50, 150) % 3) == c].mean(0) for c in range(3)])
    apart = np.linalg.norm(held_out.obsm["X_tsne"][:, None] - centers, axis=2)
    assert (apart.argmin(1) == np.arange(50) % 3).all()  # each in its cloud
    assert np.array_equal(kept.obsm["X_tsne"], before) and "outside" not in kept.obs  # the map stays as it was
    assert held_out.uns["tsne"] == {"params": {"k": 15, "of": "X"}, "placed_in": everything.uns["tsne"]["made_from"], "outside_above": OUTSIDE}
    project(held_out, "tsne", cache=False)  # a place is not taken for a projection of its own
    assert held_out.uns["tsne"]["made_from"] != everything.uns["tsne"]["made_from"]


def test_the_distances_of_a_large_map_are_sampled(monkeypatch):
    adata_map, new = project(clouds(300), "pca", cache=False), clouds(60, seed=0)
    new.X = (new.X + np.random.default_rng(1).normal(size=new.shape)).astype(np.float32)
    whole = place(new, adata_map, "pca").obs["outside"].to_numpy().copy()
    monkeypatch.setattr(room, "MAP_SAMPLE", 100)
    part = place(new, adata_map, "pca").obs["outside"].to_numpy()
    assert 0 < np.abs(whole - part).max() < 0.2


def test_edges_of_place():
    adata_map = project(clouds(30), "pca", cache=False)
    nothing = place(clouds(30)[:0].copy(), adata_map, "pca")
    assert nothing.obsm["X_pca"].shape == (0, 16) and nothing.obs["outside"].tolist() == []
    one = place(clouds(30)[4:5].copy(), adata_map, "pca")
    assert one.obsm["X_pca"] == pytest.approx(adata_map.obsm["X_pca"][4:5], abs=1e-4)
    flat = project(AnnData(np.ones((5, 3), np.float32)), "pca", cache=False)
    same, other = (place(AnnData(np.array([v], np.float32)), flat, "pca") for v in ([2, 2, 2], [1, 2, 3]))
    assert same.obs["outside"].tolist() == [0] and other.obs["outside"].tolist() == [1] and not other.obsm["X_pca"].any()
    zero = place(AnnData(np.zeros((1, 3), np.float32)), flat, "pca")
    assert zero.obs["outside"].tolist() == [1] and np.isfinite(zero.obsm["X_pca"]).all()


def test_another_representation_is_placed_by_its_own_vectors():
    adata_map, new = clouds(40), clouds(40)[:7].copy()
    adata_map.obsm["other"] = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    new.obsm["other"] = adata_map.obsm["other"][20:27]
    project(adata_map, "pca", of="other", cache=False)
    project(adata_map, "pca", key="mine", cache=False)
    assert place(new, adata_map, "pca", of="other").obsm["X_pca_other"] == pytest.approx(adata_map.obsm["X_pca_other"][20:27], abs=1e-4)
    assert place(new, adata_map, key="mine").obsm["X_mine"] == pytest.approx(adata_map.obsm["X_mine"][:7], abs=1e-4)


def test_place_refuses():
    adata_map = project(clouds(30), "pca", cache=False)
    with pytest.raises(InputError, match="no projection 'umap': call project"):
        place(clouds(5), adata_map)
    with pytest.raises(InputError, match="made with the weights abc, the new transcripts were embedded with xyz"):
        place(clouds(5, weights="xyz"), adata_map, "pca")
    with pytest.raises(InputError, match=r"embedded with \(unknown\)"):
        place(AnnData(clouds(5).X), adata_map, "pca")
    with pytest.raises(InputError, match="map have 16 dimensions, the new ones 8"):
        place(clouds(5, d=8), adata_map, "pca")
    with pytest.raises(ConfigError, match="k = 0"):
        place(clouds(5), adata_map, "pca", k=0)
    broken = clouds(5)
    broken.X[2] = np.inf
    with pytest.raises(InputError, match="1 of 5 vectors are not finite"):
        place(broken, adata_map, "pca")
    assert "X_pca" not in broken.obsm
    with pytest.raises(InputError, match="one transcript to place others by"):
        place(clouds(5), adata_map[:1].copy(), "pca")
    adata_map.obsm["X_pca"][:2] = np.nan
    with pytest.raises(InputError, match="lacks coordinates of 2 transcripts"):
        place(clouds(5), adata_map, "pca")
