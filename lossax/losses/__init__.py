"""Losses: pure functions of arrays, each check - mask - maths - reduce."""

from lossax.losses._regression import huber as huber
