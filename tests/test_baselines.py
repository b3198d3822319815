"""Baselines stand in the order of the store, look at no label, and come out the same twice; principal components against scikit-learn's."""
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from isoclr.config import ConfigError, InputError
from isoclr.data.build import SpeciesSource, build_store
from isoclr.data.features import codon_usage, engineered_features, kmer_frequencies
from isoclr.data.homology import read_homology
from isoclr.data.simulate import SimulateConfig, simulate
from isoclr.data.store import write_store
from isoclr.models.encoder import EncoderConfig, MotifConfig, SalukiConfig, build_encoder, preset
from isoclr.probe import baselines
from isoclr.probe.baselines import BASELINES, baseline_representations, kmer_pca, kmer_square_roots
from isoclr.probe.embed import embed

LEARNT_NOTHING = ("k-mer", "k-mer PCA", "codon usage", "features")
SMALL = {
    "resnet": EncoderConfig(filters=(8, 8), blocks=(1, 1), dilations=(1, 2)), "saluki": SalukiConfig(filters=8),
    "motif": MotifConfig(), "four tracks": EncoderConfig(n_tracks=4, filters=(8, 8), blocks=(1, 1), dilations=(1, 2)),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baselines")
    simulation = simulate(folder / "genomes", SimulateConfig(n_families=8, seed=3), progress=False)
    sources = [SpeciesSource.from_dict(source) for source in simulation.sources]
    return build_store(folder / "store", sources, read_homology(simulation.homology, simulation.taxa), progress=False)


@pytest.fixture(scope="module")
def found(store):
    return baseline_representations(store, SMALL["resnet"], untrained_seeds=(4, 5), progress=False)


def standardised(table):
    spread = table.std(ddof=0)
    return ((table - table.mean()) / spread.where(spread > 1e-6, np.inf)).to_numpy()


def test_baselines_are_aligned_and_need_no_labels(store, found):
    assert list(found) == list(BASELINES) == ["untrained", *LEARNT_NOTHING]
    assert len(found["untrained"]) == 2 and np.abs(found["untrained"][0] - found["untrained"][1]).max() > 1e-3
    for seed, draw in zip((4, 5), found["untrained"], strict=True):
        assert np.array_equal(draw, embed(store, build_encoder(SMALL["resnet"], seed=seed), progress=False).X)
    roots = np.sqrt(kmer_frequencies(store))
    assert np.abs(found["k-mer"] - (roots - roots.mean(0))).max() < 1e-6 and found["k-mer"].shape == (len(store), 1024)
    assert np.array_equal(found["k-mer PCA"], kmer_pca(kmer_frequencies(store, range(3, 8), sparse=True)))
    assert np.allclose(found["codon usage"], standardised(codon_usage(store).astype(float)), atol=1e-4)
    assert np.allclose(found["features"], standardised(engineered_features(store)), atol=1e-4)
    for name in LEARNT_NOTHING:
        assert found[name].dtype == np.float32 and len(found[name]) == len(store) and np.isfinite(found[name]).all()
        assert np.abs(found[name].mean(0)).max() < 1e-4


def test_rows_follow_the_store(store, found, tmp_path):
    "Another order of the same transcripts gives the same rows in that order."
    order = np.random.default_rng(0).permutation(len(store))
    moved = baseline_representations(store.subset(tmp_path / "moved", order), SMALL["resnet"], untrained_seeds=(4,), progress=False)
    assert np.abs(moved["untrained"][0] - found["untrained"][0][order]).max() < 1e-5
    for name in ("k-mer", "codon usage", "features"):
        assert np.allclose(moved[name], found[name][order], atol=1e-5)
    distances = [((X[:, None] - X[None]) ** 2).sum(2) for X in (moved["k-mer PCA"], found["k-mer PCA"][order])]
    assert np.allclose(*distances, atol=1e-4 * distances[1].max())


def test_baselines_come_out_the_same_twice(store, found):
    again = baseline_representations(store, SMALL["resnet"], untrained_seeds=(4, 5), progress=False)
    assert all(np.array_equal(again[name], found[name]) for name in BASELINES)


def test_some_by_name_in_the_order_asked_for(store, found):
    some = baseline_representations(store, None, names=("features", "k-mer"), progress=False)  # no encoder is needed for these
    assert list(some) == ["features", "k-mer"] and all(np.array_equal(some[name], found[name]) for name in some)
    assert list(baseline_representations(store, None, names="features")) == ["features"]
    assert baseline_representations(store, None, names=()) == {}


@pytest.mark.parametrize("family", SMALL)
def test_untrained_encoders_of_every_family(store, family):
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that four tracks leave the CDS out
        draws = baseline_representations(store, SMALL[family], untrained_seeds=(1, 2), names=("untrained",), progress=False)["untrained"]
    assert [draw.shape for draw in draws] == [(len(store), build_encoder(SMALL[family]).dim)] * 2
    assert all(np.isfinite(draw).all() and draw.std(0).max() > 1e-6 for draw in draws) and np.abs(draws[0] - draws[1]).max() > 1e-4


def test_an_encoder_of_tracks_that_there_are_not(store):
    with pytest.raises(InputError, match="5.*6.*A C G T CDS splice"):
        baseline_representations(store, EncoderConfig(n_tracks=5, filters=(8,), blocks=(1,), dilations=(1,)), names=("untrained",), progress=False)


def test_without_settings_there_is_no_untrained_encoder(store, found):
    with pytest.warns(UserWarning, match="no untrained one beside it"):
        rest = baseline_representations(store, None, progress=False)
    assert list(rest) == list(LEARNT_NOTHING) and all(np.array_equal(rest[name], found[name]) for name in rest)
    with pytest.raises(ConfigError, match="leave 'untrained' out"):
        baseline_representations(store, None, names=("untrained", "k-mer"))


def test_what_is_no_baseline(store):
    with pytest.raises(ConfigError, match="There is no baseline 'k-mers'.*k-mer"):
        baseline_representations(store, None, names=("k-mers",))
    with pytest.raises(ConfigError, match="untrained_seeds is empty"):
        baseline_representations(store, preset("demo"), untrained_seeds=())


def test_a_store_without_cds(store, tmp_path):
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 4, n).astype(np.uint8) for n in (90, 50, 200, 8)]
    table = pd.DataFrame({
        "transcript_id": list("abcd"), "gene_id": [f"human:{name}" for name in "abcd"], "gene_name": list("abcd"), "species": "human", "chrom": "chr1", "strand": "+",
        "exon_starts": [[0]] * 4, "exon_ends": [[len(one)] for one in tokens], "length_nt": [len(one) for one in tokens], "cds_start": -1, "cds_end": -1,
    })
    found = baseline_representations(write_store(tmp_path / "store", table, tokens), SMALL["resnet"], progress=False)
    assert (found["codon usage"] == 0).all() and found["k-mer PCA"].shape == (4, 3)
    assert all(np.isfinite(X).all() for X in (*found["untrained"], *(found[name] for name in LEARNT_NOTHING)))
    assert np.abs(found["features"]).max(0).min() == 0 < np.abs(found["features"]).max()  # what does not vary is 0, the rest is not


def angles_apart(A, B):
    "Sine of the largest angle between the spaces that two sets of columns span."
    Q, R = np.linalg.qr(A.astype(float))[0], np.linalg.qr(B.astype(float))[0]
    return np.linalg.norm(R - Q @ (Q.T @ R), 2)


@pytest.mark.parametrize("as_sparse", [True, False])
def test_components_are_those_of_scikit_learn(store, as_sparse):
    from sklearn.decomposition import PCA, TruncatedSVD

    words = kmer_frequencies(store, range(3, 6), sparse=as_sparse)
    roots = np.sqrt(words.toarray() if as_sparse else words).astype(float)
    for n_components in (1, 6, 20):
        components, model = kmer_pca(words, n_components), PCA(n_components, svd_solver="full").fit(roots)
        exact = model.transform(roots)
        assert components.shape == exact.shape and components.dtype == np.float32
        gap = 1 - (np.linalg.svd(roots - roots.mean(0), compute_uv=False)[n_components] / model.singular_values_[-1]) ** 2
        assert gap > 0.01 and angles_apart(components, exact) < 1e-4  # were two spreads alike, the space would be undetermined
        assert components.std(0) == pytest.approx(exact.std(0), rel=1e-4)
        truncated = TruncatedSVD(n_components, algorithm="arpack", random_state=0).fit_transform(roots - roots.mean(0))
        assert angles_apart(components, truncated) < 1e-4


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(1, 80), st.integers(1, 40), st.integers(0, 10**6))
def test_components_keep_the_distances_that_can_be_kept(n, n_words, n_components, seed):
    "Any shape: as many components as there can be, in descending order, uncorrelated, and with as much spread as the exact ones."
    rng = np.random.default_rng(seed)
    frequencies = rng.dirichlet(np.ones(n_words), n).astype(np.float32)
    components = kmer_pca(csr_array(frequencies), n_components)
    kept = min(n_components, n - 1, n_words)
    roots = np.sqrt(frequencies.astype(float))
    exact = np.linalg.svd(roots - roots.mean(0), compute_uv=False)[:kept]
    assert components.shape == (n, kept) and np.linalg.norm(components, axis=0) == pytest.approx(exact, rel=1e-3, abs=1e-4)
    assert components.T @ components == pytest.approx(np.diag(exact**2), abs=1e-3)


def test_components_come_from_the_rows_they_are_fitted_on(store):
    from sklearn.decomposition import PCA

    words = kmer_frequencies(store, range(3, 6), sparse=True)
    fit = np.arange(len(store)) % 3 > 0
    roots = np.sqrt(words.toarray())
    components, exact = kmer_pca(words, 5, fit_rows=fit), PCA(5, svd_solver="full").fit(roots[fit]).transform(roots)
    assert np.abs(components) == pytest.approx(np.abs(exact), abs=1e-4)
    assert np.array_equal(components, kmer_pca(words, 5, fit_rows=np.flatnonzero(fit)))
    changed = words.toarray()
    changed[~fit] = changed[~fit][::-1]
    assert np.array_equal(kmer_pca(changed, 5, fit_rows=fit)[fit], kmer_pca(words.toarray(), 5, fit_rows=fit)[fit])  # the others have no say
    assert np.abs(components - kmer_pca(words, 5)).max() > 1e-3


def test_components_are_computed_some_rows_at_a_time(store, monkeypatch):
    class Watched:
        "Frequencies that remember how many rows were asked for at once."

        def __init__(self, frequencies):
            self.frequencies, self.shape, self.asked = frequencies, frequencies.shape, []

        def __getitem__(self, rows):
            self.asked.append(len(rows))
            return self.frequencies[rows]

    words = kmer_frequencies(store, range(3, 6), sparse=True)
    whole, watched = kmer_pca(words, 6), Watched(words)
    monkeypatch.setattr(baselines, "_ROWS_AT_ONCE", 7)
    parts = kmer_pca(watched, 6)
    assert len(store) > 14 and max(watched.asked) == 7 and parts == pytest.approx(whole, abs=1e-4)


def test_transcripts_that_are_all_alike_have_components_of_0():
    assert (kmer_pca(np.tile(np.float32([0.5, 0.25, 0.25]), (5, 1)), 2) == 0).all()


@pytest.mark.parametrize("settings_", [{"n_components": 0}, {"fit_rows": [3]}, {"fit_rows": []}])
def test_impossible_components(settings_):
    with pytest.raises(ConfigError, match="at least one component and two transcripts"):
        kmer_pca(np.eye(4, dtype=np.float32), **settings_)


def test_square_roots_of_several_lengths(store):
    roots = kmer_square_roots(store, (2, 3))
    assert roots.shape == (len(store), 80) and np.abs(roots.mean(0)).max() < 1e-6
    difference = np.sqrt(kmer_frequencies(store, (2, 3))[[0, 1]])
    assert roots[0] - roots[1] == pytest.approx(difference[0] - difference[1], abs=1e-6)
