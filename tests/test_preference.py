"""Preferences: conventions of TRL and Liger in plain NumPy, extreme log-ratios, one-sided batches, running means."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest

from lossax import activations, losses, metrics, objectives, targets
from tests.vocabulary import quick, ulps

RNG: Any = np.random.default_rng(0)
N = 16
LOG_PROBS: Any = [(-3.0 * np.exp(0.5 * RNG.normal(size=N))).astype(np.float32) for _ in range(4)]
WIDE: Any = [x.astype(np.float64) for x in LOG_PROBS]
TOKENS: Any = [RNG.integers(1, 9, N), RNG.integers(1, 9, N)]
BETA, EPSILON, MARGIN = 0.5, 0.125, 0.25
OBJECTIVES = ("logistic", "robust", "hinge", "ipo", "exo", "discopop", "nca", "bco", "sppo", "apo_zero", "apo_down")
DIVERGENCES = ("reverse_kl", "forward_kl", "jensen_shannon", "alpha")


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def log_sigmoid(x):
    return -np.logaddexp(0.0, -x)


def close(a, b, rtol=3e-6, atol=1e-7):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def every(f, **options):
    return quick(functools.partial(f, reduction="none", **options))


# ---- TRL, as its DPO trainer has it ----------------------------------------------------------------------------------


def trl_scores(ratio, divergence, coefficient=0.5):
    if divergence == "forward_kl":
        return -np.exp(-ratio)
    if divergence == "js_divergence":
        return log_sigmoid(ratio)
    if divergence == "alpha_divergence":
        return np.exp((coefficient - 1.0) * ratio) / (coefficient - 1.0)
    return ratio


def trl(name, c, r, ref_c, ref_r, *, divergence="reverse_kl", lengths=None):
    """Value of each pair under the names of TRL 1.13."""
    ratio_c, ratio_r = c - ref_c, r - ref_r
    s, t = trl_scores(ratio_c, divergence), trl_scores(ratio_r, divergence)
    if name in ("ipo", "sigmoid_norm"):
        s, t = s / lengths[0], t / lengths[1]
    h = BETA * (s - t)
    a, b = BETA * ratio_c, BETA * ratio_r
    clean, flipped = -log_sigmoid(h), -log_sigmoid(-h)
    if name == "exo_pair":
        return sigmoid(h) * (-clean - np.log1p(-EPSILON)) + sigmoid(-h) * (-flipped - np.log(EPSILON))
    mix = sigmoid(h / 0.05)
    return {
        "sigmoid": clean,
        "sigmoid_norm": clean,
        "cdpo": (1 - EPSILON) * clean + EPSILON * flipped,
        "robust": ((1 - EPSILON) * clean - EPSILON * flipped) / (1 - 2 * EPSILON),
        "hinge": np.maximum(0.0, 1.0 - h),
        "ipo": (h / BETA - 1.0 / (2.0 * BETA)) ** 2,
        "discopop": (1 - mix) * clean + mix * np.exp(-h),
        "nca_pair": -log_sigmoid(a) - 0.5 * log_sigmoid(-a) - 0.5 * log_sigmoid(-b),
        "bco_pair": -log_sigmoid(a) - log_sigmoid(-b),
        "sppo_hard": (ratio_c - 0.5 / BETA) ** 2 + (ratio_r + 0.5 / BETA) ** 2,
        "apo_zero": 1.0 - sigmoid(a) + sigmoid(b),
        "apo_down": sigmoid(a) + 1.0 - sigmoid(h),
    }[name]


NAMES: Any = {
    "sigmoid": {},
    "sigmoid_norm": {},
    "cdpo": {"label_smoothing": EPSILON},
    "robust": {"objective": "robust", "label_smoothing": EPSILON},
    "hinge": {"objective": "hinge"},
    "ipo": {"objective": "ipo"},
    "exo_pair": {"objective": "exo", "label_smoothing": EPSILON},
    "discopop": {"objective": "discopop"},
    "nca_pair": {"objective": "nca"},
    "bco_pair": {"objective": "bco"},
    "sppo_hard": {"objective": "sppo"},
    "apo_zero": {"objective": "apo_zero"},
    "apo_down": {"objective": "apo_down"},
}


@pytest.mark.parametrize("name", NAMES)
def test_dpo_under_the_names_of_trl(name):
    options = dict(NAMES[name])
    if name in ("ipo", "sigmoid_norm"):
        options |= {"chosen_lengths": TOKENS[0], "rejected_lengths": TOKENS[1]}
    close(every(losses.dpo, beta=BETA, **options)(*LOG_PROBS), trl(name, *WIDE, lengths=TOKENS))


@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        ({"divergence": "forward_kl"}, "forward_kl"),
        ({"divergence": "jensen_shannon"}, "js_divergence"),
        ({"divergence": "alpha", "alpha": 0.5}, "alpha_divergence"),  # coefficient 1/2 = 1 - 1/2
    ],
)
def test_divergences_are_those_of_trl(own, theirs):
    for name in ("sigmoid", "hinge", "robust"):
        found = every(losses.dpo, beta=BETA, **NAMES[name], **own)(*LOG_PROBS)
        close(found, trl(name, *WIDE, divergence=theirs), 1e-5)


def test_aot_of_trl():
    c, r, ref_c, ref_r = WIDE

    def cost(u, v):
        h = BETA * (np.sort(u) - np.sort(v))
        return np.mean(-(1 - EPSILON) * log_sigmoid(h) - EPSILON * log_sigmoid(-h))

    run = functools.partial(losses.aot, beta=BETA, label_smoothing=EPSILON)
    close(quick(run)(*LOG_PROBS), cost(c - r, ref_c - ref_r))
    close(quick(functools.partial(run, paired=False))(*LOG_PROBS), cost(c - ref_c, r - ref_r))


def test_bradley_terry_of_trl():
    w, l = WIDE[:2]  # noqa: E741
    margins = np.abs(WIDE[2]).astype(np.float32)
    expected = -log_sigmoid(w - l - margins) + 0.01 * (w + l) ** 2
    close(every(losses.bradley_terry, margin=margins, centering=0.01)(*LOG_PROBS[:2]), expected)
    noisy = -(1 - EPSILON) * log_sigmoid(w - l) - EPSILON * log_sigmoid(l - w)
    close(every(losses.bradley_terry, label_smoothing=EPSILON)(*LOG_PROBS[:2]), noisy)


def test_cpo_and_simpo_of_trl():
    w, l = WIDE[:2]  # noqa: E741
    m, n = TOKENS
    mean_w, mean_l = w / m, l / n
    gap = BETA * (w - l)
    cases = {
        "logistic": -(1 - EPSILON) * log_sigmoid(gap) - EPSILON * log_sigmoid(-gap),
        "hinge": np.maximum(0.0, 1.0 - gap),
    }
    for objective, expected in cases.items():
        smoothing = EPSILON if objective == "logistic" else 0.0
        run = every(losses.cpo, beta=BETA, objective=objective, label_smoothing=smoothing, chosen_lengths=m)
        close(run(*LOG_PROBS[:2]), expected - mean_w)
    means = [(x / n).astype(np.float32) for x, n in zip(LOG_PROBS, TOKENS, strict=False)]
    ipo = every(losses.cpo, beta=BETA, objective="ipo", nll_weight=0.0)(*means)
    close(ipo, (mean_w - mean_l - 1 / (2 * BETA)) ** 2, 1e-5)
    # TRL divides gamma by beta, subtracts and multiplies.
    logits = mean_w - mean_l - MARGIN / BETA
    simpo = functools.partial(losses.simpo, beta=BETA, margin=MARGIN)
    close(every(simpo)(*LOG_PROBS[:2], *TOKENS), -log_sigmoid(BETA * logits))
    close(every(simpo, nll_weight=0.5)(*LOG_PROBS[:2], *TOKENS), -log_sigmoid(BETA * logits) - 0.5 * mean_w)
    score = [(1 - np.exp(x) ** -0.25) / 0.25 for x in (mean_w, mean_l)]
    alpha_po = -log_sigmoid(BETA * (score[0] - score[1] - MARGIN / BETA))
    close(every(simpo, alpha=0.25)(*LOG_PROBS[:2], *TOKENS), alpha_po)


def test_slic_calibration_is_the_hinge_of_cpo():
    w, l = WIDE[:2]  # noqa: E741
    expected = np.maximum(0.0, 2.0 - w + l) - 0.5 * w
    run = every(losses.cpo, objective="hinge", beta=1.0, margin=2.0 - 1.0, nll_weight=0.5)
    close(run(*LOG_PROBS[:2]), expected)


def test_orpo_of_trl():
    x, y = (w / n for w, n in zip(WIDE[:2], TOKENS, strict=True))
    log_odds = (x - y) - (np.log1p(-np.exp(x)) - np.log1p(-np.exp(y)))
    close(every(losses.orpo)(*LOG_PROBS[:2], *TOKENS), -x - 0.1 * log_sigmoid(log_odds))


def test_kto_of_trl_and_of_liger():
    good = np.arange(N) % 3 == 0
    ratio = WIDE[0] - WIDE[1]
    for i, j in ((2, 3), (3, 2)):
        close(targets.kl_reference_point(LOG_PROBS[i], LOG_PROBS[j]), max(np.mean(WIDE[i] - WIDE[j]), 0.0))
    for liked, disliked in ((1.0, 1.0), (1.0, 1.33)):  # Liger has the first
        sides = liked * (1 - sigmoid(BETA * (ratio - 0.5))), disliked * (1 - sigmoid(BETA * (0.5 - ratio)))
        run = every(losses.kto, beta=BETA, reference_point=0.5, desirable_weight=liked, undesirable_weight=disliked)
        close(run(*LOG_PROBS[:2], good), np.where(good, *sides))


def test_rrhf_of_the_paper():
    log_probs, rewards, tokens = WIDE[0], np.array([3, 1, 2, 2] * 4), TOKENS[0]
    p, score = (log_probs / tokens).reshape(4, 4), rewards.reshape(4, 4)
    ranking = [
        sum(max(a[i] - a[j], 0) for i in range(4) for j in range(4) if r[i] < r[j])
        for a, r in zip(p, score, strict=True)
    ]
    arrays = [x.reshape(4, 4) for x in (LOG_PROBS[0], rewards, tokens)]
    close(every(losses.rrhf)(*arrays), np.array(ranking) - log_probs.reshape(4, 4)[:, 0])


# ---- what the family has in common -----------------------------------------------------------------------------------


def test_divergences_meet_at_their_ends():
    run = functools.partial(losses.dpo, beta=BETA, reduction="none")
    by_alpha = quick(lambda alpha: run(*LOG_PROBS, divergence="alpha", alpha=alpha))
    for alpha, name in ((0.0, "reverse_kl"), (1e-7, "reverse_kl"), (1.0, "forward_kl")):
        close(by_alpha(alpha), every(losses.dpo, beta=BETA, divergence=name)(*LOG_PROBS), 1e-5)
    slope = quick(jax.jacfwd(lambda alpha: run(*LOG_PROBS, divergence="alpha", alpha=alpha)))
    found, below, above = slope(0.0), by_alpha(-1e-2), by_alpha(1e-2)
    close(found, (above - below) / 2e-2, 2e-2, 1e-3)


def test_noise_in_the_labels():
    clean = every(losses.dpo, beta=BETA)
    c, r, ref_c, ref_r = LOG_PROBS
    robust = every(losses.dpo, beta=BETA, objective="robust", label_smoothing=EPSILON)
    kept, swapped = robust(c, r, ref_c, ref_r), robust(r, c, ref_r, ref_c)
    close((1 - EPSILON) * kept + EPSILON * swapped, clean(c, r, ref_c, ref_r), 1e-5)  # unbiased
    for objective in ("logistic", "robust"):
        close(every(losses.dpo, beta=BETA, objective=objective, label_smoothing=0.0)(*LOG_PROBS), clean(*LOG_PROBS))
    # Conservative DPO and EXO are at rest where the model says that labels are wrong so often.
    rest = np.float32(np.log((1 - EPSILON) / EPSILON))
    zero = np.float32(0)
    for objective in ("logistic", "exo"):
        run = functools.partial(losses.dpo, beta=1.0, objective=objective, label_smoothing=EPSILON)
        assert abs(jax.grad(run)(rest, zero, zero, zero)) < 1e-7
        assert jax.grad(run)(rest + 1, zero, zero, zero) > 0
    assert losses.dpo(rest, zero, zero, zero, beta=1.0, objective="exo", label_smoothing=EPSILON) >= 0


def test_exo_needs_a_probability_of_error():
    exo = functools.partial(losses.dpo, beta=BETA, objective="exo", reduction="none")
    close(exo(*LOG_PROBS), exo(*LOG_PROBS, label_smoothing=1e-3))
    with pytest.raises(ValueError, match="label_smoothing must be positive"):
        exo(*LOG_PROBS, label_smoothing=0.0)
    assert not np.isfinite(quick(exo)(*LOG_PROBS, label_smoothing=0.0)).any(), "a divergence that is infinite"


def test_what_an_objective_has_no_place_for_is_refused():
    for objective in ("hinge", "ipo", "sppo", "discopop"):
        with pytest.raises(ValueError, match="label_smoothing is for"):
            losses.dpo(*LOG_PROBS, objective=objective, label_smoothing=0.1)
    for objective in ("nca", "bco", "sppo", "apo_zero"):
        with pytest.raises(ValueError, match="margin must be 0"):
            losses.dpo(*LOG_PROBS, objective=objective, margin=1.0)
    with pytest.raises(ValueError, match="label_smoothing is for"):
        losses.cpo(*LOG_PROBS[:2], objective="hinge", label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 0.5\)"):
        losses.dpo(*LOG_PROBS, label_smoothing=0.5)
    with pytest.raises(ValueError, match="rejected_lengths"):
        losses.dpo(*LOG_PROBS, chosen_lengths=TOKENS[0])
    with pytest.raises(ValueError, match="chosen_lengths must be positive, got 0"):
        losses.simpo(*LOG_PROBS[:2], np.zeros(N, np.int32), TOKENS[1])
    with pytest.raises(ValueError, match=r"objective must be one of .*'logistic'"):
        losses.dpo(*LOG_PROBS, objective="logit")


def test_margins_and_betas_of_each_pair():
    alpha = 0.01
    margin = alpha * (TOKENS[1] - TOKENS[0])  # length-regularised DPO: a longer answer that won says less
    betas = np.linspace(0.05, 0.5, N).astype(np.float32)
    gap = (WIDE[0] - WIDE[2]) - (WIDE[1] - WIDE[3])
    found = every(losses.dpo, beta=betas, margin=margin)(*LOG_PROBS)
    close(found, -log_sigmoid(betas.astype(np.float64) * gap - margin))
    keep = np.arange(N) % 2 == 0
    spoiled = [np.where(keep, x, np.nan).astype(np.float32) for x in (*TOKENS, margin)]
    options = {"chosen_lengths": spoiled[0], "rejected_lengths": spoiled[1], "margin": spoiled[2], "where": keep}
    kept = {"chosen_lengths": TOKENS[0][keep], "rejected_lengths": TOKENS[1][keep], "margin": margin[keep]}
    close(losses.dpo(*LOG_PROBS, **options), losses.dpo(*(x[keep] for x in LOG_PROBS), **kept))
    gradient = jax.grad(lambda c: losses.dpo(c, *LOG_PROBS[1:], **options))(LOG_PROBS[0])
    assert np.isfinite(gradient).all()


def test_one_optimum_for_all_that_are_consistent():
    """A preference of 3/4 is learned as such: beta times the difference of log-ratios is its log-odds."""
    p, reference = 0.75, jnp.log(jnp.array([0.2, 0.3, 0.5]))

    def risk(logits, objective, target):
        policy = jax.nn.log_softmax(logits)
        one = functools.partial(losses.dpo, beta=BETA, objective=objective)
        pairs = (policy[0], policy[1], reference[0], reference[1]), (policy[1], policy[0], reference[1], reference[0])
        return target * one(*pairs[0]) + (1 - target) * one(*pairs[1])

    for objective, rate, expected in (("logistic", 2.0, np.log(3.0) / BETA), ("ipo", 0.1, (2 * p - 1) / (2 * BETA))):

        @quick
        def descend(logits, objective=objective, rate=rate):
            return jax.lax.fori_loop(0, 300, lambda _, z: z - rate * jax.grad(risk)(z, objective, p), logits)

        logits = descend(reference)
        ratio = jax.nn.log_softmax(logits) - reference
        close(ratio[0] - ratio[1], expected, 1e-3)


def test_a_reference_that_moves():
    """TR-DPO: the reference follows the policy, and the loss goes back to where it starts."""

    def loss(params, reference):
        policy, old = jax.nn.log_softmax(params), jax.lax.stop_gradient(jax.nn.log_softmax(reference))
        return losses.dpo(policy[0], policy[1], old[0], old[1], beta=1.0)

    params = reference = jnp.array([0.0, 0.0])
    params = params - jax.grad(loss)(params, reference)
    before = loss(params, reference)
    reference = optax.incremental_update(params, reference, 1.0)
    assert before < np.log(2) - 0.1
    close(loss(params, reference), np.log(2))


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_small_losses_keep_their_digits():
    gaps = np.linspace(1.0, 80.0, 32).astype(np.float32)
    zero = np.zeros_like(gaps)
    with mpmath.workdps(50):
        exact = [mpmath.log1p(mpmath.exp(-mpmath.mpf(float(x)))) for x in gaps]
    runs = {
        "dpo": losses.dpo(-zero, -gaps, zero, zero, beta=1.0, reduction="none"),
        "bradley_terry": losses.bradley_terry(gaps, zero, reduction="none"),
        "simpo": losses.simpo(zero, -gaps, zero + 1, zero + 1, beta=1.0, margin=0.0, reduction="none"),
        "cpo": losses.cpo(zero, -gaps, beta=1.0, nll_weight=0.0, reduction="none"),
    }
    for name, found in runs.items():
        assert max(ulps(a, b) for a, b in zip(found, exact, strict=True)) < 4, name


def test_differences_of_long_answers_keep_their_digits():
    """Sums over thousands of tokens, of which the policy moved few: three roundings would be worth a tenth."""
    chosen, rejected = np.float32(-16777215.0), np.float32(-16777216.0)
    reference_chosen, reference_rejected = np.float32(-3.25), np.float32(-3.0)
    exact = np.log1p(np.exp(-1.25))
    close(losses.dpo(chosen, rejected, reference_chosen, reference_rejected, beta=1.0), exact, 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_nothing_breaks_at_extremes(dtype):
    """Finite wherever the mathematics is, and never NaN, values and first and second derivatives."""
    far = [0.0, -1.0, -80.0, -1e4, *([-1e30, -3e38] if dtype != "float16" else [-6e4])]
    grid = np.stack(np.meshgrid(far, far, far[:4], far[:4], indexing="ij"), -1).reshape(-1, 4)
    arrays = [jnp.asarray(x, dtype) for x in grid.T]

    for objective in OBJECTIVES if dtype == "float32" else ("logistic",):
        squares = objective in ("ipo", "sppo")  # of exponentials that are the largest number
        for divergence in ("reverse_kl", "forward_kl")[: 1 if squares or dtype != "float32" else 2]:
            f = functools.partial(losses.dpo, objective=objective, divergence=divergence)
            gradient = jax.grad(lambda *a, f=f: f(*a, reduction="sum"), argnums=(0, 1, 2, 3))

            @quick
            def run(arrays, f=f, gradient=gradient):
                ones = [jnp.ones_like(x) for x in arrays]
                return f(*arrays, reduction="none"), *jax.jvp(lambda *a: gradient(*a), arrays, ones)

            found = run(arrays)
            names = objective, divergence
            if objective in ("apo_zero", "apo_down", "exo"):  # bounded
                assert np.isfinite(np.asarray(found[0], np.float32)).all(), names
            assert not any(np.isnan(np.asarray(x, np.float32)).any() for x in jax.tree.leaves(found)), names
            if objective == "logistic":
                sure = found[0][(grid[:, 0] - grid[:, 2]) - (grid[:, 1] - grid[:, 3]) > 1e3]
                assert (np.asarray(sure) == 0).all() or divergence != "reverse_kl"
                assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in found[1])


def test_forward_kl_where_both_exponentials_overflow():
    """TRL's exp is infinite on both sides, and their difference is not a number."""
    with np.errstate(over="ignore", invalid="ignore"):
        theirs = -np.exp(-np.float32(-100.0)) + np.exp(-np.float32(-101.0))
    assert np.isnan(theirs)
    zero = np.float32(0)
    run = jax.value_and_grad(functools.partial(losses.dpo, divergence="forward_kl"), argnums=(0, 1))
    value, gradients = run(np.float32(-100), np.float32(-101), zero, zero)
    assert value == 0
    assert gradients == (0, 0)
    value, gradients = run(np.float32(-101), np.float32(-100), zero, zero)
    assert np.isfinite([value, *gradients]).all()
    assert gradients[0] < 0 < gradients[1]


def test_odds_of_almost_sure_answers():
    """1 - exp(x) is 0 from -3e-8 on, so that the odds of Liger are infinite; ours are right up to 0."""
    one = np.float32(1)
    with np.errstate(divide="ignore"):
        assert np.isneginf(np.log1p(-np.exp(np.float32(-1e-9))))
    run = quick(jax.value_and_grad(losses.orpo, argnums=(0, 1)))
    for x, y in ((-1e-12, -1.0), (-1.0, -1e-12), (-1e-12, -1e-9), (-1e-9, -1e-12), (-1e-30, -1e4), (-1e4, -1e-30)):
        x, y = np.float32(x), np.float32(y)
        value, gradients = run(x, y, one, one)
        with mpmath.workdps(60):
            a, b = (mpmath.mpf(-float(z)) for z in (x, y))
            weight = mpmath.mpf(float(np.float32(0.1)))
            ratio = mpmath.expm1(a) / mpmath.expm1(b)
            exact = a + weight * mpmath.log1p(ratio)
            by_a = 1 + weight * mpmath.exp(a) / (mpmath.expm1(a) + mpmath.expm1(b))
            by_b = -weight * ratio / (1 + ratio) * mpmath.exp(b) / mpmath.expm1(b)
        assert ulps(value, exact) < 16
        close(gradients, [float(-by_a), float(-by_b)], 1e-5)
    for x, y in ((0.0, -1.0), (-1.0, 0.0), (0.0, 0.0)):
        value, gradients = run(np.float32(x), np.float32(y), one, one)
        assert np.isfinite([value, *gradients]).all()
    close(losses.orpo(jnp.float32(0), jnp.float32(0), one, one, odds_weight=1.0), np.log(2))
    close(
        losses.orpo(jnp.float32(1e-7), jnp.float32(-1), one, one),
        losses.orpo(jnp.float32(0), jnp.float32(-1), one, one),
    )
    with pytest.raises(ValueError, match="chosen must be a log-probability"):
        losses.orpo(jnp.float32(0.5), jnp.float32(-1), one, one)


# ---- ties ------------------------------------------------------------------------------------------------------------


def test_ties_of_rao_and_kupper():
    run = quick(lambda r, m, ties: losses.bradley_terry(r, 0.0 * r, margin=m, ties=ties, reduction="none"))
    rewards = np.array([-30.0, -2.0, 0.0, 1e-3, 2.0, 30.0], np.float32)
    for m in (1e-3, 0.5, 40.0):
        won, lost = run(rewards, m, np.zeros(6, bool)), run(-rewards, m, np.zeros(6, bool))
        tied = run(rewards, m, np.ones(6, bool))
        close(np.exp(-won) + np.exp(-lost) + np.exp(-tied), 1.0)
    theta = np.exp(0.5)
    e = np.exp(rewards[1:5].astype(np.float64))
    exact = e * (theta**2 - 1) / ((e + theta) * (theta * e + 1))
    close(run(rewards, 0.5, np.ones(6, bool))[1:5], -np.log(exact))
    slopes = jax.grad(lambda r: losses.bradley_terry(r, 0.0 * r, margin=0.5, ties=np.ones(6, bool), reduction="sum"))
    found = slopes(rewards)
    assert found[2] == 0
    assert (np.sign(found) == np.sign(rewards)).all(), "a tie draws rewards together"
    with pytest.raises(ValueError, match="margin must be positive where there are ties"):
        losses.bradley_terry(rewards, rewards, ties=np.ones(6, bool))
    keep = np.array([True] * 5 + [False])
    options = {"ties": np.arange(6) == 1, "margin": np.array([0.0, 1.0, 0.0, 0.0, 0.0, np.nan], np.float32)}
    assert np.isfinite(losses.bradley_terry(rewards, 0.0 * rewards, where=keep, **options))


# ---- KTO -------------------------------------------------------------------------------------------------------------


def test_batches_of_one_side_and_of_one_answer():
    for good in (np.ones(N, bool), np.zeros(N, bool)):
        value, slope = jax.value_and_grad(losses.kto)(*LOG_PROBS[:2], good, reference_point=0.5)
        assert np.isfinite(value)
        assert (np.asarray(slope) * np.where(good, -1, 1) > 0).all()
    single = [x[:1] for x in LOG_PROBS]
    point = targets.kl_reference_point(*single[2:])
    assert np.isfinite(losses.kto(*single[:2], np.array([True]), reference_point=point))
    assert targets.kl_reference_point(*single[2:], where=np.array([False])) == 0
    spoiled = np.where(np.arange(N) < 8, LOG_PROBS[2], np.nan).astype(np.float32)
    close(
        targets.kl_reference_point(spoiled, LOG_PROBS[3], where=np.arange(N) < 8),
        targets.kl_reference_point(LOG_PROBS[2][:8], LOG_PROBS[3][:8]),
    )
    slopes = jax.grad(lambda x: losses.kto(*LOG_PROBS[:2], np.ones(N, bool), reference_point=x))(0.5)
    assert slopes == 0


def test_the_reference_point_of_uneven_devices():
    """The mean over all answers; the mean of the means of two devices is another number."""
    keep = np.array([True] * 8 + [True] * 2 + [False] * 6).reshape(2, 8)
    parts = [3.0 + x.reshape(2, 8) for x in (LOG_PROBS[3], LOG_PROBS[2])]
    run = functools.partial(targets.kl_reference_point, axis_name="devices")
    found = jax.vmap(lambda a, b, keep: run(a + 9.0, b, where=keep), axis_name="devices")(*parts, keep)
    ratio = parts[0] + 9.0 - parts[1]
    close(found, np.full(2, ratio[keep].mean()))
    assert abs(ratio[keep].mean() - np.mean([ratio[0].mean(), ratio[1][:2].mean()])) > 1e-2


# ---- what has memory -------------------------------------------------------------------------------------------------


def test_the_shift_of_trl_is_the_mean_of_all_rewards():
    batches = [np.asarray(x[: 4 + 4 * i]) for i, x in enumerate(LOG_PROBS[:3])]
    init, update = objectives.reward_shift()
    state = init()
    for i, batch in enumerate(batches):
        shift, state = quick(update)(state, batch)
        close(shift, np.concatenate(batches[: i + 1]).mean())
    init, update = objectives.reward_shift(decay=0.5)
    shift, state = update(init(), batches[0])
    shift, state = update(state, batches[1])
    expected = (0.5 * batches[0].sum() + batches[1].sum()) / (0.5 * len(batches[0]) + len(batches[1]))
    close(shift, expected)
    kept, same = update(state, np.full(4, np.nan, np.float32), where=np.zeros(4, bool))
    close(kept, expected)
    assert np.isfinite(jax.tree.leaves(same)).all()
    half = np.array([True, True, False, False])
    balanced, _ = objectives.reward_shift().update(init(), batches[0], weights=np.where(half, 2.0, 1.0))
    close(balanced, np.average(batches[0], weights=[2, 2, 1, 1]))
    # Pairs: the shift moves both references.
    shift, beta = 0.75, 0.5
    moved = losses.dpo(LOG_PROBS[0], LOG_PROBS[1], LOG_PROBS[2] + shift / beta, LOG_PROBS[3] + shift / beta, beta=beta,
                       objective="bco")  # fmt: skip
    a, b = (beta * (w - ref) - shift for w, ref in ((WIDE[0], WIDE[2]), (WIDE[1], WIDE[3])))
    close(moved, np.mean(-log_sigmoid(a) - log_sigmoid(-b)))


def test_dynamic_beta_of_the_paper():
    """The official code: the running mean first, then the weights; but the mean of all pairs, by their weights."""
    init, update = objectives.dynamic_beta(beta=0.2)
    batches = [np.asarray(x) + 3.0 for x in LOG_PROBS]
    state, mean, std = init(), 0.0, 0.0
    for batch in batches:
        gaps = batch.astype(np.float64)
        mean, std = 0.9 * mean + 0.1 * gaps.mean(), 0.9 * std + 0.1 * gaps.std(ddof=1)
        weights = np.exp(-0.5 * ((gaps - mean) / std) ** 2)
        found, state = quick(update)(state, batch)
        close([state.mean, state.std], [mean, std], 1e-5)
        close(found.weights, weights, 1e-4)
        close(found.beta, max(0.2 * (1 + 0.6 * (np.average(gaps, weights=weights) - mean)), 1e-3), 1e-5)
    nothing, same = update(state, batches[0] * np.nan, where=np.zeros(N, bool))
    close(nothing.beta, 0.2)
    assert not np.any(nothing.weights)
    assert [x.item() for x in same[1:]] == [x.item() for x in state[1:]]
    assert np.isfinite(losses.dpo(*LOG_PROBS, beta=found.beta, weights=found.weights))
    least, _ = objectives.dynamic_beta(beta=0.2, alpha=1e4).update(state, batches[0] - 1.0)
    close(least.beta, 1e-3)
    for equal in (np.zeros(4, np.float32), np.ones(1, np.float32)):
        start, _ = update(init(), equal)
        close(start.weights, np.ones_like(equal))
    many = jax.lax.scan(lambda s, x: update(s, x)[::-1], init(), jnp.stack([jnp.asarray(x) for x in batches]))[0]
    close(many.mean, mean, 1e-5)
    parts = jax.vmap(objectives.dynamic_beta(axis_name="devices").update, (None, 0), axis_name="devices")
    found, spread = parts(init(), batches[0].reshape(2, 8))
    alone, whole = objectives.dynamic_beta().update(init(), batches[0])
    close(found.beta, np.full(2, alone.beta), 1e-5)
    close(spread.std, np.full(2, whole.std), 1e-5)


# ---- what goes in and what is watched --------------------------------------------------------------------------------


def test_sequences_from_tokens():
    logits = RNG.normal(size=(3, 5, 7)).astype(np.float32)
    labels = RNG.integers(0, 7, (3, 5))
    where = np.array([[0, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    nll = losses.softmax_cross_entropy_with_integer_labels(logits, labels, where=where, reduction="none")
    found = activations.sequence_log_probs(-nll, where=where)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    each = np.take_along_axis(log_p, labels[..., None], -1)[..., 0]
    close(found.sums, (each * where).sum(-1))
    np.testing.assert_array_equal(found.lengths, where.sum(-1))
    close(found.means, [each[0, 1:].mean(), each[1, 1:3].mean(), 0.0])
    for garbage in (np.nan, -np.inf):
        spoiled = np.where(where, each, garbage)
        value, slope = jax.value_and_grad(lambda x: activations.sequence_log_probs(x, where=where).sums.sum())(spoiled)
        close(value, found.sums.sum())
        np.testing.assert_array_equal(slope, where)
    # Length-desensitised DPO: what is beyond the length of the other answer counts less, as in TRL.
    shared, alpha = 2, 0.25
    tail = np.cumsum(where, -1) > shared
    weights = jnp.where(jnp.cumsum(where, -1) <= shared, 1.0, alpha)
    damped = activations.sequence_log_probs(each, where=where, weights=weights).sums
    close(damped, (each * where * ~tail).sum(-1) + alpha * (each * where * tail).sum(-1))
    assert activations.sequence_log_probs(jnp.zeros((2, 3), jnp.bfloat16)).sums.dtype == jnp.float32


def test_from_hidden_states_without_logits():
    """The whole chain from hidden states is one composition, with a gradient for the head."""
    hidden, head = RNG.normal(size=(4, 5, 3)).astype(np.float32), RNG.normal(size=(3, 7)).astype(np.float32)
    labels, where = RNG.integers(0, 7, (4, 5)), np.arange(5) > 0
    reference = LOG_PROBS[2][:2], LOG_PROBS[3][:2]

    def whole(head, log_probs):
        sums = activations.sequence_log_probs(log_probs(head), where=where).sums
        return losses.dpo(sums[:2], sums[2:], *reference)

    def plain(head):
        return jnp.take_along_axis(jax.nn.log_softmax(hidden @ head), labels[..., None], -1)[..., 0]

    tiled = functools.partial(activations.linear_log_probs, hidden, labels)
    found = quick(jax.value_and_grad(lambda head: whole(head, lambda e: tiled(embedding=e, where=where))))(head)
    expected = quick(jax.value_and_grad(lambda head: whole(head, plain)))(head)
    for a, b in zip(found, expected, strict=True):
        close(a, b, 1e-4, 1e-6)


def test_statistics_of_preferences():
    keep = np.arange(N) % 4 != 0
    spoiled = [np.where(keep, x, np.nan).astype(np.float32) for x in LOG_PROBS]
    found = quick(functools.partial(metrics.preference_statistics, beta=BETA, where=keep))(*spoiled)
    a, b = (BETA * (w - ref)[keep] for w, ref in ((WIDE[0], WIDE[2]), (WIDE[1], WIDE[3])))
    expected = {
        "chosen_reward": a.mean(),
        "rejected_reward": b.mean(),
        "margin": (a - b).mean(),
        "accuracy": (a > b).mean(),
    }
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        close(found[name], x, 1e-5)
    lengths = np.arange(1.0, len(keep) + 1), np.arange(2.0, len(keep) + 2)
    by_token = {"chosen_lengths": lengths[0], "rejected_lengths": lengths[1]}
    means = metrics.preference_statistics(*LOG_PROBS, beta=BETA, **by_token)
    gap = (LOG_PROBS[0] - LOG_PROBS[2]) / lengths[0] - (LOG_PROBS[1] - LOG_PROBS[3]) / lengths[1]
    np.testing.assert_allclose(means["margin"], BETA * np.mean(gap), rtol=1e-5)
    np.testing.assert_allclose(means["accuracy"], np.mean(gap > 0))
    start = metrics.preference_statistics(*LOG_PROBS[:2], *LOG_PROBS[:2])
    assert [x.item() for x in start.values()] == [0.0, 0.0, 0.0, 0.5]
    parts = [x.reshape(2, 8) for x in LOG_PROBS]
    spread = jax.vmap(functools.partial(metrics.preference_statistics, axis_name="d"), axis_name="d")(*parts)
    for name, x in metrics.preference_statistics(*LOG_PROBS).items():
        close(spread[name], np.full(2, x), 1e-5)
    with pytest.raises(ValueError, match="reference_chosen and reference_rejected"):
        metrics.preference_statistics(*LOG_PROBS[:3])
    assert not jax.grad(lambda x: metrics.preference_statistics(x, LOG_PROBS[1])["margin"])(LOG_PROBS[0]).any()


def test_step_labels_as_trl_tokenizes():
    """A separator ends each step and has its label; all other tokens, and the prompt, have none."""
    separator, prompt = 9, [1, 2]
    steps, right = [[3, 4], [5], [6, 7, 8]], [True, False, True]
    tokens, labels = list(prompt), [-100] * len(prompt)
    for step, label in zip(steps, right, strict=True):
        tokens += [*step, separator]
        labels += [-100] * len(step) + [int(label)]
    found, where = targets.step_labels(np.array([right]), np.array([tokens]) == separator)
    np.testing.assert_array_equal(np.where(where, found, -100)[0], labels)
    last, there = targets.step_labels(np.array([right]), np.array([tokens]) == separator, where=np.arange(3) == 2)
    assert there.sum() == 1
    assert last[0, -1]
    cut, there = targets.step_labels(np.array([[0.5]]), np.array([tokens]) == separator)
    assert there.sum() == 1
    assert cut.max() == 0.5
    _, there = targets.step_labels(np.zeros((1, 0)), np.array([tokens]) == separator)
    assert not there.any()
    with pytest.raises(ValueError, match="leading axes"):
        targets.step_labels(np.zeros((2, 3)), np.zeros((1, 4), bool))
