"""Distillation of hidden states: the oracles of logits, of logits made one by one."""

import mpmath
import numpy as np

from tests.oracles import distillation as _whole
from tests.oracles import linear_heads as _heads

_TEACHER = np.array([[1.0, 0.5, -1.0, 0.0, 0.75], [-0.5, 1.5, 0.25, -1.0, 0.5]])
_STATES = (0.0, 1.0, -1.0, 1e-3, 8.0, -6.0)
ARGUMENTS = {
    "hidden": (lambda rng, units: rng.normal(size=(*units, 3)), _STATES),
    "teacher_hidden": (lambda rng, units: rng.normal(size=(*units, 2)), _STATES),
    "teacher_log_probs": _whole.ARGUMENTS["teacher_log_probs"],
    "teacher_indices": _whole.ARGUMENTS["teacher_indices"],
}
HYPERPARAMETERS = {
    "embedding": (_heads.EMBEDDING,),
    "bias": (np.array([0.5, 0.0, -0.25, 1.0, -1.0]),),
    "teacher_embedding": (_TEACHER,),
    "teacher_bias": (np.array([0.25, 0.5, 0.0, -1.0, 0.75]),),
    "mixture": (0.125,),
    "temperature": (1.5,),
    "soft_cap": (30.0,),
    "teacher_soft_cap": (20.0,),
}
STATIC = _whole.STATIC | {"tile": (None, 5)}


def _logits(hidden, embedding, bias, cap):
    out = np.empty((*hidden.shape[:-1], embedding.shape[1]), object)
    for i in np.ndindex(out.shape):
        z = mpmath.fsum(h * w for h, w in zip(hidden[i[:-1]], embedding[:, i[-1]], strict=True))
        z += 0 if bias is None else bias[i[-1]]
        out[i] = z if cap is None else cap * mpmath.tanh(z / cap)
    return out


def linear_distillation(
    hidden,
    teacher_hidden,
    *,
    embedding,
    teacher_embedding,
    bias=None,
    teacher_bias=None,
    soft_cap=None,
    teacher_soft_cap=None,
    tile=None,
    frozen=None,
    **options,
):
    teacher_hidden = teacher_hidden if frozen is None else frozen[1]
    teacher = _logits(teacher_hidden, teacher_embedding, teacher_bias, teacher_soft_cap)
    return _whole.distillation(_logits(hidden, embedding, bias, soft_cap), teacher, **options)


def linear_top_k_distillation(
    hidden,
    teacher_log_probs,
    teacher_indices,
    *,
    embedding,
    bias=None,
    soft_cap=None,
    tile=None,
    frozen=None,
    **options,
):
    teacher_log_probs = teacher_log_probs if frozen is None else frozen[1]
    logits = _logits(hidden, embedding, bias, soft_cap)
    return _whole.top_k_distillation(logits, teacher_log_probs, teacher_indices, **options)
