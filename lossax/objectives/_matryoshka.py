"""Embeddings of which the first numbers are embeddings too."""

import functools
import inspect
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check

_EMBEDDINGS = ("anchors", "positives", "negatives", "others", "embeddings")


def _names(loss: Callable[..., jax.Array], names: Sequence[str] | None) -> tuple[inspect.Signature, tuple[str, ...]]:
    """The signature of the loss, and which of its arguments are cut."""
    signature = inspect.signature(loss)
    if names is None:
        found = tuple(name for name in _EMBEDDINGS if name in signature.parameters)
        if not found:
            raise ValueError(f"arguments must be given: {loss!r} has none of {list(_EMBEDDINGS)}")
        return signature, found
    if isinstance(names, str) or not names:
        raise ValueError(f"arguments must be names, at least one, got {names!r}")
    for name in names:
        _check.choice(signature.parameters, arguments=name)
    return signature, tuple(names)


def matryoshka(
    loss: Callable[..., jax.Array],
    dimensions: Sequence[int],
    *,
    dimension_weights: ArrayLike | None = None,
    arguments: Sequence[str] | None = None,
) -> Callable[..., jax.Array]:
    r"""Any loss of embeddings, of their first numbers too, so that they can be cut short where memory counts.

    .. math:: \sum_k w_k\,\ell(x_{1..d_k}, \dots)

    For retrieval: a coarse search with the first 64 numbers, a fine one with all. The paper halves the size each time
    and begins with that of the embeddings; sizes between those given come by themselves. Losses of cosines
    (`info_nce`, `supervised_contrastive`) bring what is cut back to length 1; losses of distances see it as it is,
    unless `loss` normalises it. Classifiers with a head for each size are a `weighted_sum`.

    What is cut are the arguments named `anchors`, `positives`, `negatives`, `others` and `embeddings`, as far as the
    loss has them and they are given; all others (labels, targets, masks, temperatures) go on as they are. For a loss
    whose embeddings have other names say so:
    `matryoshka(cosine_distance, sizes, arguments=("predictions", "targets"))`.

    Args:
      loss: Function of embeddings `[..., d]` and whatever else, as `losses.info_nce`; a `functools.partial` will do.
      dimensions: How many of the first numbers are taken, increasing Python ints.
      dimension_weights: Weight of each of them, real `[sizes]`; `None` is 1.
      arguments: Names of the arguments of `loss` that are cut; `None` is those above.

    Returns:
      A function of the arguments of `loss` that returns its values, weighted and summed.

    Raises:
      TypeError: if a dimension is no Python int or `dimension_weights` are not real.
      ValueError: if dimensions do not increase, `dimension_weights` are not one for each, `loss` has no argument of a
        name; in the returned function, if an argument has fewer numbers than the largest dimension.

    Example:
      >>> import jax.numpy as jnp
      >>> from lossax.losses import alignment
      >>> loss = matryoshka(alignment, (1, 2), dimension_weights=jnp.array([1.0, 0.5]))
      >>> loss(jnp.array([3.0, 0.0]), jnp.array([0.0, 4.0])).item()  # 3^2 + (3^2 + 4^2) / 2
      21.5

    Reference:
      Kusupati et al., *Matryoshka representation learning*, 2022.
    """
    sizes = tuple(dimensions)
    for i, size in enumerate(sizes):
        _check.count(**{f"dimensions[{i}]": size})
    _check.increasing(1, dimensions=sizes)
    if dimension_weights is not None:
        _check.real(dimension_weights=dimension_weights)
        if _check.spec(dimension_weights)[0] != (len(sizes),):
            shape = list(_check.spec(dimension_weights)[0])
            raise ValueError(f"dimension_weights must be [{len(sizes)}], one for each dimension, got {shape}")
    signature, names = _names(loss, arguments)

    @functools.wraps(loss)
    def of_all(*args, **options) -> jax.Array:
        given = signature.bind(*args, **options)
        whole = {name: jnp.asarray(x) for name in names if (x := given.arguments.get(name)) is not None}
        for name, array in whole.items():
            if array.ndim == 0 or array.shape[-1] < sizes[-1]:
                raise ValueError(
                    f"{name} must have at least {sizes[-1]} numbers in the last axis, got {list(array.shape)}"
                )
        if not whole:
            raise ValueError(f"none of the arguments {list(names)} is given")
        total = None
        for i, size in enumerate(sizes):
            given.arguments.update({name: array[..., :size] for name, array in whole.items()})
            value = loss(*given.args, **given.kwargs)
            if dimension_weights is not None:
                value = jnp.asarray(dimension_weights)[i].astype(value.dtype) * value
            total = value if total is None else total + value
        assert total is not None
        return total

    return of_all
