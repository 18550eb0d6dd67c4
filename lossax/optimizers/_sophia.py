"""Sophia."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lossax import _check, _hyper, _keys, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class SophiaState(NamedTuple):
    """Number of updates, averages of the gradient and of the curvature, the first one's mass, and the key's data."""

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array
    key: jax.Array


def _derivative(f: Callable[[PyTree], jax.Array], params: PyTree, along: Callable[..., PyTree]) -> PyTree:
    """What `along(f, numbers)` makes of the numbers among the leaves, in the structure of `params`, else `None`."""
    leaves, structure = jax.tree.flatten(params, is_leaf=lambda x: x is None)
    numbers = {i: jnp.asarray(p, _tree.dtype_of(p)) for i, p in enumerate(leaves) if _tree.is_number(p)}

    def on_numbers(numbers):
        return f(structure.unflatten([numbers.get(i, leaf) for i, leaf in enumerate(leaves)]))

    found = along(on_numbers, numbers)
    return structure.unflatten([found.get(i) for i in range(len(leaves))])


def _hutchinson(objective: Callable[..., jax.Array], params: PyTree, key: jax.Array) -> PyTree:
    """Signs u, drawn at random, times H u: the mean over u is the diagonal of the Hessian H."""

    def along(f, numbers):
        keys = jax.random.split(key, max(len(numbers), 1))
        # Multiplied by ones like the parameter, the signs have its sharding.
        signs = {
            i: jnp.ones_like(p) * jax.random.rademacher(k, p.shape, p.dtype)
            for k, (i, p) in zip(keys, numbers.items(), strict=False)
        }
        products = jax.jvp(jax.grad(f), (numbers,), (signs,))[1]
        return {i: _tree.widen(signs[i]) * _tree.widen(products[i]) for i in signs}

    return _derivative(objective, params, along)


def _gauss_newton_bartlett(objective: Callable[..., jax.Array], params: PyTree, key: jax.Array) -> PyTree:
    """The squared gradient of a mean loss at labels drawn from the model."""

    def along(f, numbers):
        return {i: _tree.square(_tree.widen(g)) for i, g in jax.grad(f)(numbers).items()}

    return _derivative(lambda params: objective(params, key), params, along)


def scale_by_sophia(
    *,
    b1: Hyperparameter = 0.965,
    b2: Hyperparameter = 0.99,
    gamma: Hyperparameter = 0.01,
    eps: Hyperparameter = 1e-8,
    clip_threshold: Hyperparameter = 1.0,
    every: Hyperparameter = 10,
    estimator: Literal["hutchinson", "gauss_newton_bartlett"] = "hutchinson",
    batch_size: Hyperparameter | None = None,
    debias: bool = False,
    key: ArrayLike | None = None,
    mu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Direction of `sophia`, unscaled and ascending.

    .. math:: d = \mathrm{clip}\big(m / \max(\gamma h, \epsilon),\, -\rho,\, \rho\big)

    Args:
      b1: Share of the past that the average gradient keeps, in [0, 1).
      b2: Share of the past that the average curvature keeps at each refresh, in [0, 1).
      gamma: Factor on the curvature, positive: larger means that fewer coordinates are clipped.
      eps: Least curvature, positive.
      clip_threshold: Largest size of a coordinate, positive; infinity is none.
      every: Steps from one refresh of the curvature to the next, rounded to a whole number of at least 1.
      estimator: `"hutchinson"` (`update` needs `obj_fn`) or `"gauss_newton_bartlett"` (`sampled_loss_fn`).
      batch_size: Number of labels that the sampled loss is a mean over, positive; for the second estimator only.
      debias: Whether the average gradient is divided by its mass.
      key: Of the random draws: a seed, a typed or a raw key; `None` is the seed 0.
      mu_dtype: Dtype of the average gradient; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `SophiaState`, whose `update` takes the extra argument of its estimator.

    Raises:
      TypeError: if parameters are complex.
      ValueError: if an argument known now is out of range or missing, or `update` gets no `params` or no function.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_sophia(b1=0.5, b2=0.5, gamma=1.0)
      >>> params = jnp.array([2.0, 2.0])
      >>> objective = lambda w: jnp.sum(jnp.array([4.0, 0.5]) * w**2)
      >>> updates, _ = tx.update(jnp.array([3.0, 3.0]), tx.init(params), params, obj_fn=objective)
      >>> updates.tolist()
      [0.375, 1.0]

    Reference:
      Liu, Li, Hall, Liang and Ma, *Sophia: a scalable stochastic second-order optimizer for language model
      pre-training*, 2023.
    """
    _check.decay(b1=b1, b2=b2)
    _check.positive(gamma=gamma, eps=eps, clip_threshold=clip_threshold, every=every)
    _check.choice(("hutchinson", "gauss_newton_bartlett"), estimator=estimator)
    if estimator == "hutchinson":
        estimate, needed = _hutchinson, "obj_fn"
    else:
        estimate, needed = _gauss_newton_bartlett, "sampled_loss_fn"
        if batch_size is None:
            raise ValueError("estimator='gauss_newton_bartlett' needs batch_size")
        _check.positive(batch_size=batch_size)

    def init(params: PyTree) -> SophiaState:
        for number in _tree.numbers(params):
            if jnp.iscomplexobj(number):
                raise TypeError(f"sophia clips each coordinate and needs real parameters, got {number.dtype}: complex")
        return SophiaState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            nu=_tree.zeros_like(params),
            mu_mass=jnp.zeros((), _hyper.default_float()),
            key=_keys.data(0 if key is None else key),
        )

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        obj_fn: Callable[[PyTree], jax.Array] | None = None,
        sampled_loss_fn: Callable[[PyTree, jax.Array], jax.Array] | None = None,
        **others: Any,
    ):
        del others
        _tree.require_params(params, "curvature is measured at them")
        objective = obj_fn if estimator == "hutchinson" else sampled_loss_fn
        if objective is None:
            raise ValueError(f"update(updates, state, params, {needed}=...) needs {needed} for estimator={estimator!r}")

        def refresh(nu, data):
            fresh, draw = _keys.split(data, 0 if key is None else key)
            curvature = estimate(objective, params, draw)
            if batch_size is not None and estimator == "gauss_newton_bartlett":
                size = _hyper.at(state.step, batch_size)
                curvature = _tree.map(lambda h, size: size * h, curvature, scalars=(size,))
            return _tree.moment(curvature, nu, _hyper.at(state.step, b2)), fresh

        due = state.step % _hyper.period(state.step, every) == 0
        nu, data = jax.lax.cond(due, refresh, lambda nu, data: (nu, data), state.nu, state.key)

        decay = _hyper.at(state.step, b1)
        mu = _tree.moment(updates, jax.tree.map(_tree.widen, state.mu), decay)
        mu_mass = _tree.mass(state.mu_mass, decay)

        def direction(_, m, h, mass, gamma, eps, bound):
            return jnp.clip((m / mass if debias else m) / jnp.maximum(gamma * h, eps), -bound, bound)

        scalars = (mu_mass, *(_hyper.at(state.step, value) for value in (gamma, eps, clip_threshold)))
        directions = _tree.cast_like(_tree.map(direction, updates, mu, nu, scalars=scalars), updates)
        return directions, SophiaState(_tree.increment(state.step), _tree.cast_like(mu, state.mu), nu, mu_mass, data)

    return optax.GradientTransformationExtraArgs(init, update)


def sophia(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.965,
    b2: Hyperparameter = 0.99,
    gamma: Hyperparameter = 0.01,
    eps: Hyperparameter = 1e-8,
    clip_threshold: Hyperparameter = 1.0,
    every: Hyperparameter = 10,
    estimator: Literal["hutchinson", "gauss_newton_bartlett"] = "hutchinson",
    batch_size: Hyperparameter | None = None,
    debias: bool = False,
    key: ArrayLike | None = None,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 1e-4,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum divided by curvature, clipped: long steps where the loss is flat, never longer than the clip.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
      h \leftarrow \beta_2 h + (1 - \beta_2) \hat h \;\text{every}\; k \;\text{steps}, \quad
      \Delta = -\eta\,\big(\mathrm{clip}(m / \max(\gamma h, \epsilon), -\rho, \rho) + \lambda w\big)

    where the curvature is Hutchinson's :math:`\hat h = u \odot \nabla^2 L\, u` for random signs :math:`u`, or
    Gauss-Newton-Bartlett's :math:`\hat h = B\, \hat g \odot \hat g` for the gradient :math:`\hat g` of the mean loss
    over :math:`B` labels drawn from the model.

    For language models, at a rate a little below that of `adamw`, which is the simpler choice elsewhere. `update` takes
    one more argument, with the batch inside:

    - Hutchinson's, for any loss: `obj_fn`, a function of `params` that returns the loss, differentiated twice.
    - Gauss-Newton-Bartlett's, for classification: `sampled_loss_fn`, a function of `params` and a key that draws labels
      from the model's own logits and returns the mean cross-entropy at them. Never negative, and differentiated once.

    Both get the parameters as `update` did, functions among the leaves included. The refresh is under `lax.cond`, so
    the other steps cost what momentum costs; only where the state itself is batched (`vmap` over states) do both run.
    Tune `gamma` until 10 to 50 % of the coordinates are not clipped.

    As in the paper a step uses the curvature of its own parameters, and :math:`m` is not debiased. Optax uses that of
    the step before (the first step has none), has `debias=True`, and has no second estimator.

    Args:
      learning_rate: Size of a clipped step, nonnegative.
      b1: Share of the past that the average gradient keeps, in [0, 1).
      b2: Share of the past that the average curvature keeps at each refresh, in [0, 1).
      gamma: Factor on the curvature, positive: larger means that fewer coordinates are clipped.
      eps: Least curvature, positive.
      clip_threshold: Largest size of a coordinate, positive; infinity is none.
      every: Steps from one refresh of the curvature to the next, rounded to a whole number of at least 1.
      estimator: `"hutchinson"` (`update` needs `obj_fn`) or `"gauss_newton_bartlett"` (`sampled_loss_fn`).
      batch_size: Number of labels that the sampled loss is a mean over, positive; for the second estimator only.
      debias: Whether the average gradient is divided by its mass.
      key: Of the random draws: a seed, a typed or a raw key; `None` is the seed 0.
      mu_dtype: Dtype of the average gradient; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer; `update` needs `params` and the extra argument of its estimator.

    Raises:
      TypeError: if parameters are complex.
      ValueError: if an argument known now is out of range or missing, or `update` gets no `params` or no function.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = sophia(0.5, b1=0.5, b2=0.5, gamma=1.0, weight_decay=0.0)
      >>> params = jnp.array([2.0, 2.0])
      >>> objective = lambda w: jnp.sum(jnp.array([4.0, 0.5]) * w**2)
      >>> updates, _ = tx.update(jnp.array([3.0, 3.0]), tx.init(params), params, obj_fn=objective)
      >>> updates.tolist()
      [-0.1875, -0.5]

    Reference:
      Liu, Li, Hall, Liang and Ma, *Sophia: a scalable stochastic second-order optimizer for language model
      pre-training*, 2023.
    """
    direction = scale_by_sophia(
        b1=b1,
        b2=b2,
        gamma=gamma,
        eps=eps,
        clip_threshold=clip_threshold,
        every=every,
        estimator=estimator,
        batch_size=batch_size,
        debias=debias,
        key=key,
        mu_dtype=mu_dtype,
    )
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
