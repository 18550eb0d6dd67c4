"""One step of every optimizer that Optax also has: same parameters, same gradients, state donated."""

import functools
import importlib.util
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import optax

import lossax
from benchmarks.measure import Case

SHAPES = {"6 x 2048x2048": (6, 2048, 2048), "200 x 256x256": (200, 256, 256), "1000 x 64x64": (1000, 64, 64)}
PEERS = {
    "sgd": (lambda: lossax.optimizers.sgd(1e-3), lambda: optax.sgd(1e-3)),
    "sgd with momentum": (
        lambda: lossax.optimizers.sgd(1e-3, momentum=0.9, nesterov=True),
        lambda: optax.sgd(1e-3, momentum=0.9, nesterov=True),
    ),
    "rmsprop": (lambda: lossax.optimizers.rmsprop(1e-3), lambda: optax.rmsprop(1e-3)),
    "adagrad": (lambda: lossax.optimizers.adagrad(1e-3), lambda: optax.adagrad(1e-3)),
    "adam": (lambda: lossax.optimizers.adam(1e-3), lambda: optax.adam(1e-3)),
    "adamw": (lambda: lossax.optimizers.adamw(1e-3), lambda: optax.adamw(1e-3)),
    "nadam": (lambda: lossax.optimizers.nadam(1e-3), lambda: optax.nadam(1e-3)),
    "lion": (lambda: lossax.optimizers.lion(1e-3), lambda: optax.lion(1e-3)),
    "adafactor": (lambda: lossax.optimizers.adafactor(1e-3), lambda: optax.adafactor(1e-3)),
    "amsgrad": (lambda: lossax.optimizers.amsgrad(1e-3), lambda: optax.amsgrad(1e-3)),
    "adamax": (lambda: lossax.optimizers.adamax(1e-3), lambda: optax.adamax(1e-3)),
    "radam": (lambda: lossax.optimizers.radam(1e-3), lambda: optax.radam(1e-3)),
    "adabelief": (lambda: lossax.optimizers.adabelief(1e-3), lambda: optax.adabelief(1e-3)),
    "yogi": (lambda: lossax.optimizers.yogi(1e-3), lambda: optax.yogi(1e-3)),
    "adan": (lambda: lossax.optimizers.adan(1e-3), lambda: optax.adan(1e-3)),
    "adopt": (lambda: lossax.optimizers.adopt(1e-3), lambda: optax.contrib.adopt(1e-3)),
    "ademamix": (lambda: lossax.optimizers.ademamix(1e-3), lambda: optax.contrib.ademamix(1e-3)),
    "lamb": (lambda: lossax.optimizers.lamb(1e-3), lambda: optax.lamb(1e-3)),
    "lars": (lambda: lossax.optimizers.lars(1e-3), lambda: optax.lars(1e-3)),
    "adadelta": (lambda: lossax.optimizers.adadelta(1e-3), lambda: optax.adadelta(1e-3)),
    "rprop": (lambda: lossax.optimizers.rprop(1e-3), lambda: optax.rprop(1e-3)),
    "signum": (lambda: lossax.optimizers.signum(1e-3), lambda: optax.signum(1e-3)),
    "sign_sgd": (lambda: lossax.optimizers.sign_sgd(1e-3), lambda: optax.sign_sgd(1e-3)),
    "prodigy": (lambda: lossax.optimizers.prodigy(), lambda: optax.contrib.prodigy()),
    "dadapt_adamw": (lambda: lossax.optimizers.dadapt_adamw(), lambda: optax.contrib.dadapt_adamw()),
    "dog": (lambda: lossax.optimizers.dog(), lambda: optax.contrib.dog(1.0)),
    "dowg": (lambda: lossax.optimizers.dowg(), lambda: optax.contrib.dowg(1.0)),
}


def step(tx):
    def update(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return update


def arguments(tx, count, rows, columns):
    def make():
        keys = jax.random.split(jax.random.key(0), 2 * count)
        params = [jax.random.normal(k, (rows, columns)) for k in keys[:count]]
        gradients = [jax.random.normal(k, (rows, columns)) for k in keys[count:]]
        return params, jax.tree.map(jnp.copy, tx.init(params)), gradients

    return make


def torch_adamw(count, rows, columns) -> Callable[[], None] | None:
    """A step of torch's fused AdamW, or nothing where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None

    @functools.cache
    def made():
        import torch

        leaves = [torch.nn.Parameter(torch.randn(rows, columns)) for _ in range(count)]
        for leaf in leaves:
            leaf.grad = torch.randn(rows, columns)
        return torch.optim.AdamW(leaves, lr=1e-3, weight_decay=1e-4, fused=True)

    return lambda: made().step()


def additions(params, mu, nu, gradients):
    """The reads and writes of AdamW and nothing else: the fastest that loops with one result each can be."""
    mu = [m + g for m, g in zip(mu, gradients, strict=True)]
    nu = [v - g for v, g in zip(nu, gradients, strict=True)]
    return [p + m + v for p, m, v in zip(params, mu, nu, strict=True)], mu, nu


def norm_with_another_look(gradients):
    """A norm with the least second look that there is at numbers whose squares overflow or vanish."""
    total = sum(jnp.sum(jnp.square(x)) for x in gradients)
    ordinary = (total > 1e-30) & (total < jnp.inf)
    return jax.lax.cond(ordinary, lambda _: jnp.sqrt(total), lambda g: sum(jnp.sum(jnp.abs(x)) for x in g), gradients)


def cases() -> Iterator[Case]:
    count, *shape = SHAPES["6 x 2048x2048"]
    yield Case(
        name="additions of the arrays of adamw, 6 x 2048x2048",
        make_arguments=lambda: tuple([jnp.full(shape, float(i)) for _ in range(count)] for i in range(4)),
        ours=additions,
        torch=torch_adamw(count, *shape),
        donate=(0, 1, 2),
    )
    count, *shape = SHAPES["200 x 256x256"]
    yield Case(
        name="a norm with another look, 200 x 256x256",
        make_arguments=lambda: ([jnp.ones(shape) for _ in range(count)],),
        ours=norm_with_another_look,
        peer=optax.global_norm,
    )
    for label, shape in SHAPES.items():
        for name, (ours, theirs) in PEERS.items():
            mine, peer = ours(), theirs()
            yield Case(
                name=f"{name}, {label}",
                make_arguments=arguments(mine, *shape),
                ours=step(mine),
                peer=step(peer),
                make_peer_arguments=arguments(peer, *shape),
                torch=torch_adamw(*shape) if name == "adamw" else None,
                donate=(0, 1),
            )
