"""What turns data into what a loss takes."""

from lossax.targets._balance import class_balanced_weights as class_balanced_weights
from lossax.targets._boxes import cxcywh_to_xyxy as cxcywh_to_xyxy
from lossax.targets._boxes import xyxy_to_cxcywh as xyxy_to_cxcywh
from lossax.targets._distance import distance_transform as distance_transform
from lossax.targets._distance import signed_distance as signed_distance
from lossax.targets._histogram import hl_gauss as hl_gauss
from lossax.targets._histogram import symlog as symlog
from lossax.targets._histogram import two_hot as two_hot
from lossax.targets._lists import padded_lists as padded_lists
from lossax.targets._mixing import Mixture as Mixture
from lossax.targets._mixing import cutmix as cutmix
from lossax.targets._mixing import mix as mix
from lossax.targets._mixing import mixup as mixup
from lossax.targets._ordinal import ordinal_soft_labels as ordinal_soft_labels
from lossax.targets._patches import normalized_patches as normalized_patches
from lossax.targets._patches import patchify as patchify
from lossax.targets._sampling import log_uniform_log_q as log_uniform_log_q
from lossax.targets._tokens import context_negatives as context_negatives
from lossax.targets._tokens import next_tokens as next_tokens
from lossax.targets._triplets import Triplets as Triplets
from lossax.targets._triplets import mined_triplets as mined_triplets
