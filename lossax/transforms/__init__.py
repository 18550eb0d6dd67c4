"""Transformations of updates, useful alone or around any optimizer; they mix with Optax's in one `chain`."""

from lossax.transforms._averaging import AverageParametersState as AverageParametersState
from lossax.transforms._averaging import average_parameters as average_parameters
from lossax.transforms._averaging import eval_params as eval_params
from lossax.transforms._clipping import ClipByGlobalNormState as ClipByGlobalNormState
from lossax.transforms._clipping import ClipByNormState as ClipByNormState
from lossax.transforms._clipping import ClipByValueState as ClipByValueState
from lossax.transforms._clipping import clip_by_global_norm as clip_by_global_norm
from lossax.transforms._clipping import clip_by_norm as clip_by_norm
from lossax.transforms._clipping import clip_by_value as clip_by_value
from lossax.transforms._decay import AddDecayedWeightsState as AddDecayedWeightsState
from lossax.transforms._decay import add_decayed_weights as add_decayed_weights
from lossax.transforms._freezing import freeze as freeze
from lossax.transforms._guard import SkipNonfiniteState as SkipNonfiniteState
from lossax.transforms._guard import skip_nonfinite as skip_nonfinite
