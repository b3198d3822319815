"""Nearest neighbours and retrieval against numpy loops."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.models.neighbors import nearest_neighbors, retrieval_at_k


def slow_similarity(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def slow_neighbors(queries, candidates, k, exclude):
    indices, similarities = [], []
    for i, query in enumerate(queries):
        allowed = [j for j in range(len(candidates)) if exclude is None or exclude[0][i] != exclude[1][j]]
        ranked = sorted(allowed, key=lambda j: -slow_similarity(query, candidates[j]))[:k]
        indices.append(ranked + [-1] * (k - len(ranked)))
        similarities.append([slow_similarity(query, candidates[j]) for j in ranked] + [-np.inf] * (k - len(ranked)))
    return np.array(indices), np.array(similarities)


def slow_retrieval(points, genes, groups, k):
    "isoform@k and homolog@k, by their definitions."
    n, hits = len(points), {"isoform": [], "homolog": []}
    for i in range(n):
        ranked = sorted((j for j in range(n) if j != i), key=lambda j: -slow_similarity(points[i], points[j]))
        if any(genes[j] == genes[i] for j in ranked):
            hits["isoform"].append(any(genes[j] == genes[i] for j in ranked[:k]))
        foreign = [j for j in ranked if genes[j] != genes[i]]
        if any(groups[j] == groups[i] for j in foreign):
            hits["homolog"].append(any(groups[j] == groups[i] for j in foreign[:k]))
    return hits


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 12),
    m=st.integers(1, 12),
    k=st.integers(1, 4),
    chunk=st.integers(1, 5),
    labels=st.integers(0, 4),
    seed=st.integers(0, 2**16),
)
def test_neighbors_against_loops(n, m, k, chunk, labels, seed):
    rng = np.random.default_rng(seed)
    queries, candidates = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    exclude = None if labels == 0 else (rng.integers(labels, size=n), rng.integers(labels, size=m))
    k = min(k, m)
    tensors = None if exclude is None else tuple(map(torch.tensor, exclude))
    indices, similarity = nearest_neighbors(torch.tensor(queries), torch.tensor(candidates), k, exclude=tensors, chunk=chunk)
    expected_indices, expected_similarity = slow_neighbors(queries, candidates, k, exclude)
    np.testing.assert_allclose(similarity.numpy(), expected_similarity, atol=1e-5)
    all_pairs = np.array([[slow_similarity(q, c) for c in candidates] for q in queries])
    if np.diff(np.sort(all_pairs, axis=1), axis=1).min(initial=1) > 1e-5:  # no near ties: the order is certain
        np.testing.assert_array_equal(indices.numpy(), expected_indices)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 25), n_groups=st.integers(1, 6), k=st.integers(1, 3), seed=st.integers(0, 2**16))
def test_retrieval_against_loops(n, n_groups, k, seed):
    rng = np.random.default_rng(seed)
    gene = rng.integers(3 * n_groups, size=n)
    genes, groups = np.array([f"g{i}" for i in gene]), np.array([f"family {i % n_groups}" for i in gene])
    points = rng.normal(size=(n, 4))
    result = retrieval_at_k(torch.tensor(points, dtype=torch.float32), genes, groups, k)
    for name, hits in slow_retrieval(points, genes, groups, k).items():
        assert result[f"{name}_queries"] == len(hits)
        assert result[f"{name}@{k}"] == (pytest.approx(np.mean(hits), abs=1e-6) if hits else None)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 25), equals=st.booleans(), ks=st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True), seed=st.integers(0, 2**16))
def test_several_k_are_what_each_would_be_alone(n, equals, ks, seed):
    rng = np.random.default_rng(seed)
    gene = rng.integers(8, size=n)
    points = torch.tensor(rng.normal(size=(n, 4)))
    if equals:
        points = points[rng.integers(n, size=n)]
    together = retrieval_at_k(points, gene, gene % 3, tuple(ks))
    certain = [k for k in ks if k in (1, n)] if equals else ks  # which of the equally near ones are among the nearest five is left open
    for k in certain:
        alone = retrieval_at_k(points, gene, gene % 3, k)
        assert {name: together[name] for name in alone} == alone


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 12), k=st.integers(1, 6), seed=st.integers(0, 2**16))
def test_the_first_of_equals_comes_first(n, k, seed):
    rng = np.random.default_rng(seed)
    candidates = torch.tensor(np.eye(3)[rng.integers(3, size=n)])  # many are equal
    k = min(k, n)
    first = nearest_neighbors(torch.eye(3), candidates, 1)
    indices, similarity = nearest_neighbors(torch.eye(3), candidates, k, chunk=2)
    assert torch.equal(indices[:, :1], first[0]) and torch.equal(similarity[:, :1], first[1])
    assert all(len(set(row)) == k for row in indices.tolist())
    assert torch.equal(similarity, torch.einsum("qd,qkd->qk", torch.eye(3), candidates.float()[indices]))


def test_isoforms_are_no_homologs():
    "The nearest transcript of another gene counts, however near the isoforms are."
    points = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.9, 0.5], [1.0, 0.2]])
    genes, groups = ["a", "a", "b", "x"], ["ab", "ab", "ab", "x"]
    result = retrieval_at_k(points, genes, groups)
    assert result["isoform@1"] == 1.0 and result["homolog@1"] == 0.0 and result["homolog_queries"] == 3
    assert retrieval_at_k(points, genes, groups, k=2)["homolog@2"] == 1.0


def test_dot_products_and_first_of_equals():
    candidates = torch.tensor([[1.0, 0], [3, 0], [3, 0]])
    indices, similarity = nearest_neighbors(torch.tensor([[2.0, 0]]), candidates, 1, metric="dot")
    assert indices.item() == 1 and similarity.item() == 6
    assert nearest_neighbors(torch.tensor([[2.0, 0]]), candidates, 1)[0].item() == 0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="share D"):
        nearest_neighbors(torch.rand(2, 3), torch.rand(2, 4))
    with pytest.raises(ValueError, match="k = 3"):
        nearest_neighbors(torch.rand(2, 3), torch.rand(2, 3), 3)
    with pytest.raises(ValueError, match="'cosine' or 'dot'"):
        nearest_neighbors(torch.rand(2, 3), torch.rand(2, 3), metric="cosin")
    with pytest.raises(ValueError, match="3 labels do not fit 2"):
        retrieval_at_k(torch.rand(2, 3), ["a"] * 3, ["a"] * 3)
    with pytest.raises(ValueError, match="at least 1"):
        retrieval_at_k(torch.rand(2, 3), ["a"] * 2, ["a"] * 2, (1, 0))
