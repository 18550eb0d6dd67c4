"""Balance of experts: peers' definitions, the whole batch from its parts, ties and experts that are not there."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lossax import losses
from lossax.activations import expert_loads
from tests.test_losses import quick

RNG: Any = np.random.default_rng(0)
N, EXPERTS = 64, 8
LOGITS: Any = RNG.normal(size=(N, EXPERTS)).astype(np.float32)


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(partial(f, **options))(*arrays)


def mixtral(logits, k):
    """As in Hugging Face Transformers: the mean over tokens of each of the k choices, summed."""
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.argsort(-p, axis=-1, kind="stable")[:, :k]
    each = np.eye(EXPERTS)[chosen].mean(0)
    return EXPERTS * (each * p.mean(0)).sum()


def switch(logits):
    """As in the paper."""
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    share = np.bincount(p.argmax(-1), minlength=EXPERTS) / len(p)
    return EXPERTS * (share * p.mean(0)).sum()


@pytest.mark.parametrize("k", [1, 2, 4])
def test_definitions_of_peers(k):
    ours = once(losses.load_balance, LOGITS, k=k)
    np.testing.assert_allclose(ours, mixtral(np.float64(LOGITS), k) / k, rtol=1e-6)
    if k == 1:
        np.testing.assert_allclose(ours, switch(np.float64(LOGITS)), rtol=1e-6)
    assert expert_loads(LOGITS, k=k).sum() == k * N


@pytest.mark.parametrize("k", [1, 3])
def test_between_one_and_the_number_of_experts(k):
    turns = np.float32(50) * sum(np.roll(np.eye(EXPERTS), i, axis=1) for i in range(k))
    np.testing.assert_allclose(
        once(losses.load_balance, np.tile(turns, (4, 1)).astype(np.float32), k=k), 1.0, rtol=1e-6
    )
    one = np.zeros((N, EXPERTS), np.float32)
    one[:, 2] = 50
    np.testing.assert_allclose(once(losses.load_balance, one), EXPERTS, rtol=1e-6)


def test_experts_with_more_than_their_share_lose():
    logits = LOGITS + np.array([2.0, *[0.0] * 7], np.float32)
    f = quick(jax.value_and_grad(losses.load_balance))
    value, slope = f(logits)
    assert value > 1
    assert slope[:, 0].sum() > 0
    for _ in range(200):
        logits = logits - 50 * f(logits)[1]
    assert f(logits)[0] < 1.05


def test_parts_make_the_whole():
    """On 8 devices with masks of their own; the loads of all, and the mean of the parts by their tokens."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    keep = RNG.random(N) < 0.7

    def part(logits, keep):
        loads = jax.lax.psum(expert_loads(logits, k=2, where=keep), "data")
        number = keep.sum().astype(jnp.float32)
        value = number * losses.load_balance(logits, k=2, loads=loads, where=keep)
        return jax.lax.psum(value, "data") / jax.lax.psum(number, "data")

    spread = jax.shard_map(part, mesh=mesh, in_specs=P("data"), out_specs=P())
    value, slope = quick(jax.value_and_grad(spread))(LOGITS, keep)
    whole = quick(jax.value_and_grad(partial(losses.load_balance, k=2, where=keep)))
    expected, gradient = whole(LOGITS)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, gradient, rtol=1e-5, atol=1e-8)


def test_automatic_sharding_balances_the_whole_batch():
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            sets = jax.device_put(LOGITS.reshape(8, 8, EXPERTS), NamedSharding(mesh, P("data")))
            each = quick(partial(losses.load_balance, k=2, reduction="none"))(sets)
        np.testing.assert_allclose(
            each, quick(jax.vmap(partial(losses.load_balance, k=2)))(LOGITS.reshape(8, 8, EXPERTS)), rtol=1e-6
        )


def test_loads_are_constants_in_any_unit():
    loads = expert_loads(LOGITS)
    own = once(losses.load_balance, LOGITS)
    np.testing.assert_allclose(once(losses.load_balance, LOGITS, loads=7.0 * loads), own, rtol=1e-6)
    assert not quick(jax.grad(lambda n: losses.load_balance(LOGITS, loads=n)))(loads).any()
    assert once(losses.load_balance, LOGITS, loads=np.zeros(EXPERTS)) == 0
    assert np.isfinite(quick(jax.grad(partial(losses.load_balance, loads=np.zeros(EXPERTS))))(LOGITS)).all()


def test_an_expert_that_is_not_there_is_not_chosen():
    logits = LOGITS.copy()
    logits[:, 3:] = -np.inf
    assert expert_loads(logits, k=4)[3:].sum() == 0
    value, slope = quick(jax.value_and_grad(partial(losses.load_balance, k=4)))(logits)
    assert np.isfinite(value)
    assert np.isfinite(slope).all()


def test_ties_go_to_the_first():
    assert expert_loads(np.zeros((3, 4)), k=2).tolist() == [3.0, 3.0, 0.0, 0.0]


def test_weights_and_masks_of_loads():
    weights, keep = RNG.random(N).astype(np.float32), RNG.random(N) < 0.5
    loads = expert_loads(np.where(keep[:, None], LOGITS, np.nan), where=keep, weights=weights)
    expected = np.bincount(LOGITS[keep].argmax(-1), weights=weights[keep], minlength=EXPERTS)
    np.testing.assert_allclose(loads, expected, rtol=1e-6)


def test_wrong_calls_are_loud():
    with pytest.raises(ValueError, match="k must be at most the number of experts, got 9 of 8"):
        losses.load_balance(LOGITS, k=9)
    with pytest.raises(TypeError, match="k sets structure and must be a Python int"):
        losses.load_balance(LOGITS, k=2.0)  # pyright: ignore
    with pytest.raises(ValueError, match=r"loads\[3\] does not broadcast"):
        losses.load_balance(LOGITS, loads=np.ones(3))
    with pytest.raises(ValueError, match="loads must be nonnegative"):
        losses.load_balance(LOGITS, loads=-np.ones(EXPERTS))
    with pytest.raises(ValueError, match="logits needs at least 2 axis"):
        expert_loads(LOGITS[0])
