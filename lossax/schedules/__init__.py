"""Schedules: numbers as functions of the step. Every argument may be traced."""

from lossax.schedules._combinators import join as join
from lossax.schedules._combinators import piecewise_constant as piecewise_constant
from lossax.schedules._combinators import scale as scale
from lossax.schedules._combinators import warmup as warmup
from lossax.schedules._recipes import cosine_restarts as cosine_restarts
from lossax.schedules._recipes import noam as noam
from lossax.schedules._recipes import one_cycle as one_cycle
from lossax.schedules._recipes import warmup_cosine as warmup_cosine
from lossax.schedules._recipes import warmup_linear as warmup_linear
from lossax.schedules._recipes import warmup_stable_decay as warmup_stable_decay
from lossax.schedules._shapes import constant as constant
from lossax.schedules._shapes import cosine as cosine
from lossax.schedules._shapes import exponential as exponential
from lossax.schedules._shapes import inverse_sqrt as inverse_sqrt
from lossax.schedules._shapes import linear as linear
from lossax.schedules._shapes import one_minus_sqrt as one_minus_sqrt
from lossax.schedules._shapes import polynomial as polynomial
from lossax.schedules._shapes import step_decay as step_decay
