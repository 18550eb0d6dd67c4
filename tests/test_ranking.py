"""Ranking: peers under the conventions that the docstrings claim, their faults, ties over all orders, tiles."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lossax import losses, metrics, objectives, targets
from tests.vocabulary import quick

RNG: Any = np.random.default_rng(0)
LISTS, N = 3, 7
SCORES: Any = RNG.normal(size=(LISTS, N)).astype(np.float32)
GRADES: Any = np.stack([RNG.permutation([0, 0, 1, 1, 2, 3, 0]) for _ in range(LISTS)])
ORDER: Any = np.stack([RNG.permutation(N) for _ in range(LISTS)])


def jitted(f, **options):
    """One program instead of many small ones."""
    return quick(partial(f, **options))


def close(a, b, rtol=2e-6, atol=1e-7):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


# ---- peers -----------------------------------------------------------------------------------------------------------

LN2 = float(np.log(2.0))
PAIRS = int(sum((y[:, None] > y[None]).sum() for y in GRADES[:1]))
RAX_LOSSES = {
    "pairwise_logistic": (losses.pairwise_logistic, "pairwise_logistic_loss", {}, 1.0, 0.0),
    "pairwise_soft_zero_one": (losses.pairwise_soft_zero_one, "pairwise_soft_zero_one_loss", {}, 1.0, 0.0),
    "pairwise_hinge": (losses.pairwise_hinge, "pairwise_hinge_loss", {}, 1.0, 0.0),
    "pairwise_squared_error": (losses.pairwise_squared_error, "pairwise_mse_loss", {}, 1.0, 0.0),
    "ranking_softmax": (losses.ranking_softmax, "softmax_loss", {}, 1.0, 0.0),
    "poly-1 softmax": (partial(losses.ranking_softmax, epsilon=1.0), "poly1_softmax_loss", {}, 1.0, 0.0),
    "unique_softmax": (losses.unique_softmax, "unique_softmax_loss", {}, 1.0, 0.0),
    "lambdarank": (losses.lambdarank, "dcg", {}, N * LN2 / PAIRS, 0.0),
    "lambdarank at 3": (partial(losses.lambdarank, topn=3), "dcg", {"topn": 3}, N * LN2 / PAIRS, 0.0),
    "ndcg2": (partial(losses.lambdarank, weighting="ndcg2"), "dcg2", {}, N * LN2 / PAIRS, 0.0),
    "ndcg2 at 3": (partial(losses.lambdarank, weighting="ndcg2", topn=3), "dcg2", {"topn": 3}, N * LN2 / PAIRS, 0.0),
    "relevance": (partial(losses.lambdarank, weighting="relevance"), "labeldiff", {}, LN2 / PAIRS, 0.0),
    "approx_ndcg": (partial(losses.approx_ndcg, temperature=0.5), "approx ndcg_metric", {}, 1.0, -1.0),
    "approx_mrr": (partial(losses.approx_mrr, temperature=0.5), "approx mrr_metric", {}, 1.0, -1.0),
    "list_mle": (losses.list_mle, "listmle_loss", {}, 1.0, 0.0),
}


@pytest.fixture
def rax():
    """It mixes dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield pytest.importorskip("rax")


def smooth(rax, metric, step):
    """What rax' approx_t12n and bound_t12n make of a metric, which need an older JAX."""
    return lambda *arrays: -metric(*arrays, rank_fn=partial(rax.utils.approx_ranks, step_fn=step))


@pytest.mark.parametrize("name", RAX_LOSSES)
def test_rax_losses(name, rax):
    """Of each list alone: rax' mean over pairs is one over those of the whole batch."""
    ours, peer, options, factor, shift = RAX_LOSSES[name]
    relevances = jnp.asarray(ORDER if name == "list_mle" else GRADES)
    if peer.startswith("approx"):
        theirs = smooth(rax, getattr(rax, peer.split()[1]), lambda x: jax.nn.sigmoid(x / 0.5))
    elif peer in ("dcg", "dcg2"):
        weight = partial(getattr(rax, f"{peer}_lambdaweight"), normalize=True, **options)
        theirs = partial(rax.pairwise_logistic_loss, lambdaweight_fn=weight)
    elif peer == "labeldiff":
        theirs = partial(rax.pairwise_logistic_loss, lambdaweight_fn=rax.labeldiff_lambdaweight)
    else:
        theirs = getattr(rax, peer)
    theirs = quick(jax.vmap(jax.value_and_grad(theirs)))(jnp.asarray(SCORES), relevances.astype(jnp.float32))
    value, slope = quick(jax.vmap(jax.value_and_grad(ours)))(jnp.asarray(SCORES), relevances)
    close(factor * value + shift, theirs[0])
    close(factor * slope, theirs[1], 1e-5, 1e-6)


def test_rax_metrics(rax):
    arrays = jnp.asarray(SCORES), jnp.asarray(GRADES).astype(jnp.float32)
    for topn in (None, 3):
        options = {} if topn is None else {"topn": topn}
        for name, peer in (("ndcg", "ndcg"), ("dcg", "dcg"), ("reciprocal_rank", "mrr"), ("average_precision", "ap")):
            theirs = jitted(getattr(rax, f"{peer}_metric"), **options)(*arrays)
            close(jitted(getattr(metrics, name), **options)(*arrays), theirs)
        close(jitted(metrics.precision, **options)(*arrays), jitted(rax.precision_metric, **options)(*arrays))
    close(jitted(metrics.recall, topn=3)(*arrays), jitted(rax.recall_metric, topn=3)(*arrays))
    close(jitted(metrics.ordered_pair_accuracy)(*arrays), jitted(rax.opa_metric)(*arrays))


def test_rax_transformations(rax):
    scores, grades = jnp.asarray(SCORES), jnp.asarray(GRADES).astype(jnp.float32)

    def gained(places, relevances, weights):
        return jnp.sum(weights * (2.0**relevances - 1.0) / jnp.log2(1.0 + places))

    run = partial(losses.approximate_metric, metric=gained, temperature=1.0)
    for step, peer in (("sigmoid", jax.nn.sigmoid), ("hinge", lambda x: jax.nn.relu(x + 1.0))):
        close(jitted(run, step=step)(scores, grades), jitted(smooth(rax, rax.dcg_metric, peer))(scores, grades))
    bound = jitted(run, step="hinge", reduction="none")(scores, grades)
    assert (bound >= -metrics.dcg(scores, grades, reduction="none")).all()
    key = jax.random.key(3)
    moved = scores + 0.5 * jax.random.gumbel(key, (5, *scores.shape))  # gumbel_t12n(samples=5, beta=0.5)
    theirs = rax.softmax_loss(moved, jnp.broadcast_to(grades, moved.shape))
    close(objectives.gumbel(losses.ranking_softmax, samples=5, scale=0.5)(key, scores, grades), theirs)


@pytest.mark.parametrize("topn", [None, 3])
def test_scikit_learn_metrics(topn):
    """Its DCG takes the mean over tied orders too."""
    peer = pytest.importorskip("sklearn.metrics")
    tied = np.round(SCORES)
    for name in ("dcg", "ndcg"):
        theirs = getattr(peer, f"{name}_score")(GRADES, tied, k=topn)
        close(jitted(getattr(metrics, name), gain="linear", topn=topn)(tied, GRADES), theirs)
    found = [peer.average_precision_score(y > 0, s) for y, s in zip(GRADES, SCORES, strict=True)]
    close(jitted(metrics.average_precision, reduction="none")(SCORES, GRADES), found)
    areas = [peer.roc_auc_score(y > 0, s) for y, s in zip(GRADES, tied, strict=True)]
    close(jitted(metrics.ordered_pair_accuracy, reduction="none")(tied, (GRADES > 0).astype(int)), areas)


def test_optax_softmax():
    optax = pytest.importorskip("optax")
    theirs = optax.losses.ranking_softmax_loss(jnp.asarray(SCORES), jnp.asarray(GRADES, jnp.float32))
    close(jitted(losses.ranking_softmax)(SCORES, GRADES), theirs)


# ---- faults of peers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_the_gradient_of_list_mle_is_right_at_equal_scores(ties):
    """That of rax' listmle_loss is up to 47% off: its running maximum splits the cotangent."""
    with jax.enable_x64(True):
        scores, relevances = jnp.array([0.5, 0.5, -1.0, 0.5]), jnp.array([0, 2, 1, 3])
        f = quick(jax.value_and_grad(partial(losses.list_mle, relevances=relevances, ties=ties)))
        sides = [[f(scores + sign * e)[0] for sign in (1, -1)] for e in 1e-6 * jnp.eye(4)]
        close(f(scores)[1], [(a - b) / 2e-6 for a, b in sides], 1e-7, 1e-8)


def test_the_gradient_of_list_mle_in_rax(rax):
    with jax.enable_x64(True):
        scores, relevances = jnp.array([0.5, 0.5, -1.0, 0.5]), jnp.array([0.0, 2.0, 1.0, 3.0])
        ours, theirs = (quick(jax.grad(f))(scores, relevances) for f in (losses.list_mle, rax.listmle_loss))
        assert np.abs(theirs - ours).max() > 0.1, "repaired: say so no longer"


def test_an_item_that_does_not_exist_costs_nothing():
    """Where rax' softmax_loss and Optax' ranking_softmax_loss are NaN."""
    scores, relevances = jnp.array([1.0, -jnp.inf, 0.0]), jnp.array([1, 0, 0])
    value, slope = quick(jax.value_and_grad(partial(losses.ranking_softmax, epsilon=0.5)))(scores, relevances)
    close(value, jitted(losses.ranking_softmax, epsilon=0.5)(scores[::2], relevances[::2]))
    assert np.isfinite(slope).all()


def test_a_confident_list_keeps_its_digits():
    scores, relevances = jnp.array([60.0, 20.0, 0.0]), jnp.array([2, 1, 0])
    close(jitted(losses.ranking_softmax)(scores, jnp.array([1, 0, 0])), np.exp(-40.0) + np.exp(-60.0), atol=0)
    close(jitted(losses.list_mle)(scores, relevances), np.exp(-20.0) + np.exp(-40.0), atol=0)
    close(
        jitted(losses.pairwise_logistic)(scores, relevances),
        (np.exp(-20.0) + np.exp(-40.0) + np.exp(-60.0)) / 3,
        atol=0,
    )
    lost = np.exp(-20.0) * 2 * (1 / np.log2(3) - 0.5) / (3 + 1 / np.log2(3))  # of each by swapping the lower two
    assert 0 < jitted(losses.approx_ndcg, temperature=1.0)(scores, relevances) < lost


def test_long_lists_do_not_outweigh_short_ones():
    """Rax takes the mean over the pairs of the batch."""
    scores = jnp.array([[2.0, 0, 0, 0], [0, 1.0, 9, 9]])
    relevances = jnp.array([[1, 0, 0, 0], [1, 0, 0, 0]])
    where = np.array([[True] * 4, [True, True, False, False]])
    value = jitted(losses.pairwise_logistic, where=where)(scores, relevances)
    close(value, (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(1.0))) / 2)


@pytest.mark.parametrize(
    ("loss", "value"),
    [(losses.ranking_softmax, -1), (losses.approx_ndcg, -1), (losses.unique_softmax, -1), (losses.list_mle, np.nan)],
)
def test_relevances_outside_the_domain(loss, value):
    relevances = jnp.array([[1.0, value, 0.0], [1.0, 0.0, 2.0]])
    with pytest.raises(ValueError, match="relevances must be"):
        loss(jnp.zeros((2, 3)), relevances)
    units = quick(partial(loss, reduction="none"))(jnp.zeros((2, 3)), relevances)
    assert np.isnan(units[0])
    assert np.isfinite(units[1])


# ---- ties ------------------------------------------------------------------------------------------------------------


def over_orders(metric, scores, relevances):
    """The mean of a metric of the sorted relevances over all orders of tied items."""
    orders = [p for p in itertools.permutations(range(len(scores))) if all(np.diff(scores[list(p)]) <= 0)]
    return np.mean([metric(relevances[list(p)]) for p in orders])


def dcg(y, k):
    return sum((2.0**v - 1) / np.log2(i + 2) for i, v in enumerate(y[:k]))


METRICS = {
    "dcg": dcg,
    "ndcg": lambda y, k: dcg(y, k) / max(dcg(sorted(y, reverse=True), k), 1e-9),
    "precision": lambda y, k: np.sum(y[:k] > 0) / k,
    "recall": lambda y, k: np.sum(y[:k] > 0) / max(np.sum(y > 0), 1),
    "hit_rate": lambda y, k: float(any(y[:k] > 0)),
    "reciprocal_rank": lambda y, k: next((1 / (i + 1) for i in range(k) if y[i] > 0), 0.0),
    "average_precision": lambda y, k: (
        sum(np.mean(y[: i + 1] > 0) for i in range(k) if y[i] > 0) / max(np.sum(y > 0), 1)
    ),
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_means_over_the_orders_of_ties(name):
    rng = np.random.default_rng(5)
    scores = np.stack([rng.integers(0, bound, 6) for bound in (1, 2, 3, 3, 9)]).astype(np.float32)
    relevances = rng.integers(0, 3, scores.shape) * (rng.random(scores.shape) < 0.6)
    relevances[-1] = 0
    for topn in (2, 4):
        ours = jitted(getattr(metrics, name), topn=topn, reduction="none")(scores, relevances)
        metric = partial(METRICS[name], k=topn)
        close(ours, [over_orders(metric, s, y) for s, y in zip(scores, relevances, strict=True)])


def test_metrics_do_not_see_what_is_masked_and_have_no_gradient():
    where = np.array([True, True, False, True, True, False, True])
    garbage = np.where(where, SCORES, np.nan)
    for name, metric in vars(metrics).items():
        if getattr(metric, "__module__", "") != metrics.ndcg.__module__:
            continue
        options = {"topn": 3} if name in METRICS else {}
        run = quick(jax.value_and_grad(partial(metric, **options)))
        ours, slope = run(garbage, GRADES, where=where)
        close(ours, run(SCORES[:, where], GRADES[:, where], where=None)[0])
        assert not np.any(slope)
        assert run(garbage, GRADES, where=np.zeros(N, bool))[0] == 0
        assert run(SCORES[:, :0], GRADES[:, :0], where=None)[0] == 0


@pytest.mark.parametrize("weighting", ["ndcg", "ndcg2++", "precision"])
def test_a_network_that_begins_with_equal_scores_learns(weighting):
    """The more relevant go up, alike whatever their index, though nothing tied has a place of its own."""
    loss = partial(losses.lambdarank, weighting=weighting, topn=2)
    slope = quick(jax.grad(loss))(jnp.zeros(40), jnp.arange(40) // 10 // 3)
    assert (slope[30:] < 0).all()
    close(slope[30:], np.full(10, slope[30]))
    close(slope[:30], np.full(30, -slope[30] / 3), 1e-5)


def test_precision_weights_are_what_a_swap_changes():
    scores, relevances = jnp.array([3.0, 2.0, 1.0, 0.0]), jnp.array([0, 1, 0, 1])
    value = jitted(losses.lambdarank, weighting="precision", topn=2)(scores, relevances)
    crossing = [(3, 0)]  # (relevant, irrelevant) on different sides of the cut, beside (1, 2)
    expected = sum(0.5 * np.log2(1 + np.exp(scores[j] - scores[i])) for i, j in [*crossing, (1, 2)])
    close(value, expected)
    wrong: Any
    for wrong, topn in (("precision", None), ("ndcg1", 2), ("relevance", 2)):
        with pytest.raises(ValueError, match=f"topn is {topn}, which means nothing for weighting='{wrong}'"):
            losses.lambdarank(scores, relevances, weighting=wrong, topn=topn)


def test_lambdarank_bounds_ndcg():
    scores = (2.0 * RNG.normal(size=(200, 6))).astype(np.float32)
    relevances = RNG.integers(0, 4, scores.shape)
    missed = 1 - jitted(metrics.ndcg, reduction="none")(scores, relevances)
    kinds = ("ndcg1", "ndcg2")
    loose, tight = (jitted(losses.lambdarank, weighting=k, reduction="none")(scores, relevances) for k in kinds)
    assert (missed <= tight + 1e-6).all()
    assert (tight <= loose + 1e-6).all()
    missed = 1 - jitted(metrics.ndcg, topn=3, reduction="none")(scores, relevances)
    assert (missed <= jitted(losses.lambdarank, weighting="ndcg2", topn=3, reduction="none")(scores, relevances)).all()


# ---- orders ----------------------------------------------------------------------------------------------------------


def test_list_mle_is_the_probability_of_an_order():
    """The probabilities of all orders sum to one; of two items it is the law of Bradley and Terry."""
    scores = jnp.asarray(SCORES[0, :4])
    orders = jnp.asarray(list(itertools.permutations(range(4))))
    each = quick(jax.vmap(lambda y: losses.list_mle(scores, y)))(orders)
    close(np.sum(np.exp(-each)), 1.0)
    signs = jnp.ones(())
    close(jitted(losses.list_mle)(scores[:2], jnp.array([1, 0])), jitted(losses.logistic)(scores[0] - scores[1], signs))


def test_efron_is_near_the_mean_over_orders_of_ties():
    scores = np.array([0.4, -0.2, 0.1, 0.9, -0.5], np.float32)
    relevances = np.array([2, 1, 1, 1, 0])
    orders = [np.array([3, *p, 0]) for p in itertools.permutations((1.0, 1.25, 1.5))]
    run = jitted(losses.list_mle)
    mean = np.mean([run(scores, order) for order in orders])
    efron, breslow = (jitted(losses.list_mle, ties=ties)(scores, relevances) for ties in ("efron", "breslow"))
    assert 10 * abs(efron - mean) < abs(breslow - mean)


def test_positions_of_list_mle():
    """p-ListMLE, and the likelihood of the first k."""
    scores, order = SCORES[0], np.argsort(-ORDER[0])
    left = [np.logaddexp.reduce(np.float64(scores[order[k:]])) - scores[order[k]] for k in range(N)]
    place = np.arange(1, N + 1)

    def run(**options):
        return jitted(losses.list_mle, **options)(scores, ORDER[0])

    close(run(discount=lambda k: 2.0 ** (N - k) - 1.0), np.sum((2.0 ** (N - place) - 1.0) * left))
    close(run(discount=lambda k: k <= 3), np.sum(left[:3]))
    ranks: Any = np.where(N - ORDER[0] <= 3, N - ORDER[0], 0)
    close(jitted(losses.plackett_luce)(scores, ranks), np.sum(left[:3]))
    with pytest.raises(TypeError, match="discount must be a function of places"):
        losses.list_mle(scores, ORDER[0], discount=0.5)  # pyright: ignore


def test_unlike_lengths_of_partial_orders():
    ranks = jnp.array([[1, 2, 0, 0], [0, 1, 0, 0]])
    each = jitted(losses.plackett_luce, reduction="none")(jnp.zeros((2, 4)), ranks)
    close(each, [np.log(4) + np.log(3), np.log(4)])


REPEATABLE = {
    "list_mle": partial(losses.list_mle, ties="breslow"),
    "plackett_luce": partial(losses.plackett_luce, ties="breslow"),
    "ranking_softmax": partial(losses.ranking_softmax, epsilon=0.5),
    "unique_softmax": losses.unique_softmax,
    "warp": losses.warp,
}


@pytest.mark.parametrize("name", REPEATABLE)
def test_integer_weights_are_repetition(name):
    weights, run = np.array([2, 0, 1, 3, 1, 1, 2]), quick(REPEATABLE[name])
    repeated = run(np.repeat(SCORES, weights, -1), np.repeat(GRADES, weights, -1))
    close(run(SCORES, GRADES, weights=weights), repeated)


def test_inverse_propensities():
    """What is seen at random, weighed by one over the probability of that, is on average what is."""
    relevant: Any = np.array([1, 1, 0, 1, 0, 0, 1])
    propensities = np.linspace(1.0, 0.4, N)
    scores = SCORES[:1]
    seen = RNG.random((4000, N)) < propensities
    clicks = (seen & (relevant == 1)).astype(np.float32)
    softmax = jitted(losses.ranking_softmax)(np.broadcast_to(scores, clicks.shape), clicks / propensities)
    close(softmax, jitted(losses.ranking_softmax)(scores, relevant[None]), 0.03)
    weights = jnp.where(clicks > 0, 1.0 / propensities, 1.0)
    run = jitted(losses.lambdarank, weighting="relevance")
    pairs = run(np.broadcast_to(scores, clicks.shape), clicks, weights=weights)
    ahead = np.log2(1 + np.exp(scores[0][None, :] - scores[0][:, None]))
    missed = 1 - (relevant * propensities)[None, :]  # how often the second was not clicked
    expected = np.sum(relevant[:, None] * missed * ahead * (1 - np.eye(N)))
    close(pairs, expected, 0.03)


# ---- sorting and tiles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("grades", [2, 5, 300])
def test_hinges_of_all_pairs_from_sorts(squared, grades):
    rng = np.random.default_rng(2)
    scores = np.round(rng.normal(size=(2, 300)), 1).astype(np.float32)  # ties, and pairs at the margin
    relevances: Any = rng.integers(0, grades, scores.shape)
    weights = rng.integers(0, 3, scores.shape).astype(np.float32)

    def plain(scores):
        short = 0.5 + scores[:, None, :] - scores[:, :, None]
        short = jnp.where(short <= 1e-9, 0.0, short)
        pairs = (relevances[:, :, None] > relevances[:, None, :]) * np.float64(
            weights[:, :, None] * weights[:, None, :]
        )
        return jnp.mean(jnp.sum(pairs * short ** (2 if squared else 1), (1, 2)) / jnp.sum(pairs, (1, 2)))

    with jax.enable_x64(True):
        exact = np.round(np.float64(scores), 1)
        run = partial(losses.pairwise_hinge, relevances=relevances, margin=0.5, squared=squared, weights=weights)
        scattered = exact + 1e-3 * rng.normal(size=scores.shape)
        both = quick(lambda places: [jax.value_and_grad(f)(places) for f in (run, plain)])
        for places in (exact, scattered):
            ours, theirs = both(places)
            close(ours[0], theirs[0], 1e-12)
            if places is scattered or squared:
                close(ours[1], theirs[1], 1e-9, 1e-12)


def test_hinge_is_the_area_under_the_curve_of_two_grades():
    labels: Any = (GRADES > 0).astype(int)
    for margin in (0.5, 2.0):
        theirs = jitted(losses.auc_squared_hinge, margin=margin)(SCORES, labels)
        close(jitted(losses.pairwise_hinge, margin=margin, squared=True)(SCORES, labels), theirs)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "loss",
    [
        losses.pairwise_logistic,
        partial(losses.lambdarank, weighting="ndcg2++"),
        losses.approx_ndcg,
        partial(losses.neural_ndcg, sinkhorn_steps=2),
        losses.warp,
    ],
    ids=["pairwise_logistic", "lambdarank", "approx_ndcg", "neural_ndcg", "warp"],
)
def test_tiled_is_plain(loss):
    """To the last digits, value and gradient, with blocks that do not divide the list."""
    with jax.enable_x64(True):
        scores, relevances = jnp.asarray(RNG.normal(size=(2, 50))), jnp.asarray(RNG.integers(0, 4, (2, 50)))
        for dtype, rtol in (("float64", 1e-11), ("float32", 2e-5)):
            run = [quick(jax.value_and_grad(partial(loss, tile=tile))) for tile in (None, 7)]
            plain, tiled = (f(scores.astype(dtype), relevances) for f in run)
            close(tiled[0], plain[0], rtol / 10)
            close(tiled[1], plain[1], rtol, rtol * np.abs(plain[1]).max())


@pytest.mark.parametrize("axis", [0, 1], ids=["lists", "items"])
def test_explicit_meshes(axis):
    scores, relevances = RNG.normal(size=(8, 16)).astype(np.float32), RNG.integers(0, 4, (8, 16))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    spread = NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))

    @quick
    @jax.value_and_grad
    def step(scores, relevances):
        kinds = (losses.pairwise_logistic, losses.pairwise_hinge, losses.list_mle)
        return sum(loss(scores, relevances, where=scores < 9) for loss in kinds) + metrics.ndcg(scores, relevances)

    expected = step(scores, relevances)
    with jax.set_mesh(mesh):
        actual = step(*(jax.device_put(x, spread) for x in (scores, relevances)))
    close(actual[0], expected[0])
    close(actual[1], expected[1])


def test_memory_is_that_of_a_block():
    n = 2048
    arrays = jnp.zeros(n), jnp.zeros(n, jnp.int32)
    for loss in (losses.pairwise_logistic, losses.lambdarank, losses.approx_ndcg):
        step = jax.jit(jax.value_and_grad(partial(loss, tile=32))).lower(*arrays).compile()
        memory: Any = step.memory_analysis()
        assert memory.temp_size_in_bytes < 4 * n * n / 8


# ---- soft sorts ------------------------------------------------------------------------------------------------------


def test_neural_ndcg_of_sharp_sorts_is_ndcg():
    scores = np.round(SCORES, 1) + np.arange(N, dtype=np.float32)
    for topn in (None, 2):
        missed = 1 - jitted(metrics.ndcg, topn=topn, reduction="none")(scores, GRADES)
        soft = jitted(losses.neural_ndcg, temperature=1e-3, sinkhorn_steps=1, topn=topn, reduction="none")
        close(soft(scores, GRADES), missed, atol=1e-6)
        if topn is None:
            cut = jitted(losses.approx_ndcg, temperature=1e-3, reduction="none")
            close(cut(scores, GRADES), missed, atol=1e-6)


def test_neural_ndcg_is_symmetric_where_scores_are_equal():
    slope = quick(jax.grad(partial(losses.neural_ndcg, sinkhorn_steps=2)))(jnp.zeros(5), jnp.array([1, 0, 0, 1, 0]))
    close(slope[0], slope[3])
    close(slope[jnp.array([1, 2])], np.full(2, slope[4]), 1e-5)
    assert slope[0] < 0


def test_a_doubly_stochastic_sort_counts_no_item_twice():
    """With gains of one everything is the ideal, whatever the scores: only if columns sum to one too."""
    scores = jnp.asarray(SCORES)
    run = jitted(losses.neural_ndcg, reduction="none")
    close(run(scores, np.ones_like(GRADES)), np.zeros(LISTS), atol=1e-6)
    for temperature in (0.3, 3.0):
        assert (run(scores, np.eye(1, N, dtype=int).repeat(LISTS, 0), temperature=temperature) >= 0).all()


def test_gumbel_noise_gives_a_gradient_where_the_metric_is_flat():
    scores, relevances = jnp.array([0.0, 3.0]), jnp.array([1, 0])
    sharp = partial(losses.approx_ndcg, temperature=0.05)
    assert np.abs(quick(jax.grad(sharp))(scores, relevances)).max() < 1e-6
    noisy = objectives.gumbel(sharp, samples=400)
    slope = quick(jax.grad(noisy, argnums=1))(jax.random.key(0), scores, relevances)
    assert slope[0] < -1e-3
    assert jitted(noisy, reduction="none")(jax.random.key(0), scores, relevances).shape == (400,)
    where = np.array([True, False])
    assert jitted(noisy, where=where)(jax.random.key(0), jnp.array([0.0, np.nan]), relevances) == 0
    with pytest.raises(ValueError, match="expected equal shapes"):
        noisy(jax.random.key(0), scores, relevances[:1])


# ---- lists of different lengths --------------------------------------------------------------------------------------

SEGMENTS: Any = np.array([4, 0, 4, 9, -1, 0, 4])


def test_padded_lists_are_the_lists():
    scores, relevances = jnp.asarray(SCORES[0]), jnp.asarray(GRADES[0])

    def batch(segments, scores):
        where, (padded, grades) = targets.padded_lists(segments, (scores, relevances), lists=4, size=3)
        return losses.pairwise_logistic(padded, grades, where=where), where

    (value, where), slope = quick(jax.value_and_grad(batch, argnums=1, has_aux=True))(jnp.asarray(SEGMENTS), scores)
    each = [
        jitted(losses.pairwise_logistic)(scores[own], relevances[own]) for own in (k == SEGMENTS for k in (0, 4, 9))
    ]
    close(value, np.mean(each))
    np.testing.assert_array_equal(where.sum(1), [2, 3, 1, 0])
    assert slope[4] == 0
    assert np.isfinite(slope).all()


@pytest.mark.parametrize(("lists", "size", "lost"), [(2, 3, [0, 1]), (3, 2, [1])])
def test_lists_that_do_not_fit_are_loud(lists, size, lost):
    values = jnp.ones(7)
    with pytest.raises(ValueError, match=f"segments need lists=3 and size=3, got lists={lists} and size={size}"):
        targets.padded_lists(SEGMENTS, values, lists=lists, size=size)
    pad = quick(partial(targets.padded_lists, lists=lists, size=size))
    _, rows = pad(jnp.asarray(SEGMENTS), values)
    np.testing.assert_array_equal(np.isnan(rows).any(1), np.isin(np.arange(lists), lost))


def test_padded_lists_of_nothing_and_of_wrong_shapes():
    where, rows = targets.padded_lists(jnp.zeros(0, jnp.int32), {"a": jnp.zeros((0, 2))}, lists=2, size=3)
    assert not where.any()
    assert rows["a"].shape == (2, 3, 2)
    with pytest.raises(ValueError, match=r"as long as segments\[7\], got shape \[6\]"):
        targets.padded_lists(SEGMENTS, np.zeros(6), lists=3, size=3)
    with pytest.raises(TypeError, match="segments must be integer"):
        targets.padded_lists(jnp.zeros(3), jnp.zeros(3), lists=3, size=3)
