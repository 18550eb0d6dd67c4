"""Losses, optimizers and schedules for JAX, as pure functions."""

from optax import apply_updates as apply_updates
from optax import chain as chain

from lossax import activations as activations
from lossax import calibration as calibration
from lossax import losses as losses
from lossax import metrics as metrics
from lossax import objectives as objectives
from lossax import optimizers as optimizers
from lossax import regularizers as regularizers
from lossax import schedules as schedules
from lossax import sharding as sharding
from lossax import targets as targets
from lossax import transforms as transforms
from lossax._assemble import assemble as assemble
from lossax._assemble import learning_rate as learning_rate
from lossax._matrices import describe as describe
from lossax._matrices import matrix_rule as matrix_rule
from lossax._progress import progress as progress
from lossax._recommend import Recommendation as Recommendation
from lossax._recommend import recommend as recommend
from lossax._reduction import masked as masked
from lossax._reduction import reduce as reduce
from lossax._reduction import unit_weights as unit_weights
from lossax._tree import path_mask as path_mask

__version__ = "0.1.0"
