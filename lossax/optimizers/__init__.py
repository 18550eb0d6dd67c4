"""Optimizers: one file per algorithm, each its state, its direction `scale_by_x` and the optimizer `x`."""

from lossax.optimizers._adam import AdamState as AdamState
from lossax.optimizers._adam import adam as adam
from lossax.optimizers._adam import adamw as adamw
from lossax.optimizers._adam import scale_by_adam as scale_by_adam
