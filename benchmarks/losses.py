"""Value and gradient of each loss, jitted, under the mean, beside Optax and torch."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.measure import Case, torch_step
from lossax import losses

ELEMENTS = 2**22
ROWS, CLASSES = 1024, 8192


def mean(peer):
    return lambda *arrays: jnp.mean(peer(*arrays))


def regression(name, ours, peer=None, torch_name=None, torch_options=None, *, positive=False, fractions=False):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, ELEMENTS)).astype(np.float32)
    if positive:
        a, b = np.exp(a), np.exp(b)
    if fractions:
        b = rng.random(ELEMENTS, np.float32)
    torch = None
    if torch_name:

        def make(torch):
            leaf, target = torch.tensor(a, requires_grad=True), torch.tensor(b)
            function = getattr(torch.nn.functional, torch_name)
            return lambda: function(leaf, target, **(torch_options or {})), leaf

        torch = torch_step(make)
    return Case(
        f"{name}, {ELEMENTS} elements",
        lambda: (jnp.asarray(a), jnp.asarray(b)),
        jax.value_and_grad(ours),
        None if peer is None else jax.value_and_grad(mean(peer)),
        torch=torch,
    )


def rows(name, ours, peer, torch_name=None, *, labels=True, dtype="float32"):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(ROWS, CLASSES)).astype(np.float32)
    second = rng.integers(0, CLASSES, ROWS) if labels else np.asarray(jax.nn.softmax(logits[::-1]))
    torch = None
    if torch_name and dtype == "float32":

        def make(torch):
            leaf, target = torch.tensor(logits, requires_grad=True), torch.tensor(second)
            return lambda: getattr(torch.nn.functional, torch_name)(leaf, target), leaf

        torch = torch_step(make)
    return Case(
        f"{name}, {ROWS} x {CLASSES} {dtype}",
        lambda: (jnp.asarray(logits, dtype), jnp.asarray(second)),
        jax.value_and_grad(ours),
        None if peer is None else jax.value_and_grad(mean(peer)),
        torch=torch,
    )


def cases() -> Iterator[Case]:
    yield regression("squared_error", losses.squared_error, optax.losses.squared_error, "mse_loss")
    yield regression("absolute_error", losses.absolute_error, None, "l1_loss")
    yield regression("huber", losses.huber, optax.losses.huber_loss, "huber_loss")
    yield regression("smooth_l1", losses.smooth_l1, None, "smooth_l1_loss")
    yield regression("log_cosh", losses.log_cosh, optax.losses.log_cosh)
    yield regression(
        "poisson_nll_with_log_rates", losses.poisson_nll_with_log_rates, None, "poisson_nll_loss", positive=True
    )
    sigmoid = losses.sigmoid_binary_cross_entropy
    bce = "binary_cross_entropy_with_logits"
    yield regression(
        "sigmoid_binary_cross_entropy", sigmoid, optax.losses.sigmoid_binary_cross_entropy, bce, fractions=True
    )
    yield regression("sigmoid_focal", losses.sigmoid_focal, optax.losses.sigmoid_focal_loss, fractions=True)
    integer = losses.softmax_cross_entropy_with_integer_labels
    peer = optax.losses.softmax_cross_entropy_with_integer_labels
    yield rows("softmax_cross_entropy_with_integer_labels", integer, peer, "cross_entropy")
    yield rows("softmax_cross_entropy_with_integer_labels", integer, peer, dtype="bfloat16")
    soft = losses.softmax_cross_entropy
    yield rows("softmax_cross_entropy", soft, optax.losses.softmax_cross_entropy, "cross_entropy", labels=False)
    yield rows("multiclass_hinge", losses.multiclass_hinge, jax.vmap(optax.losses.multiclass_hinge_loss))
