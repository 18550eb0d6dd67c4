"""What a teacher's features say of the elements of a set, and a student's should: one unit per set."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _numerics
from lossax._angles import direction
from lossax._devices import largest, shared, total
from lossax._distilled import rescaled, tempered
from lossax._numerics import absolute, divide, sqrt
from lossax._pairs import squared_distances
from lossax._reduction import masked, reduce, unit_weights
from lossax._tile import by_rows, gathered, inner, over_sets
from lossax._types import Reduction
from lossax._vectors import cosine_gap


def _features(where: Any, features: Any, teacher_features: Any, weights: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Check and mask: features `[..., n, d]`, a teacher's `[..., n, e]`, which are fixed, and weights `[..., n]`."""
    _check.floating(features=features, teacher_features=teacher_features)
    own, other = _check.spec(features)[0], _check.spec(teacher_features)[0]
    if min(len(own), len(other)) < 2 or own[:-1] != other[:-1]:
        shapes = f"features{list(own)}, teacher_features{list(other)}"
        raise ValueError(f"expected [..., n, d] and [..., n, e], equal but for the last axis, got {shapes}")
    (features,), (teacher,) = masked(where, features, event=1), masked(where, teacher_features, event=1)
    kept = unit_weights(own[:-1], where, weights, dtype=features.dtype)
    nothing = (kept == 0)[..., None]
    features, teacher = (jnp.where(nothing, 0.0, x) for x in (features, teacher.astype(features.dtype)))
    return features, lax.stop_gradient(teacher), kept


def _of_each_set(f: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """`f` of each set, 0 for sets without anything."""
    kept = arrays[-1]
    if not all(x.size for x in arrays):
        return jnp.zeros(kept.shape[:-1], kept.dtype)
    return over_sets(f, kept.ndim - 1)(*arrays)


def _of_size_one(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Over about its largest entry, for what does not depend on the scale.

    Over a power of two: what is equal stays so, however a compiler divides.
    """
    size = largest(jnp.max(jnp.abs(x)), axis_name)
    quarter = jnp.where(size > 1.0, 0.25, 1.0).astype(size.dtype)  # 1 / power may vanish
    return divide(quarter * x, lax.reduce_precision(quarter * size, jnp.finfo(size.dtype).nexp, 0))


def _apart(x: jax.Array, y: jax.Array, delta: jax.Array) -> jax.Array:
    """Huber's function of the difference."""
    error = absolute(x - y)
    near = jnp.minimum(error, delta)
    return near * (error - 0.5 * near)


def _over_even(logits: jax.Array, exists: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Probabilities `[n, classes]` over an even one, less 1, with digits where all are about even; and that plus 1."""
    here = (exists > 0)[None, :]
    known = here & jnp.isfinite(logits)
    mean = jnp.sum(jnp.where(known, logits / number, 0.0), axis=-1, keepdims=True)
    apart = jnp.where(known, logits - mean, 0.0)
    flat = jnp.all((known == here) & (jnp.abs(apart) < 1.0), axis=-1, keepdims=True)
    apart = jnp.where(flat, apart, 0.0)
    more = jnp.sum(jnp.where(here, jnp.expm1(apart), 0.0), axis=-1, keepdims=True) / number
    near, far = jnp.expm1(apart - jnp.log1p(more)), number * _numerics.softmax_pair(logits)[0]
    return jnp.where(here, jnp.where(flat, near, far - 1.0), 0.0), jnp.where(
        here, jnp.where(flat, near + 1.0, far), 0.0
    )


def _varied(excess: jax.Array, share: jax.Array, weights: jax.Array) -> jax.Array:
    """Classes `[classes, n]` less their means over examples, each times the root of its weight."""
    even = jnp.max(jnp.abs(excess), axis=1, keepdims=True) < 0.5
    x = jnp.where(even, excess, share)  # what has more digits
    mean = divide(jnp.sum(weights[None, :] * x, axis=1, keepdims=True), jnp.sum(weights))
    return sqrt(weights)[None, :] * (x - mean)


def attention_transfer(
    features: jax.Array,
    teacher_features: jax.Array,
    *,
    power: ArrayLike = 2.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Where in an image a layer is active should be where a teacher's is, whatever the channels.

    .. math:: \frac{1}{n} \sum_i \left(\frac{a_i}{\lVert a \rVert_2} - \frac{a'_i}{\lVert a' \rVert_2}\right)^2, \qquad
        a_i = \sum_c |x_{ic}|^p

    A set is an image, its elements are the places: reshape `[..., h, w, channels]` to `[..., h * w, channels]`, with
    the teacher's map resized to the student's. Take the sum over some layers, times about 1000, beside the loss of the
    labels. It is that of the authors' code; their paper has the norm of the difference, the root of n times this. A map
    that is 0 stays so. The teacher gives no gradient.

    Args:
      features: Activations x of the student, float `[..., n, channels]`.
      teacher_features: Those of the teacher x', float `[..., n, channels]`, of any number of channels.
      power: Exponent p, 1 or more; the larger, the more the strongest channels count.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes differ but for channels or `power` is below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> student, teacher = jnp.array([[1.0], [0.0]]), jnp.array([[0.0, 0.0], [2.0, 1.0]])  # places apart
      >>> attention_transfer(student, teacher).item()  # (1 + 1) / 2
      1.0

    Reference:
      Zagoruyko and Komodakis, *Paying more attention to attention: improving the performance of convolutional neural
      networks via attention transfer*, 2017.
    """
    _check.at_least(1.0, power=power)
    features, teacher_features, kept = _features(where, features, teacher_features, weights)
    _, power = masked(None, features, power)

    def of_set(x, y, weights):
        root = sqrt(weights)

        def attention(x):
            return direction(root * jnp.sum(_numerics.power(absolute(_of_size_one(x, None)), power), axis=-1))

        return divide(jnp.sum(jnp.square(attention(x) - attention(y))), jnp.sum(weights))

    values = _of_each_set(of_set, features, teacher_features, kept)
    return reduce(values, jnp.sum(kept, axis=-1) > 0, None, reduction)


def relational_distance(
    features: jax.Array,
    teacher_features: jax.Array,
    *,
    delta: ArrayLike = 1.0,
    tile: int | None = None,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""How far examples are from each other should be as a teacher has it: the distances of RKD.

    .. math:: \frac{1}{n^2} \sum_{ij} h_\delta\!\left(\frac{\lVert x_i - x_j \rVert}{\mu}
        - \frac{\lVert x'_i - x'_j \rVert}{\mu'}\right), \qquad h_\delta \text{ Huber's function}

    with the mean distance mu of different points. For embeddings, whose dimensions need not agree, and scale does not
    matter; beside `relational_angle`, which knows more: the authors add 25 of this and 50 of that for classifiers, 1
    and 2 for embeddings. As in their code it is the mean over all pairs, an example with itself among them; the paper
    has the sum. Distances come from differences, in blocks, so that those of near points have their digits (the
    authors' come from products). The teacher gives no gradient.

    Args:
      features: Embeddings x of the student, float `[..., n, d]`.
      teacher_features: Those of the teacher x', float `[..., n, e]`.
      delta: Difference at which Huber's function turns linear, positive.
      tile: Rows of the matrix held at once; by size if None.
      axis_name: Mesh axis over which the elements are spread, inside `jax.shard_map`: the set is that of all devices.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes differ but for the last axis or `delta` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> student, teacher = jnp.array([[0.0], [3.0], [6.0]]), jnp.array([[0.0], [1.0], [5.0]])
      >>> # Distances 3, 3, 6 over their mean 4, and 1, 4, 5 over 10 / 3: apart by 0.45, 0.45 and 0.
      >>> round(relational_distance(student, teacher).item(), 4)  # 4 * 0.45^2 / 2 / 9
      0.045

    Reference:
      Park et al., *Relational knowledge distillation*, 2019.
    """
    _check.positive(delta=delta)
    features, teacher_features, kept = _features(where, features, teacher_features, weights)
    _, delta = masked(None, features, delta)

    def of_set(x, y, weights):
        weight = total(jnp.sum(weights), axis_name)
        rows = (_of_size_one(x, axis_name), _of_size_one(y, axis_name), weights)
        everyone = tuple(gathered(z, axis_name) for z in rows)
        how = {"width": 4 * len(everyone[2]), "tile": tile}

        def distances(rows, columns):
            return [sqrt(squared_distances(z, everyone)) for z, everyone in zip(rows[:2], columns[:2], strict=True)]

        def sums(rows, columns):
            pairs = rows[2][:, None] * columns[2][None, :]
            found = distances(rows, columns)
            return (), [(jnp.sum(pairs * d), jnp.sum(jnp.where(d > 0, pairs, 0.0))) for d in found]

        found = jax.tree.map(lambda z: total(z, axis_name), by_rows(sums, rows, everyone, **how)[1])
        means = [divide(distance, number) for distance, number in found]

        def block(rows, common):
            columns, means, delta = common
            own, other = (divide(d, mean) for d, mean in zip(distances(rows, columns), means, strict=True))
            return (), jnp.sum(rows[2][:, None] * columns[2][None, :] * _apart(own, other, delta))

        _, found = by_rows(block, rows, (everyone, means, delta), **how)
        return divide(total(found, axis_name), weight * weight)

    values = _of_each_set(of_set, features, teacher_features, kept)
    return reduce(values, total(jnp.sum(kept, axis=-1), axis_name) > 0, None, reduction)


def relational_angle(
    features: jax.Array,
    teacher_features: jax.Array,
    *,
    delta: ArrayLike = 1.0,
    tile: int | None = None,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""The angles that three examples make should be as a teacher has them: the angles of RKD.

    .. math:: \frac{1}{n^3} \sum_{ijk}
        h_\delta\big(\langle e_{ij}, e_{kj} \rangle - \langle e'_{ij}, e'_{kj} \rangle\big), \qquad
        e_{ij} = \frac{x_i - x_j}{\lVert x_i - x_j \rVert}, \quad h_\delta \text{ Huber's function}

    For embeddings, beside `relational_distance`, which see. All n^3 angles are looked at, n^2 at each of some corners
    at a time, which is all that is held: for batches of hundreds. As in the authors' code it is the mean over all
    threes, those of the same example among them; the paper has the sum. The teacher gives no gradient.

    Args:
      features: Embeddings x of the student, float `[..., n, d]`.
      teacher_features: Those of the teacher x', float `[..., n, e]`.
      delta: Difference at which Huber's function turns linear, positive.
      tile: Corners whose angles are held at once; by size if None.
      axis_name: Mesh axis over which the elements are spread, inside `jax.shard_map`: the set is that of all devices.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes differ but for the last axis or `delta` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> student = jnp.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])  # cosines 1, -1 and 1
      >>> teacher = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])  # cosines sqrt(1/2), 0 and sqrt(1/2)
      >>> round(relational_angle(student, teacher).item(), 4)  # 2 (1 - sqrt(1/2))^2 / 27 + 1 / 27
      0.0434

    Reference:
      Park et al., *Relational knowledge distillation*, 2019.
    """
    _check.positive(delta=delta)
    features, teacher_features, kept = _features(where, features, teacher_features, weights)
    _, delta = masked(None, features, delta)

    def of_set(x, y, weights):
        weight = total(jnp.sum(weights), axis_name)
        rows = (_of_size_one(x, axis_name), _of_size_one(y, axis_name), weights)
        everyone = tuple(gathered(z, axis_name) for z in rows)

        def angles(corners, points):
            sides = direction(points[None, :, :] - corners[:, None, :])
            return jnp.einsum("jid,jkd->jik", sides, sides, precision=lax.Precision.HIGHEST)

        def block(corners, common):
            (x, y, weights), delta = common
            apart = _apart(angles(corners[0], x), angles(corners[1], y), delta)
            at_each = jnp.sum(weights[None, :] * jnp.sum(weights[None, None, :] * apart, axis=-1), axis=-1)
            return (), jnp.sum(corners[2] * at_each)

        n = len(everyone[2])
        width = n * (2 * n + x.shape[1] + y.shape[1])
        _, found = by_rows(block, rows, (everyone, delta), width=width, tile=tile)
        return divide(total(found, axis_name), weight * weight * weight)

    values = _of_each_set(of_set, features, teacher_features, kept)
    return reduce(values, total(jnp.sum(kept, axis=-1), axis_name) > 0, None, reduction)


def similarity_preserving(
    features: jax.Array,
    teacher_features: jax.Array,
    *,
    tile: int | None = None,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Examples that excite a teacher in the same way should excite a student in the same way.

    .. math:: \frac{1}{n^2} \sum_i \left\lVert \frac{G_i}{\lVert G_i \rVert_2}
        - \frac{G'_i}{\lVert G'_i \rVert_2} \right\rVert_2^2, \qquad G = X X^\top, \quad G' = X' X'^\top

    For activations as long rows, one for each example of a batch: reshape `[n, h, w, channels]` to `[n, -1]`. Unlike
    `relational_distance` it sees lengths and where 0 is; the authors' weight is 3000. `cka` compares the same matrices
    as a whole, centred. The matrices are made in blocks of rows. The teacher gives no gradient.

    Args:
      features: Activations X of the student, float `[..., n, d]`.
      teacher_features: Those of the teacher X', float `[..., n, e]`.
      tile: Rows of the matrix held at once; by size if None.
      axis_name: Mesh axis over which the elements are spread, inside `jax.shard_map`: the set is that of all devices.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes differ but for the last axis.

    Example:
      >>> import jax.numpy as jnp
      >>> student, teacher = jnp.eye(2), jnp.ones((2, 1))  # nothing in common, or all
      >>> round(similarity_preserving(student, teacher).item(), 4)  # 2 (2 - sqrt(2)) / 4
      0.2929

    Reference:
      Tung and Mori, *Similarity-preserving knowledge distillation*, 2019.
    """
    features, teacher_features, kept = _features(where, features, teacher_features, weights)

    def of_set(x, y, weights):
        weight = total(jnp.sum(weights), axis_name)
        rows = (_of_size_one(x, axis_name), _of_size_one(y, axis_name), weights)
        everyone = tuple(gathered(z, axis_name) for z in rows)

        def block(rows, columns):
            root = sqrt(columns[2])[None, :]
            own, other = (
                direction(root * inner(z, w, lax.Precision.HIGHEST)) for z, w in zip(rows[:2], columns[:2], strict=True)
            )
            return (), jnp.sum(rows[2] * jnp.sum(jnp.square(own - other), axis=-1))

        _, found = by_rows(block, rows, everyone, width=4 * len(everyone[2]), tile=tile)
        return divide(total(found, axis_name), weight * weight)

    values = _of_each_set(of_set, features, teacher_features, kept)
    return reduce(values, total(jnp.sum(kept, axis=-1), axis_name) > 0, None, reduction)


def correlation_distillation(
    logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    inter: ArrayLike = 1.0,
    intra: ArrayLike = 1.0,
    temperature: ArrayLike = 1.0,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Probabilities should go up and down with a teacher's, along classes and along examples: DIST.

    .. math:: T^2 \Big(\frac{\beta}{n} \sum_i \big(1 - \rho(s_{i \cdot}, t_{i \cdot})\big)
        + \frac{\gamma}{K} \sum_j \big(1 - \rho(s_{\cdot j}, t_{\cdot j})\big)\Big), \qquad
        t = \mathrm{softmax}(z' / T), \quad s = \mathrm{softmax}(z / T)

    with Pearson's correlation rho. For teachers so much stronger that a student cannot match their numbers, as
    `distillation` asks: only how they vary counts. The authors take beta and gamma of 1 with T of 1 on ImageNet, of 2
    with T of 4 on CIFAR-100, beside the loss of the labels. What does not vary is correlated with nothing. The teacher
    gives no gradient.

    Args:
      logits: Unnormalised log-probabilities z of the student, float `[..., n, classes]`; -inf has no probability, and
        one for all the set is a class that does not exist.
      teacher_logits: Those of the teacher z', float `[..., n, classes]`.
      inter: Weight beta of the correlations along classes, nonnegative.
      intra: Weight gamma of the correlations along examples, nonnegative.
      temperature: What the logits of both are divided by, positive.
      axis_name: Mesh axis over which the elements are spread, inside `jax.shard_map`: the set is that of all devices.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes differ or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> student, teacher = jnp.log(jnp.array([[0.6, 0.4], [0.2, 0.8]])), jnp.log(jnp.array([[0.9, 0.1], [0.7, 0.3]]))
      >>> loss = correlation_distillation(student, teacher)
      >>> round(loss.item(), 4)  # along classes 1 and -1, along examples 1 and 1
      1.0

    Reference:
      Huang et al., *Knowledge distillation from a stronger teacher*, 2022.
    """
    _check.floating(logits=logits, teacher_logits=teacher_logits)
    _check.same_shape(logits=logits, teacher_logits=teacher_logits)
    _check.units_of({"logits": logits}, axes=2)
    _check.nonnegative(inter=inter, intra=intra)
    _check.positive(temperature=temperature)
    logits, teacher_logits = masked(where, logits, teacher_logits, event=1)
    kept = unit_weights(logits.shape[:-1], where, weights, dtype=logits.dtype)
    logits, teacher_logits = (jnp.where((kept == 0)[..., None], 0.0, x) for x in (logits, teacher_logits))
    _, inter, intra, temperature = masked(None, logits, inter, intra, temperature)
    teacher_logits = lax.stop_gradient(teacher_logits)

    def of_set(z, other, weights):
        there = (weights > 0)[:, None] & ~(jnp.isneginf(z) & jnp.isneginf(other))
        exists = largest(jnp.any(there, axis=0).astype(z.dtype), axis_name)
        number = jnp.maximum(jnp.sum(exists), 1.0)
        rows = [_over_even(tempered(x, temperature), exists, number) for x in (z, other)]
        weight = total(jnp.sum(weights), axis_name)
        gaps = cosine_gap(*(excess for excess, _ in rows))
        along_classes = divide(total(jnp.sum(weights * gaps), axis_name), weight)
        everyone = jax.tree.map(lambda x: gathered(x, axis_name), (rows, weights))
        columns = [_varied(excess.T, share.T, everyone[1]) for excess, share in everyone[0]]
        along_examples = shared(jnp.sum(exists * cosine_gap(*columns)) / number, axis_name)
        return rescaled(inter * along_classes + intra * along_examples, temperature)

    values = _of_each_set(of_set, logits, teacher_logits, kept)
    return reduce(values, total(jnp.sum(kept, axis=-1), axis_name) > 0, None, reduction)
