"""Tokens: labels across documents and devices, what not to say, and what a router's logits cost."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lossax import losses, objectives, targets, unit_weights
from tests.test_losses import quick

RNG: Any = np.random.default_rng(0)
ROWS, LENGTH, CLASSES = 8, 6, 7
TOKENS: Any = RNG.integers(0, CLASSES, (ROWS, LENGTH))
LOGITS: Any = RNG.normal(size=(ROWS, LENGTH, CLASSES)).astype(np.float32)
SEGMENTS: Any = np.sort(RNG.integers(0, 3, (ROWS, LENGTH)), axis=-1)
# Row i has i tokens to predict: devices hold uneven parts, one of them nothing.
READ = np.arange(LENGTH) <= np.minimum(np.arange(ROWS), LENGTH - 1)[:, None]
cross_entropy = losses.softmax_cross_entropy_with_integer_labels


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(partial(f, **options))(*arrays)


def following(tokens, shift, segments, where):
    """One token after the other."""
    labels, keep = np.full(tokens.shape, -1), np.zeros(tokens.shape, bool)
    for i, t in np.ndindex(tokens.shape):
        later = t + shift
        if later < tokens.shape[1] and segments[i, t] == segments[i, later] and where[i, later]:
            labels[i, t], keep[i, t] = tokens[i, later], True
    return labels, keep


@pytest.mark.parametrize("shift", [1, 2, LENGTH - 1, LENGTH, LENGTH + 3])
def test_labels_come_from_the_same_document(shift):
    found = targets.next_tokens(TOKENS, shift=shift, segments=SEGMENTS, where=READ)
    for ours, expected in zip(found, following(TOKENS, shift, SEGMENTS, READ), strict=True):
        np.testing.assert_array_equal(ours, expected)
    alone, keep = targets.next_tokens(TOKENS[0], shift=shift)
    np.testing.assert_array_equal(alone[keep], TOKENS[0][shift:])


def test_tokens_of_any_integer_type():
    for dtype in (np.uint8, np.uint16, np.int16, np.uint32, np.int64):
        labels, keep = quick(targets.next_tokens)(TOKENS.astype(dtype))
        assert labels.dtype == jnp.int32
        assert keep.dtype == bool
        np.testing.assert_array_equal(labels[:, :-1], TOKENS[:, 1:])
        assert (labels[:, -1] == -1).all()


def test_padding_on_the_left_predicts_nothing():
    """As a segment of its own: a mask of what is predicted alone would let padding predict the first token."""
    tokens, real = jnp.array([0, 0, 5, 6, 7]), jnp.array([False, False, True, True, True])
    _, keep = targets.next_tokens(tokens, segments=real.astype(jnp.int32), where=real)
    assert keep.tolist() == [False, False, True, True, False]


def test_a_prompt_is_read_and_not_predicted():
    _, keep = targets.next_tokens(jnp.array([1, 2, 3, 4]), where=jnp.array([False, False, True, True]))
    assert keep.tolist() == [False, True, True, False]


def test_the_shift_outside_is_the_shift_inside():
    """As by slices of logits and labels, where there are no documents."""
    labels, keep = targets.next_tokens(TOKENS)
    ours, slope = quick(jax.value_and_grad(lambda z: cross_entropy(z, labels, where=keep)))(LOGITS)
    sliced = cross_entropy(LOGITS[:, :-1], TOKENS[:, 1:])
    np.testing.assert_allclose(ours, sliced, rtol=1e-6)
    assert not slope[:, -1].any()
    with pytest.raises(ValueError, match="labels must be in"):
        cross_entropy(LOGITS, labels)  # the mask is forgotten


def test_a_mean_over_all_tokens_of_all_devices():
    """Value and gradient of uneven parts are those of the whole; the mean of means is another number."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def mean(logits, tokens, segments, read):
        labels, keep = targets.next_tokens(tokens, segments=segments, where=read)
        total = cross_entropy(logits, labels, where=keep, reduction="sum", label_smoothing=0.1, z_loss=1e-3)
        total, number = jax.lax.psum((total, unit_weights(labels.shape, keep).sum()), "data")
        return total / number

    data = TOKENS, SEGMENTS, READ
    spread = jax.shard_map(mean, mesh=mesh, in_specs=P("data"), out_specs=P())
    value, slope = quick(jax.value_and_grad(spread))(LOGITS, *data)
    labels, keep = targets.next_tokens(TOKENS, segments=SEGMENTS, where=READ)
    whole = partial(cross_entropy, labels=labels, where=keep, label_smoothing=0.1, z_loss=1e-3)
    expected, gradient = quick(jax.value_and_grad(whole))(LOGITS)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, gradient, rtol=1e-5, atol=1e-8)
    parts = [whole(LOGITS[i], labels=labels[i], where=keep[i]) for i in range(ROWS) if keep[i].any()]
    assert abs(np.mean(parts) - expected) > 1e-3


def test_every_sequence_alike():
    labels, keep = targets.next_tokens(TOKENS, where=READ)
    weights = 1 / keep.sum(-1, keepdims=True, dtype=float)
    ours = cross_entropy(LOGITS, labels, where=keep, weights=weights)
    each = [cross_entropy(LOGITS[i], labels[i], where=keep[i]) for i in range(ROWS) if keep[i].any()]
    np.testing.assert_allclose(ours, np.mean(each), rtol=1e-6)


def test_several_tokens_ahead():
    """One head for each distance in one batch, the later ones with fewer labels."""
    heads = jnp.asarray(RNG.normal(size=(3, ROWS, LENGTH, CLASSES)), jnp.float32)
    pairs = [targets.next_tokens(TOKENS, shift=k + 1, segments=SEGMENTS) for k in range(3)]
    labels, keep = (jnp.stack(x) for x in zip(*pairs, strict=True))
    together = cross_entropy(heads, labels, where=keep, reduction="none").sum((1, 2)) / keep.sum((1, 2), dtype=float)
    for k in range(3):
        np.testing.assert_allclose(together[k], cross_entropy(heads[k], labels[k], where=keep[k]), rtol=1e-6)


def test_selective_tokens():
    """RHO-1: of the tokens there are, those that the model has most to learn of, by a reference model."""
    labels, keep = targets.next_tokens(TOKENS, segments=SEGMENTS)
    reference = jnp.asarray(RNG.normal(size=LOGITS.shape), jnp.float32)
    own, other = (cross_entropy(z, labels, where=keep, reduction="none") for z in (LOGITS, reference))
    chosen = objectives.hardest(own - other, fraction=0.6, where=keep)
    number = round(0.6 * int(keep.sum()))
    assert chosen.sum() == number
    excess = np.sort((own - other)[keep])[::-1]
    assert (own - other)[chosen].min() == excess[number - 1]
    np.testing.assert_allclose(cross_entropy(LOGITS, labels, where=chosen), np.mean(own[chosen]), rtol=1e-6)


# ---- unlikelihood ----------------------------------------------------------------------------------------------------


def candidates(tokens, segments):
    """What has come in the document, without what comes next, one position after the other."""
    out = np.zeros((*tokens.shape, CLASSES), bool)
    for i, t in np.ndindex(tokens.shape):
        for s in range(t + 1):
            out[i, t, tokens[i, s]] |= segments[i, s] == segments[i, t]
        if t + 1 < tokens.shape[1] and segments[i, t + 1] == segments[i, t]:
            out[i, t, tokens[i, t + 1]] = False
    return out


def test_negatives_of_the_context():
    found = quick(partial(targets.context_negatives, classes=CLASSES))(TOKENS, segments=SEGMENTS)
    np.testing.assert_array_equal(found, candidates(TOKENS, SEGMENTS))
    one = targets.context_negatives(TOKENS[0], classes=CLASSES)
    np.testing.assert_array_equal(one, candidates(TOKENS[:1], np.zeros((1, LENGTH)))[0])
    assert not targets.context_negatives(jnp.array([-1, 3, -1]), classes=3).any()
    assert targets.context_negatives(TOKENS[:, :0], classes=3).shape == (ROWS, 0, 3)


def test_torch_agrees_on_unlikelihood():
    torch = pytest.importorskip("torch")
    negatives = candidates(TOKENS, SEGMENTS)
    z = torch.tensor(LOGITS, requires_grad=True)
    theirs = -(torch.log1p(-torch.softmax(z, -1)) * torch.tensor(negatives)).sum(-1).mean()
    theirs.backward()
    assert z.grad is not None
    ours, slope = quick(jax.value_and_grad(losses.unlikelihood))(LOGITS, negatives)
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-6)
    np.testing.assert_allclose(slope, z.grad.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("lead", [1.0, 30.0, 200.0, 1e4, 1e30])
def test_a_sure_mistake_still_has_a_slope(lead):
    """Where 1 - p is rounded to 0: log of it is infinite, and what peers clip it to has no gradient."""
    row, negatives = np.array([lead, 0.0, 0.0], np.float32), np.array([True, False, False])
    value, slope = quick(jax.value_and_grad(losses.unlikelihood))(row, negatives)
    np.testing.assert_allclose(value, np.logaddexp(lead, np.log(2)) - np.log(2), rtol=1e-6)
    p = 1 / (1 + 2 * np.exp(-lead))
    np.testing.assert_allclose(slope, [p, -p / 2, -p / 2], rtol=1e-6)


def test_negatives_that_do_not_exist():
    row = np.array([0.0, -np.inf, -np.inf], np.float32)
    value, slope = quick(jax.value_and_grad(losses.unlikelihood))(row, np.array([False, True, True]))
    assert value == 0
    assert not slope.any()
    assert np.isposinf(once(losses.unlikelihood, row, np.array([True, False, False])))
    with pytest.raises(ValueError, match="negatives must be nonnegative, got -1"):
        losses.unlikelihood(row, np.array([-1.0, 0.0, 0.0]))


# ---- routers ---------------------------------------------------------------------------------------------------------


def test_the_router_has_the_z_loss_of_the_cross_entropy():
    ours = once(losses.router_z, LOGITS)
    both = [cross_entropy(LOGITS, TOKENS, z_loss=z) for z in (1.0, 0.0)]
    np.testing.assert_allclose(ours, both[0] - both[1], rtol=1e-5)


def test_the_z_loss_near_its_minimum_keeps_its_digits():
    """One logit at 0 and the others far below: the log of the sum is theirs, which 1 + x would lose."""
    row = np.array([0.0, -20.0, -25.0], np.float32)
    value, slope = quick(jax.value_and_grad(losses.router_z))(row)
    rest = np.exp(-20.0) + np.exp(-25.0)
    np.testing.assert_allclose(value, np.log1p(rest) ** 2, rtol=1e-6)
    np.testing.assert_allclose(slope[0], 2 * np.log1p(rest) / (1 + rest), rtol=1e-6)
    nothing, gradient = quick(jax.value_and_grad(losses.router_z))(np.full(3, -np.inf, np.float32))
    assert nothing == 0
    assert not gradient.any()


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_targets_are_sharded(kind):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    expected = targets.next_tokens(TOKENS, segments=SEGMENTS), candidates(TOKENS, SEGMENTS)
    with jax.set_mesh(mesh):
        tokens, segments = (jax.device_put(x, NamedSharding(mesh, P("data"))) for x in (TOKENS, SEGMENTS))
        found = quick(
            lambda t, s: (targets.next_tokens(t, segments=s), targets.context_negatives(t, classes=CLASSES, segments=s))
        )(tokens, segments)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
