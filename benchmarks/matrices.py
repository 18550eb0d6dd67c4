"""A step of optimizers of matrices beside Optax's: same matrices, same gradients, state donated.

Optax has none that takes eigenvectors: their ordinary steps stand beside those of muon, their refreshes beside those.
"""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import optax

import lossax
from benchmarks.measure import Case
from benchmarks.optimizers import step

SETS = {
    "48 x 256x256, 12 x 256x1024": [(48, 256, 256), (12, 256, 1024)],
    "8 x 512x2048": [(8, 512, 2048)],
    "200 x 64x64": [(200, 64, 64)],
}
WIDTHS = (128, 256, 512)
NEVER = 10**9
REFRESHED = {
    "soap": lambda every: lossax.optimizers.soap(1e-3, every=every),
    "kl_shampoo": lambda every: lossax.optimizers.kl_shampoo(1e-3, every=every),
    "shampoo": lambda every: lossax.optimizers.shampoo(1e-3, every=every, start=1),
    "psgd_kron": lambda every: lossax.optimizers.psgd_kron(1e-3, update_probability=1.0 if every == 1 else 0.0),
}


def arguments(tx, shapes):
    def make():
        sizes = [(rows, columns) for count, rows, columns in shapes for _ in range(count)]
        keys = jax.random.split(jax.random.key(0), 2 * len(sizes))
        params = [jax.random.normal(k, size) for k, size in zip(keys[: len(sizes)], sizes, strict=True)]
        gradients = [jax.random.normal(k, size) for k, size in zip(keys[len(sizes) :], sizes, strict=True)]
        return params, jax.tree.map(jnp.copy, tx.init(params)), gradients

    return make


def cases() -> Iterator[Case]:
    for (label, shapes), name in itertools.product(SETS.items(), ("muon", "normuon", "dion")):
        mine, peer = getattr(lossax.optimizers, name)(1e-3), optax.contrib.muon(1e-3)
        yield Case(
            name=f"{name}, {label}",
            make_arguments=arguments(mine, shapes),
            ours=step(mine),
            peer=step(peer),
            make_peer_arguments=arguments(peer, shapes),
            donate=(0, 1),
        )
    for name, make in REFRESHED.items():
        for width in WIDTHS:
            shapes = [(4, width, width)]
            ordinary, refresh, muon = make(NEVER), make(1), lossax.optimizers.muon(1e-3)
            yield Case(
                name=f"{name}, ordinary step, 4 x {width}x{width}",
                make_arguments=arguments(ordinary, shapes),
                ours=step(ordinary),
                peer=step(muon),
                peer_name="muon",
                make_peer_arguments=arguments(muon, shapes),
                donate=(0, 1),
            )
            yield Case(
                name=f"{name}, refresh step, 4 x {width}x{width}",
                make_arguments=arguments(refresh, shapes),
                ours=step(refresh),
                peer=step(ordinary),
                peer_name="ordinary",
                make_peer_arguments=arguments(ordinary, shapes),
                donate=(0, 1),
            )
