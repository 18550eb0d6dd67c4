"""Objectives that look for the input at which a model changes its mind."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _numerics
from lossax._reduction import reduce
from lossax._types import Reduction
from lossax.losses import kl_divergence


def _unit(direction: jax.Array) -> jax.Array:
    """Every example scaled to length 1, and 0 where it is 0; by its largest entry first, whose square may overflow."""
    axes = tuple(range(1, direction.ndim))
    direction = _numerics.divide(direction, jnp.max(jnp.abs(direction), axis=axes, keepdims=True))
    return _numerics.divide(direction, jnp.sqrt(jnp.sum(jnp.square(direction), axis=axes, keepdims=True)))


def _divergence(known: jax.Array, moved: jax.Array) -> jax.Array:
    return kl_divergence(moved, known, of="logits", reduction="none")


def virtual_adversarial(
    apply: Callable[[jax.Array], jax.Array],
    inputs: jax.Array,
    key: jax.Array,
    *,
    epsilon: ArrayLike,
    iterations: int = 1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""How far the predictions move under the smallest step in the worst direction: smoothness where the data is.

    .. math:: \mathrm{KL}\big(p(x) \,\|\, p(x + r)\big), \qquad
        r = \epsilon \arg\max_{\|d\| = 1} d^\top H d, \quad
        H = \nabla_r^2 \mathrm{KL}\big(p(x) \,\|\, p(x + r)\big)\big|_{r = 0}

    Needs no labels. The direction is found by power iteration from a random one; the products with H are exact
    derivatives, so the paper's finite difference and its step xi, too small for float32, are not needed. No gradient
    flows through :math:`p(x)` nor through r. Add a multiple of it (1 in the paper) to the loss of the labelled part.

    Args:
      apply: The model: inputs to logits `[batch, classes]`, the same function of each example (batch statistics
        frozen), twice differentiable; parameters are closed over.
      inputs: Examples, float `[batch, ...]`.
      key: Random key of the first direction.
      epsilon: Length of the step for each example, nonnegative, in units of the inputs: the one number to tune.
      iterations: Power iterations; 1 is the paper's.
      where: Units to keep, bool `[batch]`.
      weights: Weight of each unit, float `[batch]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[batch]` for `"none"`.

    Raises:
      TypeError: if `inputs` are not floating point or `iterations` is no Python int.
      ValueError: if `epsilon` is negative, `apply` does not return rows or something does not broadcast.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> apply = lambda x: x @ jnp.array([[2.0, 0.0], [0.0, 0.0]])
      >>> loss = virtual_adversarial(apply, jnp.zeros((1, 2)), jax.random.key(0), epsilon=0.5)
      >>> round(loss.item(), 4)  # both ways along the first input: log cosh(0.5)
      0.1201

    Reference:
      Miyato et al., *Virtual adversarial training: a regularization method for supervised and semi-supervised
      learning*, 2018.
    """
    _check.floating(inputs=inputs)
    _check.nonnegative(epsilon=epsilon)
    _check.count(iterations=iterations)
    inputs = jnp.asarray(inputs)
    wide = _numerics.wide_dtype(inputs.dtype)
    if where is not None:
        _check.boolean(where=where)
        _check.broadcasts_to(inputs.shape[:1], where=where)
        keep = jnp.broadcast_to(where, inputs.shape[:1]).reshape(-1, *[1] * (inputs.ndim - 1))
        inputs = jnp.where(keep, inputs, 0)

    def logits(moved: jax.Array) -> jax.Array:
        rows = apply(moved.astype(inputs.dtype))
        if rows.ndim != 2 or rows.shape[0] != inputs.shape[0]:
            raise ValueError(f"apply must return logits [{inputs.shape[0]}, classes], got {list(rows.shape)}")
        return rows.astype(wide)

    start = inputs.astype(wide)
    known = jax.lax.stop_gradient(logits(start))
    frozen = jax.lax.stop_gradient(start)

    def slope(step: jax.Array) -> jax.Array:
        return jax.grad(lambda r: jnp.sum(_divergence(known, logits(frozen + r))))(step)

    def iterate(_: Any, direction: jax.Array) -> jax.Array:
        return _unit(jax.jvp(slope, (jnp.zeros_like(frozen),), (direction,))[1])

    direction = _unit(jax.random.normal(key, inputs.shape, wide))
    direction = jax.lax.stop_gradient(jax.lax.fori_loop(0, iterations, iterate, direction))
    loss = _divergence(known, logits(start + jnp.asarray(epsilon).astype(wide) * direction))
    return reduce(loss, where, weights, reduction)
