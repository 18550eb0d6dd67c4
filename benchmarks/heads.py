"""Losses of hidden states beside their plain form, which holds all logits. Value and gradient, jitted."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.measure import Case
from lossax import activations, losses

TOKENS, DIMENSIONS, CLASSES = 4096, 512, 65536
LENGTH = 256
"""Tokens of an answer."""


def plain_log_probs(hidden, labels, embedding):
    return -optax.softmax_cross_entropy_with_integer_labels(hidden @ embedding, labels)


def tiled_log_probs(hidden, labels, embedding):
    return activations.linear_log_probs(hidden, labels, embedding=embedding)


def plain_dpo(log_probs, reference):
    gap = jnp.sum(log_probs - reference, axis=1)
    return -jnp.mean(jax.nn.log_sigmoid(0.1 * (gap[::2] - gap[1::2])))


def dpo(log_probs, reference):
    log_probs, reference = jnp.sum(log_probs, axis=1), jnp.sum(reference, axis=1)
    return losses.dpo(log_probs[::2], log_probs[1::2], reference[::2], reference[1::2])


def plain_grpo(log_probs, reference):
    ratio, gap = jnp.exp(log_probs - jax.lax.stop_gradient(log_probs)), reference - log_probs
    gain = jnp.where(jnp.arange(len(log_probs)) % 2 == 0, 1.0, -1.0)[:, None]
    clipped = jnp.minimum(ratio * gain, jnp.clip(ratio, 0.8, 1.2) * gain)
    return jnp.mean(-clipped + 0.04 * (jnp.exp(gap) - 1.0 - gap))


def grpo(log_probs, reference):
    gain = jnp.where(jnp.arange(len(log_probs)) % 2 == 0, 1.0, -1.0)
    loss = losses.policy_gradient(log_probs, log_probs, gain, aggregation="sequence")
    return loss + 0.04 * losses.kl_estimate(log_probs, reference, aggregation="sequence")


def cases() -> Iterator[Case]:
    rng = np.random.default_rng(0)
    hidden, reference = jnp.asarray(0.5 * rng.normal(size=(2, TOKENS, DIMENSIONS)), jnp.float32)
    embedding = jnp.asarray(0.05 * rng.normal(size=(DIMENSIONS, CLASSES)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, CLASSES, TOKENS), jnp.int32)

    def ours(hidden, embedding):
        return losses.linear_cross_entropy(hidden, labels, embedding=embedding)

    def plain(hidden, embedding):
        return -plain_log_probs(hidden, labels, embedding).mean()

    name = f"linear_cross_entropy, {TOKENS} tokens of {CLASSES}"
    step, peer = (jax.value_and_grad(f, (0, 1)) for f in (ours, plain))
    yield Case(name, lambda: (hidden, embedding), step, peer, peer_name="optax")

    def from_states(log_probs, loss):
        """Of a policy and its reference, both by hidden states: answers of some tokens each."""

        def f(hidden, embedding, reference):
            of_reference = log_probs(reference, labels, jax.lax.stop_gradient(embedding))
            answers = [x.reshape(-1, LENGTH) for x in (log_probs(hidden, labels, embedding), of_reference)]
            return loss(*answers)

        return jax.value_and_grad(f, (0, 1))

    for name, ours, plain in (("dpo", dpo, plain_dpo), ("policy_gradient (GRPO)", grpo, plain_grpo)):
        step, peer = from_states(tiled_log_probs, ours), from_states(plain_log_probs, plain)
        case = f"{name}, {TOKENS} tokens of {CLASSES}"
        yield Case(case, lambda: (hidden, embedding, reference), step, peer, peer_name="plain")
