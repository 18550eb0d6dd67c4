"""Regularizers: one loop over every number of a tree of arrays of `mpf`."""

import jax
import mpmath


def _numbers(params):
    return [x for leaf in jax.tree.leaves(params) for x in leaf.flat]


def l1(params):
    return mpmath.fsum(abs(x) for x in _numbers(params))


def l2(params):
    return mpmath.fsum(abs(x) ** 2 for x in _numbers(params))


def elastic_net(params, *, ratio):
    return ratio * l1(params) + (1 - ratio) * l2(params) / 2
