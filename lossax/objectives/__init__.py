"""Losses in one step: weightings, and whatever has memory as an (init, update) pair."""

from lossax.objectives._adaface import AdafaceMargins as AdafaceMargins
from lossax.objectives._adaface import AdafaceState as AdafaceState
from lossax.objectives._adaface import adaface as adaface
from lossax.objectives._adversarial import virtual_adversarial as virtual_adversarial
from lossax.objectives._centering import CenteringState as CenteringState
from lossax.objectives._centering import centering as centering
from lossax.objectives._centers import CentersState as CentersState
from lossax.objectives._centers import centers as centers
from lossax.objectives._deep_supervision import deep_supervision as deep_supervision
from lossax.objectives._early_learning import EarlyLearningState as EarlyLearningState
from lossax.objectives._early_learning import early_learning as early_learning
from lossax.objectives._flexmatch import FlexmatchState as FlexmatchState
from lossax.objectives._flexmatch import flexmatch as flexmatch
from lossax.objectives._flooding import flooding as flooding
from lossax.objectives._gumbel import gumbel as gumbel
from lossax.objectives._hardest import hardest as hardest
from lossax.objectives._matryoshka import matryoshka as matryoshka
from lossax.objectives._memory import MemoryState as MemoryState
from lossax.objectives._memory import memory as memory
from lossax.objectives._weighted_sum import weighted_sum as weighted_sum
