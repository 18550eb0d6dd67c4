"""Regularizers: scalars computed from a tree of parameters, to be added to a loss."""

from lossax.regularizers._norms import elastic_net as elastic_net
from lossax.regularizers._norms import l1 as l1
from lossax.regularizers._norms import l2 as l2
