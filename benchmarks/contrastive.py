"""Losses of a whole batch beside their plain forms, which hold the matrix of pairs. Value and gradient, jitted."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.measure import Case
from lossax import losses

SIZE, DIMENSIONS = 8192, 256
CLASSES = 512
TRIPLETS = 4096


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def own(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(logits)))


def info_nce(x, y):
    return own(unit(x) @ unit(y).T / 0.07).mean()


def clip(x, y):
    logits = unit(x) @ unit(y).T / 0.07
    return 0.5 * (own(logits).mean() + own(logits.T).mean())


def siglip(x, y):
    logits = 10.0 * (unit(x) @ unit(y).T) - 10.0
    signs = 2.0 * jnp.eye(len(x)) - 1.0
    return -jnp.sum(jax.nn.log_sigmoid(signs * logits)) / len(x)


def supervised_contrastive(x, labels):
    logits = unit(x) @ unit(x).T / 0.1
    other = ~jnp.eye(len(x), dtype=bool)
    same = (labels[:, None] == labels[None, :]) & other
    surprise = jax.nn.logsumexp(jnp.where(other, logits, -jnp.inf), axis=1, keepdims=True) - logits
    return jnp.mean(jnp.sum(jnp.where(same, surprise, 0.0), axis=1) / jnp.sum(same, axis=1))


def distances(x):
    squares = jnp.sum(x * x, axis=1)
    return jnp.sqrt(jnp.maximum(squares[:, None] + squares[None, :] - 2.0 * x @ x.T, 1e-12))


def batch_hard(x, labels):
    d, same = distances(x), labels[:, None] == labels[None, :]
    farthest = jnp.max(jnp.where(same & ~jnp.eye(len(x), dtype=bool), d, -jnp.inf), axis=1)
    nearest = jnp.min(jnp.where(same, jnp.inf, d), axis=1)
    return jnp.mean(jnp.maximum(farthest - nearest + 1.0, 0.0))


def batch_all(x, labels):
    d, same = distances(x), labels[:, None] == labels[None, :]
    triplets = (same & ~jnp.eye(len(x), dtype=bool))[:, :, None] & ~same[:, None, :]
    hinges = jnp.maximum(d[:, :, None] - d[:, None, :] + 1.0, 0.0)
    return jnp.sum(jnp.where(triplets, hinges, 0.0)) / jnp.sum(triplets, dtype=jnp.float32)


def cases() -> Iterator[Case]:
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(2, SIZE, DIMENSIONS)), jnp.float32)
    labels = jnp.asarray(rng.permutation(np.arange(SIZE) % CLASSES), jnp.int32)
    symmetric = lambda x, y: losses.info_nce(x, y, symmetric=True)  # noqa: E731
    for name, ours, plain, second in (
        ("info_nce", losses.info_nce, info_nce, y),
        ("info_nce, symmetric (CLIP)", symmetric, clip, y),
        ("siglip", losses.siglip, siglip, y),
        ("supervised_contrastive", losses.supervised_contrastive, supervised_contrastive, labels),
    ):
        arguments = (x, second)
        argnums = (0, 1) if second is y else 0
        step, peer = jax.value_and_grad(ours, argnums), jax.value_and_grad(plain, argnums)
        yield Case(f"{name}, batch of {SIZE}", lambda arguments=arguments: arguments, step, peer, peer_name="plain")
    every = functools.partial(losses.batch_triplet_margin, mining="all")
    for name, ours, plain, size in (
        ("hard", losses.batch_triplet_margin, batch_hard, TRIPLETS),
        ("all", every, batch_all, TRIPLETS // 4),  # the plain form takes n^3
    ):
        arguments = (x[:size], labels[:size] % (size // 8))
        step, peer = jax.value_and_grad(ours), jax.value_and_grad(plain)
        case = f"batch_triplet_margin, {name}, batch of {size}"
        yield Case(case, lambda arguments=arguments: arguments, step, peer, peer_name="plain")
