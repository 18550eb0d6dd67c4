"""What is reported and not trained: no gradients, otherwise arguments and reductions are those of losses."""

from lossax.metrics._policy import policy_statistics as policy_statistics
from lossax.metrics._preference import preference_statistics as preference_statistics
from lossax.metrics._ranking import average_precision as average_precision
from lossax.metrics._ranking import average_precision_at_r as average_precision_at_r
from lossax.metrics._ranking import dcg as dcg
from lossax.metrics._ranking import hit_rate as hit_rate
from lossax.metrics._ranking import ndcg as ndcg
from lossax.metrics._ranking import ordered_pair_accuracy as ordered_pair_accuracy
from lossax.metrics._ranking import precision as precision
from lossax.metrics._ranking import r_precision as r_precision
from lossax.metrics._ranking import recall as recall
from lossax.metrics._ranking import reciprocal_rank as reciprocal_rank
from lossax.metrics._retrieval import retrieval as retrieval
from lossax.metrics._strings import edit_distance as edit_distance
