"""Cross-entropy of hidden states, from the formula."""

import mpmath
import numpy as np

EMBEDDING = np.array([[0.5, -1.0, 0.25, 2.0, 0.0], [1.0, 0.5, -0.75, 0.0, -1.5], [0.0, 1.25, 1.0, -0.5, 0.5]])
ARGUMENTS = {"hidden": (lambda rng, units: rng.normal(size=(*units, 3)), (0.0, 1.0, -1.0, 1e-3, 8.0, -6.0))}
HYPERPARAMETERS = {
    "embedding": (EMBEDDING,),
    "bias": (np.array([0.5, 0.0, -0.25, 1.0, -1.0]),),
    "class_weights": (np.array([1.0, 0.5, 2.0, 1.0, 0.25]),),
    "label_smoothing": (0.125,),
    "gamma": (1.5,),
    "z_loss": (0.0625,),
    "soft_cap": (30.0,),
}
STATIC = {"tile": (None, 5)}


def linear_cross_entropy(
    hidden,
    labels,
    *,
    embedding,
    bias=None,
    label_smoothing=0,
    class_weights=None,
    gamma=0,
    z_loss=0,
    soft_cap=None,
    tile=None,
):
    out = np.empty(labels.shape, object)
    for i in np.ndindex(out.shape):
        logits = [mpmath.fsum(h * w for h, w in zip(hidden[i], column, strict=True)) for column in embedding.T]
        if bias is not None:
            logits = [z + b for z, b in zip(logits, bias, strict=True)]
        if soft_cap is not None:
            logits = [soft_cap * mpmath.tanh(z / soft_cap) for z in logits]
        total = mpmath.log(mpmath.fsum(map(mpmath.exp, logits)))
        surprise = total - logits[labels[i]]
        loss = (1 - label_smoothing) * (1 - mpmath.exp(-surprise)) ** gamma * surprise
        loss += label_smoothing * (total - mpmath.fsum(logits) / len(logits)) + z_loss * total**2
        out[i] = loss * (1 if class_weights is None else class_weights[labels[i]])
    return out
