"""Chains of tags: every path by enumeration, padding, forbidden tags, digits of a sequence that is nearly sure."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lossax import activations, losses
from tests.test_losses import quick

RNG: Any = np.random.default_rng(0)
UNITS, STEPS, TAGS = 5, 4, 3
LOGITS: Any = RNG.normal(size=(UNITS, STEPS, TAGS)).astype(np.float32)
LABELS: Any = RNG.integers(0, TAGS, (UNITS, STEPS))
SCORES: Any = {
    "transitions": RNG.normal(size=(TAGS, TAGS)).astype(np.float32),
    "starts": RNG.normal(size=TAGS).astype(np.float32),
    "ends": RNG.normal(size=TAGS).astype(np.float32),
}
KEEP = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]], bool)


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(partial(f, **options))(*arrays)


def score(logits, path, transitions, starts, ends):
    if not len(path):
        return 0.0
    inside = sum(logits[t, u] for t, u in enumerate(path)) + sum(transitions[u, v] for u, v in itertools.pairwise(path))
    return starts[path[0]] + inside + ends[path[-1]]


def paths(logits):
    return list(itertools.product(range(logits.shape[1]), repeat=len(logits)))


def enumerated(logits, labels, **scores):
    """Loss and marginals of one sequence, from the scores of all paths."""
    every = paths(logits)
    totals = np.array([score(np.float64(logits), path, **scores) for path in every])
    shares = np.exp(totals - np.logaddexp.reduce(totals))
    marginals = np.zeros(logits.shape)
    for path, share in zip(every, shares, strict=True):
        marginals[np.arange(len(path)), list(path)] += share
    return np.logaddexp.reduce(totals) - score(np.float64(logits), labels, **scores), marginals


@quick
def masked(logits, labels, keep, scores):
    run = partial(losses.linear_chain_crf, labels=labels, step_where=keep, reduction="none", **scores)
    return run(logits), jax.grad(lambda z: jnp.sum(run(z)))(logits)


def test_every_path_with_steps_left_out():
    """Whatever stands at steps that do not exist, at the ends or between; marginals are a gradient."""
    spoiled = np.where(KEEP[..., None], LOGITS, np.nan)
    values, gradients = masked(spoiled, np.where(KEEP, LABELS, -100), KEEP, SCORES)
    eager = losses.linear_chain_crf(spoiled, np.where(KEEP, LABELS, -100), step_where=KEEP, reduction="none", **SCORES)
    np.testing.assert_allclose(values, eager, rtol=1e-6)
    for i, keep in enumerate(KEEP):
        value, marginals = enumerated(LOGITS[i][keep], LABELS[i][keep], **SCORES)
        np.testing.assert_allclose(values[i], value, rtol=1e-6)
        one_hot = np.eye(TAGS)[LABELS[i]][keep]
        np.testing.assert_allclose(gradients[i][keep] + one_hot, marginals, atol=1e-6)
        assert not gradients[i][~keep].any()


def test_without_transitions_it_is_cross_entropy():
    ours = once(losses.linear_chain_crf, LOGITS, LABELS, transitions=np.zeros((TAGS, TAGS)), reduction="none")
    each = once(losses.softmax_cross_entropy_with_integer_labels, LOGITS, LABELS, reduction="none")
    np.testing.assert_allclose(ours, each.sum(-1), rtol=1e-6)


def textbook(logits, labels, transitions):
    """Log partition less the score of the labels, by the forward recursion."""
    alpha = logits[0]
    for row in logits[1:]:
        alpha = jax.nn.logsumexp(alpha[:, None] + transitions, axis=0) + row
    own = jnp.take_along_axis(logits, labels[:, None], axis=1).sum() + transitions[labels[:-1], labels[1:]].sum()
    return jax.nn.logsumexp(alpha) - own


def test_a_sequence_that_is_nearly_sure_keeps_its_digits():
    """A difference of log partition and score has none of them left, as in pytorch-crf."""
    labels = jnp.asarray(RNG.integers(0, TAGS, 50))
    logits = (30 * np.eye(TAGS)[labels] + RNG.normal(size=(50, TAGS))).astype(np.float32)
    f = quick(jax.value_and_grad(partial(losses.linear_chain_crf, labels=labels, transitions=SCORES["transitions"])))
    value, gradient = f(logits)
    with jax.enable_x64(True):
        transitions = jnp.asarray(SCORES["transitions"], jnp.float64)
        run = partial(losses.linear_chain_crf, labels=labels, transitions=transitions)
        exact, slope = map(np.asarray, quick(jax.value_and_grad(run))(jnp.asarray(logits, jnp.float64)))
    assert 0 < exact < 1e-8
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-5 * np.abs(slope).max())
    assert abs(textbook(logits, labels, jnp.asarray(SCORES["transitions"])) - float(exact)) > 100 * exact


def test_forbidden_tags_and_transitions():
    """Tags without a way on, and steps without a tag; second derivatives, too."""
    inf = np.inf
    transitions = np.array([[0.0, -inf, 0.3], [1.0, 0.0, -inf], [-inf, -inf, -inf]])
    labels = np.array([1, 1, 0, 2])
    with jax.enable_x64(True):
        logits = jnp.asarray(LOGITS[0], jnp.float64).at[1, 0].set(-inf)
        gradient = jax.grad(lambda z, a: losses.linear_chain_crf(z, labels, transitions=a), argnums=(0, 1))
        f = quick(gradient)
        ways = [np.where(np.isfinite(x), np.cos(np.arange(x.size)).reshape(x.shape), 0) for x in (logits, transitions)]
        second = quick(lambda z, a: jax.jvp(gradient, (z, a), tuple(ways))[1])(logits, transitions)
        near = [f(*(x + sign * 1e-6 * d for x, d in zip((logits, transitions), ways, strict=True))) for sign in (1, -1)]
        for high, low, slope in zip(*near, second, strict=True):
            np.testing.assert_allclose((high - low) / 2e-6, slope, atol=1e-8)
        value = once(losses.linear_chain_crf, logits, labels, transitions=transitions)
    scores = {"transitions": transitions, "starts": np.zeros(3), "ends": np.zeros(3)}
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(value, enumerated(np.asarray(logits), labels, **scores)[0], rtol=1e-12)


def test_an_impossible_sequence_costs_infinity_and_has_no_gradient():
    transitions = SCORES["transitions"].copy()
    transitions[0, 1] = -np.inf
    labels = np.array([[0, 1, 2, 1], [0, 0, 2, 1]])
    run = partial(losses.linear_chain_crf, labels=labels, transitions=transitions)
    values = run(LOGITS[:2], reduction="none")
    gradient = quick(jax.grad(partial(run, reduction="sum")))(LOGITS[:2])
    assert np.isposinf(values[0])
    assert np.isfinite(values[1])
    assert not gradient[0].any()
    assert np.isfinite(gradient).all()
    assert gradient[1].any()


def test_numbers_without_a_model_stay_loud():
    logits = LOGITS.copy()
    logits[0, 1, 1] = np.nan
    values, _ = masked(logits, LABELS, KEEP, SCORES)
    assert np.isnan(values[0])
    assert np.isfinite(values[1:]).all()


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_scores_of_any_size(scale):
    signs = np.sign(LOGITS) * np.float32(scale)
    scores = {k: np.sign(x) * np.float32(scale) for k, x in SCORES.items()}
    values, gradients = masked(signs, LABELS, KEEP, scores)
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert np.isfinite(gradients).all()


def test_the_gradient_holds_no_matrix_for_each_step():
    steps, tags = 128, 64
    logits, labels = jnp.zeros((steps, tags)), jnp.zeros(steps, jnp.int32)
    f = jax.jit(jax.grad(lambda z, a: losses.linear_chain_crf(z, labels, transitions=a), argnums=(0, 1)))
    memory = f.lower(logits, jnp.zeros((tags, tags))).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < steps * tags * tags  # a quarter of that many floats


def test_pytorch_crf_agrees():
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("torchcrf").CRF(TAGS, batch_first=True)
    names = (peer.transitions, peer.start_transitions, peer.end_transitions)
    scores = dict(zip(("transitions", "starts", "ends"), (x.detach().numpy() for x in names), strict=True))
    keep = np.sort(KEEP, axis=-1)[:, ::-1][[0, 1, 2, 4]]
    arrays = LOGITS[:4], LABELS[:4]
    theirs = -peer(*map(torch.tensor, arrays), mask=torch.tensor(keep.copy())).item()
    ours = once(losses.linear_chain_crf, *arrays, step_where=keep, reduction="sum", **scores)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_wrong_calls_are_loud():
    run = partial(losses.linear_chain_crf, LOGITS, LABELS)
    with pytest.raises(ValueError, match=r"transitions must have shape \[3, 3\], one for each class, got \[3\]"):
        run(transitions=np.zeros(3))
    with pytest.raises(ValueError, match=r"starts must have shape \[3\]"):
        run(transitions=np.zeros((3, 3)), starts=np.zeros(4))
    with pytest.raises(TypeError, match="step_where must be bool"):
        run(transitions=np.zeros((3, 3)), step_where=np.ones((UNITS, STEPS)))
    with pytest.raises(ValueError, match=r"step_where\[7, 4\] does not broadcast"):
        run(transitions=np.zeros((3, 3)), step_where=np.ones((7, STEPS), bool))
    with pytest.raises(ValueError, match=r"at least one step and one tag, got logits\[5, 0, 3\]"):
        losses.linear_chain_crf(LOGITS[:, :0], LABELS[:, :0], transitions=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="logits needs at least 2 axis"):
        activations.viterbi(LOGITS[0, 0], transitions=np.zeros((3, 3)))


# ---- decoding --------------------------------------------------------------------------------------------------------


@quick
def decoded(logits, keep, scores):
    run = partial(activations.viterbi, step_where=keep, **scores)
    return *run(logits), jax.grad(lambda z: jnp.sum(run(z)[1]))(logits)


@pytest.mark.parametrize("forbidden", [False, True])
def test_the_best_path_of_all(forbidden):
    scores = {k: x.copy() for k, x in SCORES.items()}
    if forbidden:
        scores["transitions"][[0, 2], [1, 2]] = scores["starts"][0] = scores["ends"][1] = -np.inf
    labels, totals, gradients = decoded(np.where(KEEP[..., None], LOGITS, np.nan), KEEP, scores)
    assert (labels[~KEEP] == -1).all()
    for i, keep in enumerate(KEEP):
        best = max(paths(LOGITS[i][keep]), key=lambda path: score(LOGITS[i][keep], path, **scores))
        assert tuple(labels[i][keep].tolist()) == best
        np.testing.assert_allclose(totals[i], score(LOGITS[i][keep], best, **scores), rtol=1e-6)
        np.testing.assert_array_equal(gradients[i][keep], np.eye(TAGS)[list(best)])
        assert not gradients[i][~keep].any()


def test_no_path_is_allowed():
    labels, total = once(activations.viterbi, LOGITS[0], transitions=np.full((TAGS, TAGS), -np.inf))
    assert np.isneginf(total)
    assert ((labels >= 0) & (labels < TAGS)).all()


def test_decoding_takes_axes_and_half_precision():
    labels, total = once(activations.viterbi, LOGITS, **SCORES)
    assert labels.dtype == jnp.int32
    deeper, _ = once(activations.viterbi, LOGITS[None], **SCORES)
    np.testing.assert_array_equal(deeper[0], labels)
    single, _ = quick(jax.vmap(lambda z: activations.viterbi(z, **SCORES)))(LOGITS)
    np.testing.assert_array_equal(single, labels)
    assert once(activations.viterbi, jnp.asarray(LOGITS, jnp.bfloat16), **SCORES)[1].dtype == total.dtype == jnp.float32


def test_long_sequences_are_decoded_with_all_digits():
    """A running total of 1e6 would hide differences of 0.01."""
    logits = (1e3 + 0.01 * RNG.normal(size=(1000, TAGS))).astype(np.float32)
    labels, _ = once(activations.viterbi, logits, transitions=np.zeros((TAGS, TAGS)))
    np.testing.assert_array_equal(labels, logits.argmax(-1))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_decoding_is_sharded(kind):
    logits = np.tile(LOGITS, (2, 1, 1))[:8]
    expected = quick(lambda z: activations.viterbi(z, **SCORES))(logits)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        found = quick(lambda z: activations.viterbi(z, **SCORES))(
            jax.device_put(logits, NamedSharding(mesh, P("data")))
        )
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)


def test_the_structured_perceptron():
    """How far the best sequence is above the true one; 0 where that is the best."""
    labels, best = once(activations.viterbi, LOGITS, **SCORES)
    own = [score(LOGITS[i], labels[i].tolist(), **SCORES) for i in range(UNITS)]
    np.testing.assert_allclose(best, own, rtol=1e-6)
    worse = [score(LOGITS[i], LABELS[i].tolist(), **SCORES) for i in range(UNITS)]
    assert (np.asarray(best) - worse >= -1e-6).all()
