"""The clip of attention: what becomes of logits, in every layout."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax as typed_optax
import pytest

import lossax

# Optax types what `update` returns as any tree of arrays, of which a type checker allows no use.
optax: Any = typed_optax
LAYERS, INPUTS, HEADS, FEATURES = 2, 5, 3, 4
QUERIES, KEYS = {"query": ".h."}, {"key": ".h."}


def weights(seed=0) -> Any:
    rng = np.random.default_rng(seed)
    return {name: np.float32(rng.normal(size=(LAYERS, INPUTS, HEADS, FEATURES))) for name in ("query", "key")}


TOKENS = np.float32(np.random.default_rng(1).normal(size=(7, INPUTS)))


def largest(params):
    """Of each layer and head."""
    q, k = (np.einsum("ti,lihf->lhtf", TOKENS, params[name]) for name in ("query", "key"))
    return np.einsum("lhtf,lhsf->lhts", q, k).max((2, 3))


# What the weights become in the layout, the axes of queries and keys, the logits, and back.
LAYOUTS = {
    "flax": (lambda w: [{n: x[i] for n, x in w.items()} for i in range(LAYERS)], ".h.", list),
    "scan": (lambda w: w, "b.h.", lambda s: s),
    "scan over the second axis": (lambda w: jax.tree.map(lambda x: x.swapaxes(0, 1), w), ".bh.", lambda s: s),
    "torch": (
        lambda w: [{n: x[i].transpose(1, 2, 0).reshape(-1, INPUTS) for n, x in w.items()} for i in range(LAYERS)],
        "h.",
        lambda s: {str(i): row for i, row in enumerate(s)},
    ),
}


@pytest.mark.parametrize(("lay", "axes", "of"), LAYOUTS.values(), ids=LAYOUTS)
def test_logits_come_down_to_the_threshold(lay, axes, of):
    params = weights()
    logits = largest(params)
    limit = float(np.median(logits))
    factor = np.sqrt(np.minimum(1.0, limit / logits))[:, None, :, None]
    right = {name: factor * x for name, x in params.items()}
    np.testing.assert_allclose(largest(right), np.minimum(logits, limit), rtol=1e-5)
    tx = lossax.transforms.qk_clip({"query": axes}, {"key": axes}, threshold=limit)
    held = jax.tree.map(jnp.asarray, lay(params))
    still = jax.tree.map(jnp.zeros_like, held)
    step = jax.jit(lambda u, s, p, m: tx.update(u, s, p, max_logits=m))
    updates, state = step(still, tx.init(held), held, of(jnp.asarray(logits)))
    after = optax.apply_updates(held, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), after, lay(right))
    np.testing.assert_allclose(state.least, limit / logits.max(), rtol=1e-6)


def test_heads_below_the_threshold_are_left_to_the_bit():
    params = weights()
    tx = lossax.transforms.qk_clip({"query": "b.h."}, {"key": "b.h."})
    steps = jax.tree.map(lambda p: 0.1 * p, params)
    logits = np.full((LAYERS, HEADS), 99.0, np.float32)
    logits[0, 1], logits[1, 0], logits[1, 2] = 400.0, np.inf, np.nan
    updates: Any = tx.update(steps, tx.init(params), params, max_logits=logits)[0]
    for name, step in steps.items():
        found = np.array(updates[name])
        np.testing.assert_allclose(found[0, :, 1], 0.5 * 1.1 * params[name][0, :, 1] - params[name][0, :, 1], rtol=1e-5)
        found[0, :, 1] = step[0, :, 1]
        np.testing.assert_array_equal(found, step)


def test_shared_keys_are_left_and_their_queries_get_all_of_it():
    params = {"query": jnp.ones((2, 4)), "rotary": jnp.ones((2, 4)), "key": jnp.ones((2, 4)), "shared": jnp.ones(2)}
    own = {"queries": {"query": ".h"}, "keys": {"key": ".h"}, "alone": {"rotary": ".h"}}
    still = jax.tree.map(jnp.zeros_like, params)
    for balance, expected in ((0.5, (0.5, 0.25, 0.5)), (1.0, (0.25, 0.25, 1.0))):
        tx = lossax.transforms.qk_clip(**own, threshold=1.0, balance=balance)
        updates, _ = tx.update(still, tx.init(params), params, max_logits=jnp.array([4.0, 1.0]))
        after = optax.apply_updates(params, updates)
        for name, factor in zip(("query", "rotary", "key"), expected, strict=True):
            np.testing.assert_allclose(after[name][0], [factor, factor, 1.0, 1.0], rtol=1e-6)
        np.testing.assert_array_equal(after["shared"], params["shared"])


def test_muonclip_is_a_chain():
    params = jax.tree.map(lambda x: jnp.asarray(x[0]), weights())
    rule = lossax.matrix_rule({"query|key": "ioo"})
    tx = lossax.chain(lossax.optimizers.muon(0.02, matrices=rule), lossax.transforms.qk_clip(QUERIES, KEYS))
    state: Any = tx.init(params)
    updates, _ = tx.update(params, state, params, max_logits=jnp.array([10.0, 200.0, 10.0]))
    plain, _ = lossax.optimizers.muon(0.02, matrices=rule).update(params, state[0], params)
    after, expected = optax.apply_updates(params, updates), optax.apply_updates(params, plain)
    for name in params:
        np.testing.assert_allclose(after[name][:, 1], np.sqrt(0.5) * expected[name][:, 1], rtol=1e-5)
        np.testing.assert_array_equal(after[name][:, 0], expected[name][:, 0])


@pytest.mark.parametrize(
    ("logits", "match"),
    [
        (None, "needs max_logits"),
        ({"elsewhere": jnp.ones(3)}, "nothing for attention"),
        ({"attention": jnp.ones(3), "other": jnp.ones(3)}, r"\['other'\] belong to no query"),
        ({"attention": jnp.ones(4)}, r"max_logits\[4\] do not fit attention/key\[5, 3, 4\] with axes '.h.'"),
        ({"attention": jnp.ones((2, 3))}, "do not fit"),
        ({"attention": jnp.float32(1.0)}, "do not fit"),
    ],
)
def test_what_does_not_belong_is_named(logits, match):
    params = {"attention": jax.tree.map(lambda x: x[0], weights())}
    tx = lossax.transforms.qk_clip(QUERIES, KEYS)
    with pytest.raises(ValueError, match=match):
        tx.update(params, tx.init(params), params, max_logits=logits)


@pytest.mark.parametrize("axes", ["..", "hh", "xh", ""])
def test_axes_are_named_by_letters(axes):
    with pytest.raises(ValueError, match="one h"):
        lossax.transforms.qk_clip({"q": axes}, {})
