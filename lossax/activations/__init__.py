"""What turns raw outputs into probabilities and decisions."""

from lossax.activations._assignments import sinkhorn_knopp as sinkhorn_knopp
from lossax.activations._cosines import class_cosines as class_cosines
from lossax.activations._cosines import unit_vectors as unit_vectors
from lossax.activations._ctc import ctc_best_path as ctc_best_path
from lossax.activations._histogram import histogram_mean as histogram_mean
from lossax.activations._histogram import symexp as symexp
from lossax.activations._linear_heads import LinearStatistics as LinearStatistics
from lossax.activations._linear_heads import linear_log_probs as linear_log_probs
from lossax.activations._linear_heads import linear_statistics as linear_statistics
from lossax.activations._ordinal import ordinal_labels as ordinal_labels
from lossax.activations._ordinal import ordinal_probabilities as ordinal_probabilities
from lossax.activations._quantiles import monotone_quantiles as monotone_quantiles
from lossax.activations._routing import expert_loads as expert_loads
from lossax.activations._sequences import SequenceLogProbs as SequenceLogProbs
from lossax.activations._sequences import sequence_log_probs as sequence_log_probs
from lossax.activations._similarities import angle_similarity as angle_similarity
from lossax.activations._similarities import cosine_similarity as cosine_similarity
from lossax.activations._sparse import entmax as entmax
from lossax.activations._sparse import sparsemax as sparsemax
from lossax.activations._tempered import tempered_softmax as tempered_softmax
from lossax.activations._viterbi import viterbi as viterbi
