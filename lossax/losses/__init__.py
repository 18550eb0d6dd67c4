"""Losses: pure functions of arrays, each check - mask - maths - reduce."""

from lossax.losses._binary import binary_cross_entropy as binary_cross_entropy
from lossax.losses._binary import hinge as hinge
from lossax.losses._binary import logistic as logistic
from lossax.losses._binary import perceptron as perceptron
from lossax.losses._binary import sigmoid_binary_cross_entropy as sigmoid_binary_cross_entropy
from lossax.losses._binary import sigmoid_focal as sigmoid_focal
from lossax.losses._binary import squared_hinge as squared_hinge
from lossax.losses._multiclass import cross_entropy as cross_entropy
from lossax.losses._multiclass import cross_entropy_with_integer_labels as cross_entropy_with_integer_labels
from lossax.losses._multiclass import multiclass_hinge as multiclass_hinge
from lossax.losses._multiclass import multiclass_perceptron as multiclass_perceptron
from lossax.losses._multiclass import poly1 as poly1
from lossax.losses._multiclass import softmax_cross_entropy as softmax_cross_entropy
from lossax.losses._multiclass import (
    softmax_cross_entropy_with_integer_labels as softmax_cross_entropy_with_integer_labels,
)
from lossax.losses._multiclass import softmax_focal as softmax_focal
from lossax.losses._multiclass import weston_watkins_hinge as weston_watkins_hinge
from lossax.losses._positive import gamma_deviance as gamma_deviance
from lossax.losses._positive import poisson_nll as poisson_nll
from lossax.losses._positive import poisson_nll_with_log_rates as poisson_nll_with_log_rates
from lossax.losses._positive import squared_log_error as squared_log_error
from lossax.losses._positive import tweedie_deviance as tweedie_deviance
from lossax.losses._regression import absolute_error as absolute_error
from lossax.losses._regression import absolute_percentage_error as absolute_percentage_error
from lossax.losses._regression import expectile as expectile
from lossax.losses._regression import gaussian_nll as gaussian_nll
from lossax.losses._regression import gaussian_nll_with_log_variances as gaussian_nll_with_log_variances
from lossax.losses._regression import huber as huber
from lossax.losses._regression import laplace_nll as laplace_nll
from lossax.losses._regression import log_cosh as log_cosh
from lossax.losses._regression import pseudo_huber as pseudo_huber
from lossax.losses._regression import quantile as quantile
from lossax.losses._regression import smooth_l1 as smooth_l1
from lossax.losses._regression import squared_error as squared_error
from lossax.losses._regression import student_t_nll as student_t_nll
from lossax.losses._regression import symmetric_absolute_percentage_error as symmetric_absolute_percentage_error
