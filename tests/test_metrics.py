"""Metrics of strings and of search, against what is slow and obvious; those of lists are in test_ranking.py."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossax import activations, metrics
from tests.vocabulary import quick


def close(a, b, rtol=2e-6, atol=1e-7):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


# ---- strings ---------------------------------------------------------------------------------------------------------


def levenshtein(read, truth):
    row = list(range(len(truth) + 1))
    for i, a in enumerate(read, 1):
        above, row = row, [i]
        for j, b in enumerate(truth, 1):
            row.append(min(row[-1] + 1, above[j] + 1, above[j - 1] + (a != b)))
    return row[-1]


STRINGS, N, M = 60, 9, 7
RNG: Any = np.random.default_rng(0)
READ: Any = RNG.integers(0, 3, (STRINGS, N))
TRUE: Any = RNG.integers(0, 3, (STRINGS, M))
PADDED: Any = {
    "prediction_where": np.arange(N) < RNG.integers(0, N + 1, (STRINGS, 1)),
    "label_where": np.arange(M) < RNG.integers(0, M + 1, (STRINGS, 1)),
}
HOLES: Any = {"prediction_where": RNG.random((STRINGS, N)) < 0.6, "label_where": RNG.random((STRINGS, M)) < 0.6}
edits = quick(partial(metrics.edit_distance, reduction="none"))


def expected(prediction_where, label_where):
    rows = zip(READ, prediction_where, TRUE, label_where, strict=True)
    return np.array([levenshtein(a[keep], b[exist]) for a, keep, b, exist in rows])


@pytest.mark.parametrize("exist", [PADDED, HOLES], ids=["padded", "holes"])
def test_edit_distance_is_that_of_the_recursion(exist):
    distances, lengths = expected(**exist), exist["label_where"].sum(axis=1)
    found = edits(READ, TRUE, **exist)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, distances)
    rates = quick(partial(metrics.edit_distance, normalize=True, reduction="none"))(READ, TRUE, **exist)
    close(rates, distances / np.maximum(lengths, 1))
    one_by_one = quick(jax.vmap(lambda a, b, exist: metrics.edit_distance(a, b, **exist)))(READ, TRUE, exist)
    np.testing.assert_array_equal(one_by_one, distances)


def test_error_rates_of_a_corpus():
    distances, lengths = expected(**PADDED), PADDED["label_where"].sum(axis=1)
    assert 0 in lengths
    assert 0 in PADDED["prediction_where"].sum(axis=1)
    total = quick(partial(metrics.edit_distance, reduction="sum"))(READ, TRUE, **PADDED)
    close(float(total) / lengths.sum(), distances.sum() / lengths.sum())
    kept = lengths > 0
    rates = quick(partial(metrics.edit_distance, normalize=True))
    close(rates(READ, TRUE, **PADDED, weights=lengths), distances[kept].sum() / lengths.sum())
    close(rates(READ, TRUE, **PADDED, where=kept), (distances[kept] / lengths[kept]).mean())


def test_edit_distance_of_any_integers_and_no_symbols():
    symbols: Any = np.array([[3, 44, 100]], np.int8)
    more: Any = np.array([[3, 300, 100]], np.int32)  # 300 is 44 in 8 bits
    nothing: Any = np.zeros((2, 0), np.int32)
    three: Any = np.zeros((2, 3), np.int32)
    assert metrics.edit_distance(symbols, more) == 1
    assert metrics.edit_distance(nothing, three) == metrics.edit_distance(three, nothing) == 3
    assert metrics.edit_distance(nothing, nothing, normalize=True) == 0
    assert metrics.edit_distance(nothing[:0], three[:0]) == 0
    with pytest.raises(ValueError, match=r"expected predictions \[..., n\] and labels \[..., m\]"):
        metrics.edit_distance(three[0], three)
    with pytest.raises(TypeError, match="predictions must be integer, got float32"):
        metrics.edit_distance(three.astype(np.float32), three)


def test_what_ctc_reads_is_judged():
    symbols = jnp.array([[0, 2, 2, 0, 2, 1], [1, 1, 0, 0, 0, 0]])
    read, exist = activations.ctc_best_path(jax.nn.one_hot(symbols, 3))
    found = metrics.edit_distance(read, jnp.array([[2, 1], [1, 2]]), prediction_where=exist, reduction="none")
    np.testing.assert_array_equal(found, [1, 1])


# ---- search ----------------------------------------------------------------------------------------------------------


def orders(scores):
    """All orders by falling scores."""
    groups = [np.flatnonzero(scores == score) for score in sorted(set(scores), reverse=True)]
    for parts in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield np.concatenate([np.array(part, int) for part in parts])


def precisions(right):
    return np.cumsum(right) / np.arange(1, len(right) + 1)


BY_HAND = {
    "hit rate at 2": (partial(metrics.hit_rate, topn=2), lambda right: float(right[:2].any())),
    "precision at 3": (partial(metrics.precision, topn=3), lambda right: right[:3].sum() / 3),
    "r_precision": (metrics.r_precision, lambda right: right[: right.sum()].mean()),
    "map": (metrics.average_precision, lambda right: precisions(right)[right].mean()),
    "map at r": (
        metrics.average_precision_at_r,
        lambda right: (precisions(right) * right)[: right.sum()].sum() / right.sum(),
    ),
}


def by_hand(value, queries, labels, gallery, gallery_labels, similarity, self_search):
    """Of each element, NaN for those that can find nobody."""
    values = []
    for i, x in enumerate(queries):
        others = [j for j in range(len(gallery)) if not (self_search and i == j)]
        right = np.array([gallery_labels[j] == labels[i] for j in others], bool)
        if similarity == "euclidean":
            scores = np.array([-np.sum((x - gallery[j]) ** 2) for j in others])
        else:
            scores = np.array([x @ gallery[j] for j in others])
            if similarity == "cosine":
                size = [np.linalg.norm(x) * np.linalg.norm(gallery[j]) for j in others]
                scores = np.round(np.divide(scores, size, out=np.zeros(len(others)), where=np.array(size) > 0), 9)
        values.append(np.mean([value(right[o]) for o in orders(scores)]) if right.any() else np.nan)
    return np.array(values)


# Few places, so that there are ties and two that lie at 0.
PLACES: Any = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [3, 0], [0, 0], [1, 2], [2, 1]], np.float64)
KINDS: Any = np.array([0, 1, 0, 1, 1, 2, 0, 3, 2])
GALLERY: Any = np.array([[0, 1], [2, 0], [0, 0], [1, 1], [2, 2]], np.float64)
GALLERY_KINDS: Any = np.array([1, 2, 0, 1, 0])


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_retrieval_is_what_it_says(similarity: Any):
    run = partial(metrics.retrieval, similarity=similarity, reduction="none")

    def all_of_them(x, kinds, options: Any):
        return {name: run(x, kinds, metric=metric, **options) for name, (metric, _) in BY_HAND.items()}

    there = np.array([True, True, True, True, False])
    other = {"gallery": GALLERY.astype(np.float32), "gallery_labels": GALLERY_KINDS, "gallery_where": there}
    for options, gallery in (({}, (PLACES, KINDS)), (other, (GALLERY[there], GALLERY_KINDS[there]))):
        found = quick(all_of_them)(PLACES.astype(np.float32), KINDS, options)
        for name, (_, value) in BY_HAND.items():
            values = by_hand(value, PLACES, KINDS, *gallery, similarity, not options)
            close(found[name], np.nan_to_num(values))
            assert np.isnan(values).any()


def test_retrieval_counts_who_can_find_someone():
    x, run = PLACES.astype(np.float32), quick(partial(metrics.retrieval, metric=metrics.r_precision))
    each = quick(partial(metrics.retrieval, metric=metrics.r_precision, reduction="none"))(x, KINDS)
    pairs = np.array([np.sum(kind == KINDS) > 1 for kind in KINDS])
    weights = RNG.uniform(1, 2, len(x)).astype(np.float32)
    close(run(x, KINDS), each[pairs].mean())
    close(run(x, KINDS, weights=weights), np.average(each[pairs], weights=weights[pairs]))
    assert run(x, np.arange(len(x))) == 0


def test_retrieval_of_blocks_sets_and_masks():
    x, kinds = RNG.normal(size=(2, 11, 3)).astype(np.float32), RNG.integers(0, 3, (2, 11))
    keep = np.ones(11, bool)
    keep[[2, 7]] = False
    garbage = np.where(keep[:, None], x, np.nan)
    options: Any = {"metric": metrics.average_precision_at_r, "reduction": "none"}
    plain = quick(partial(metrics.retrieval, **options))
    found = plain(garbage, kinds, where=keep)
    close(found[:, keep], plain(x[:, keep], kinds[:, keep]))
    assert not found[:, ~keep].any()
    tiled = quick(partial(metrics.retrieval, **options, tile=4))
    close(tiled(garbage, kinds, where=keep), found)
    close(plain(garbage, kinds, where=None)[0, ~keep], [np.nan, np.nan])  # is seen
    close(quick(jax.vmap(partial(metrics.retrieval, **options, where=keep)))(garbage, kinds), found)
    run = quick(jax.value_and_grad(partial(metrics.retrieval, metric=metrics.average_precision_at_r)))
    value, slope = run(x, kinds)
    assert 0 < value < 1
    assert not slope.any()
    assert plain(x[:, :0], kinds[:, :0]).shape == (2, 0)
    assert plain(x, kinds, gallery=x[:, :0], gallery_labels=kinds[:, :0]).shape == (2, 11)


def test_near_neighbours_of_far_points_are_told_apart():
    """By products of unit vectors in float32 all of these are at a cosine of 1."""
    angles = 1e-5 * np.array([0.0, 1.0, 3.0, 7.0])
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    similarity: Any
    for similarity, points in (("cosine", x), ("euclidean", 1e30 * x)):
        run = quick(partial(metrics.retrieval, metric=partial(metrics.hit_rate, topn=1), similarity=similarity))
        assert run(points.astype(np.float32), np.array([0, 0, 1, 1])) == 0.75


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_scikit_learn_finds_the_same_digits(similarity: Any):
    datasets, neighbors = pytest.importorskip("sklearn.datasets"), pytest.importorskip("sklearn.neighbors")
    x, labels = datasets.load_digits(return_X_y=True)
    x, labels = x[:150].astype(np.float32) + RNG.normal(size=(150, 64)).astype(np.float32), labels[:150]
    order = neighbors.NearestNeighbors(metric=similarity, algorithm="brute").fit(x).kneighbors(n_neighbors=149)[1]
    right = labels[order] == labels[:, None]

    def all_of_them(x, labels):
        return {n: metrics.retrieval(x, labels, metric=f, similarity=similarity) for n, (f, _) in BY_HAND.items()}

    found = quick(all_of_them)(x, labels)
    for name, (_, value) in BY_HAND.items():
        close(found[name], np.mean([value(row) for row in right]))


def test_errors_of_retrieval_name_the_argument():
    x, labels, metric = jnp.zeros((3, 2)), jnp.zeros(3, int), metrics.r_precision
    wrong: Any
    for wrong, error, message in (
        ({"metric": "map"}, TypeError, "metric must be a function of scores and relevances, got 'map'"),
        ({"similarity": "l2"}, ValueError, "similarity must be one of"),
        ({"gallery": x}, ValueError, "a gallery needs both gallery and gallery_labels"),
        ({"gallery_labels": labels}, ValueError, "a gallery needs both gallery and gallery_labels"),
        ({"gallery": jnp.zeros((3, 4)), "gallery_labels": labels}, ValueError, r"gallery\[3, 4\]"),
        ({"gallery": x, "gallery_labels": labels[:2]}, ValueError, r"gallery_labels\[2\]"),
        ({"tile": 2.0}, TypeError, "tile sets structure"),
    ):
        with pytest.raises(error, match=message):
            metrics.retrieval(x, labels, **{"metric": metric, **wrong})
