"""Losses of hidden states beside their plain form, which holds all logits. Value and gradient, jitted."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.measure import Case
from lossax import losses

TOKENS, DIMENSIONS, CLASSES = 4096, 512, 65536


def cases() -> Iterator[Case]:
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(0.5 * rng.normal(size=(TOKENS, DIMENSIONS)), jnp.float32)
    embedding = jnp.asarray(0.05 * rng.normal(size=(DIMENSIONS, CLASSES)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, CLASSES, TOKENS), jnp.int32)

    def ours(hidden, embedding):
        return losses.linear_cross_entropy(hidden, labels, embedding=embedding)

    def plain(hidden, embedding):
        return optax.softmax_cross_entropy_with_integer_labels(hidden @ embedding, labels).mean()

    name = f"linear_cross_entropy, {TOKENS} tokens of {CLASSES}"
    step, peer = (jax.value_and_grad(f, (0, 1)) for f in (ours, plain))
    yield Case(name, lambda: (hidden, embedding), step, peer, peer_name="optax")
