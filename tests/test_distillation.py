"""Distillation: what papers and peers compute, by their conventions in float64; limits, missing classes, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from scipy.special import log_softmax, logsumexp, softmax

from lossax import losses
from tests import vocabulary as v
from tests.test_losses import compare, hostile
from tests.vocabulary import quick

RNG = np.random.default_rng(0)
N, D, E, CLASSES, K = 16, 4, 3, 7, 3
LOGITS, TEACHER = 2.0 * RNG.normal(size=(2, N, CLASSES))
HIDDEN, EMBEDDING, BIAS = (RNG.normal(size=shape) for shape in ((N, D), (D, CLASSES), (CLASSES,)))
STATES, HEAD = RNG.normal(size=(N, E)), RNG.normal(size=(E, CLASSES))
LABELS = RNG.integers(0, CLASSES, N)
BEST = np.argsort(-TEACHER, axis=-1)[:, :K]
KEEP, WEIGHTS = RNG.random(N) < 0.8, RNG.random(N).astype(np.float32)


def single(*arrays):
    return [jnp.asarray(x, jnp.float32) if np.issubdtype(x.dtype, np.floating) else jnp.asarray(x) for x in arrays]


def agree(actual, desired, tolerance=2e-6):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-2))


# ---- the conventions of peers, of rows of log-probabilities ----------------------------------------------------------


def kl(log_p, log_q):
    """torch's `kl_div(log_q, log_p, log_target=True)`, summed over the classes."""
    return np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)


def jsd(student, teacher, beta):
    """`generalized_jsd_loss` of TRL, and Liger's JSD: 0 and 1 are cases of their own."""
    if beta in (0, 1):
        return kl(student, teacher) if beta else kl(teacher, student)
    mixture = np.logaddexp(np.log1p(-beta) + student, np.log(beta) + teacher)
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


def skewed(p, q, share):
    """`skewed_forward_kl` of DistiLLM, and `skewed_reverse_kl` with student and teacher exchanged."""
    return kl(p, np.log(share * np.exp(p) + (1 - share) * np.exp(q)))


def tvd(student, teacher):
    return np.sum(np.abs(np.exp(student) - np.exp(teacher)), axis=-1) / 2


REVERSE, JS, TV = ({"divergence": name} for name in ("reverse_kl", "jensen_shannon", "total_variation"))
PEERS = {
    "hinton": ({}, lambda s, t: 4.0 * kl(t, s)),
    "minillm": (REVERSE | {"rescale": False}, lambda s, t: kl(s, t)),
    "distillm forward": ({"mixture": 0.1, "rescale": False}, lambda s, t: skewed(t, s, 0.1)),
    "distillm reverse": (REVERSE | {"mixture": 0.1, "rescale": False}, lambda s, t: skewed(s, t, 0.1)),
    "tvd": (TV | {"rescale": False}, tvd),
    **{
        f"gkd {beta}": (JS | {"mixture": beta, "rescale": False}, functools.partial(jsd, beta=beta))
        for beta in (0.0, 0.1, 0.5, 0.9, 1.0)
    },
}


@pytest.mark.parametrize(("options", "peer"), PEERS.values(), ids=PEERS)
def test_what_papers_and_peers_compute(options, peer):
    student, teacher = single(LOGITS, TEACHER)
    found = quick(lambda s, t: losses.distillation(s, t, temperature=2.0, reduction="none", **options))
    expected = peer(*(log_softmax(z / 2.0, axis=-1) for z in (LOGITS, TEACHER)))
    np.testing.assert_allclose(found(student, teacher), expected, rtol=2e-5)


def test_torch():
    """`batchmean` is the mean over rows; `mean` divides by the classes too."""
    torch = pytest.importorskip("torch")
    z, t = torch.tensor(LOGITS), torch.tensor(TEACHER)
    log_q, p = torch.log_softmax(z / 3.0, -1), torch.softmax(t / 3.0, -1)
    theirs = 9.0 * torch.nn.functional.kl_div(log_q, p, reduction="batchmean")
    np.testing.assert_allclose(losses.distillation(*single(LOGITS, TEACHER), temperature=3.0), theirs, rtol=2e-6)


HARD = [
    REVERSE | {"mixture": 0.125},
    JS | {"mixture": 0.125},
    JS | {"mixture": 0.0},
    JS | {"mixture": 1.0},
    {"mixture": 0.9375},
]


@pytest.mark.sampled
@pytest.mark.parametrize("options", HARD, ids=str)
def test_mixtures_are_exact(options):
    """Hostile rows, those of harmless size too: tied, saturated, sure and wrong."""
    rows = [np.concatenate([a[:16], b]) for a, b in zip(hostile(losses.distillation), ordinary(), strict=True)]
    compare(losses.distillation, rows, options, value_ulps=32, gradient_ulps=64, digits=110)


def ordinary():
    return v.draw(losses.distillation, (8,))


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_jensen_shannon_ends_in_the_two_kls():
    """Exactly there, also where the share is traced; and next to them it is the share times them."""
    rows = single(LOGITS, TEACHER)
    run = quick(lambda share: losses.distillation(*rows, mixture=share, **JS))
    forward, reverse = losses.distillation(*rows), losses.distillation(*rows, **REVERSE)
    np.testing.assert_allclose([run(0.0), run(1.0)], [forward, reverse], rtol=1e-6)
    np.testing.assert_allclose(run(1e-7) / 1e-7, forward, rtol=1e-4)
    np.testing.assert_allclose(run(1.0 - 2.0**-20) * 2.0**20, reverse, rtol=1e-4)


def test_at_a_high_temperature_it_is_the_variance_of_the_differences():
    """Of which the gradient is the logits' difference, each row centred, over the classes; that of a sum of squares."""
    apart = (LOGITS - TEACHER) - (LOGITS - TEACHER).mean(-1, keepdims=True)
    loss = lambda s, t: losses.distillation(s, t, temperature=2.0**20, reduction="sum")  # noqa: E731
    value, slope = quick(jax.value_and_grad(loss))(*single(LOGITS, TEACHER))
    np.testing.assert_allclose(value, 0.5 * np.sum(np.square(apart)) / CLASSES, rtol=1e-5)
    np.testing.assert_allclose(slope, apart / CLASSES, rtol=1e-4, atol=1e-5)


def test_a_student_that_agrees_has_no_loss_and_no_gradient():
    (z,) = single(100.0 * LOGITS)
    for options in ({}, REVERSE, JS, TV, {"mixture": 0.1}):
        value, slope = quick(jax.value_and_grad(lambda s, o=options: losses.distillation(s, z, **o)))(z)
        assert value == 0
        assert not np.any(slope)


def test_classes_that_do_not_exist():
    """For both they have no part in anything; for one alone the value is what it must be, and no slope is NaN."""
    for options in ({}, REVERSE, JS, {"mixture": 0.1}):
        loss = functools.partial(losses.distillation, reduction="none", **options)

        @quick
        def everything(z, t, temperature, loss=loss):
            total = lambda z, temperature: jnp.sum(loss(z, t, temperature=temperature))  # noqa: E731
            slopes = jax.grad(total, (0, 1))
            moves = jnp.where(jnp.isfinite(z), 1.0, 0.0), jnp.ones_like(temperature)
            return loss(z, t, temperature=temperature), *jax.jvp(slopes, (z, temperature), moves)

        z, t = single(LOGITS[:4], TEACHER[:4])
        fewer = everything(z[:, :5], t[:, :5], jnp.float32(2.0))
        missing = jnp.pad(z[:, :5], [(0, 0), (0, 2)], constant_values=-jnp.inf)
        both = everything(missing, jnp.pad(t[:, :5], [(0, 0), (0, 2)], constant_values=-jnp.inf), jnp.float32(2.0))
        agree((both[0], both[1][0][:, :5], both[1][1], both[2][0][:, :5]), (fewer[0], *fewer[1], fewer[2][0]), 1e-5)
        assert not np.any(both[1][0][:, 5:])
        value, (slope, _), _ = everything(missing, t, jnp.float32(2.0))
        assert np.isfinite(slope).all()
        assert (np.isinf(value) == (options == {})).all()
        value, (slope, _), _ = everything(z, missing, jnp.float32(2.0))
        assert np.isfinite(slope).all()
        assert (np.isinf(value) == (options == REVERSE)).all()


def test_large_rows_are_taken_some_at_a_time():
    """With the value and the gradient of all at once; more rows hold little beside their gradient."""
    for loss in (losses.distillation, functools.partial(losses.distillation, **JS)):
        held = []
        for n in (8, 16):
            shape = jax.ShapeDtypeStruct((n, 64, 4096), jnp.float32)
            compiled = quick(jax.value_and_grad(loss)).lower(shape, shape).compile()
            held.append(compiled.memory_analysis().temp_size_in_bytes)
        assert held[1] - held[0] < 3 * 4 * 8 * 64 * 4096
    z, t = (jnp.asarray(RNG.normal(size=(2, 3, 2**18)), jnp.float32) for _ in range(2))
    f = quick(jax.value_and_grad(losses.distillation))
    (value, slope), parts = f(z, t), [f(z[i, j], t[i, j]) for i in range(2) for j in range(3)]
    np.testing.assert_allclose(value, np.mean([x for x, _ in parts]), rtol=1e-6)
    agree(slope.reshape(6, -1), np.stack([x for _, x in parts]) / 6)


def test_half_precision():
    """Of 16-bit logits the loss is that of the same numbers in float32; a gap that float16 does not have is no NaN."""
    z, t = (jnp.asarray([[6e4, -6e4, 0.0]], jnp.float16), jnp.asarray([[-6e4, 6e4, 0.0]], jnp.float16))
    value, slope = jax.value_and_grad(losses.distillation)(z, t)
    assert (value.dtype, slope.dtype) == (jnp.float32, jnp.float16)
    np.testing.assert_allclose(value, 2 * np.float64(np.float16(6e4)))
    np.testing.assert_array_equal(slope, [[1.0, -1.0, 0.0]])


# ---- of the best classes ---------------------------------------------------------------------------------------------


def listed(indices=BEST):
    return np.take_along_axis(log_softmax(TEACHER, axis=-1), indices, axis=-1)


def add_tail(log_probs):
    """TRL's bucket, whose tail is never under 1e-7."""
    total = np.minimum(logsumexp(log_probs, axis=-1, keepdims=True), -1e-7)
    return np.concatenate([log_probs, np.log(-np.expm1(total))], axis=-1)


@pytest.mark.sampled
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
def test_trl_top_k(beta, tail):
    student, teacher = np.take_along_axis(log_softmax(LOGITS, axis=-1), BEST, axis=-1), listed()
    rows = [add_tail(x) if tail == "bucket" else log_softmax(x, axis=-1) for x in (student, teacher)]
    options = JS | {"mixture": beta, "tail": tail, "rescale": False, "reduction": "none"}
    found = losses.top_k_distillation(*single(LOGITS, teacher, BEST), **options)
    np.testing.assert_allclose(found, jsd(*rows, beta), rtol=2e-5)


def test_all_classes_are_no_few():
    """A list of all is the whole loss, of all but one too; any list is no more than that. Empty places are no list."""
    z, t = single(LOGITS, TEACHER)
    order = np.argsort(-TEACHER, axis=-1)
    for options in ({}, REVERSE):
        whole = losses.distillation(z, t, reduction="none", **options)
        few = quick(functools.partial(losses.top_k_distillation, z, reduction="none", **options))
        for k in (CLASSES, CLASSES - 1):
            np.testing.assert_allclose(few(*single(listed(order[:, :k]), order[:, :k])), whole, rtol=3e-5, atol=1e-6)
        best, places = single(listed(), BEST)
        some = few(best, places)
        assert (some <= whole * (1 + 1e-6)).all()
        padded = jnp.pad(best, [(0, 0), (0, 2)], constant_values=-jnp.inf), jnp.pad(places, [(0, 0), (0, 2)])
        np.testing.assert_allclose(few(*padded), some, rtol=1e-6)
        short, places = best.at[:, 1:].set(-jnp.inf), places.at[:, 1:].set(-1)
        np.testing.assert_allclose(few(short, places), few(best[:, :1], places[:, :1]), rtol=1e-6)


def test_tails_have_their_digits():
    """Of a sure teacher, of a sure student, and where the teacher's list is all of it up to a rounding."""
    best, sure = np.array([[-1e-9]], np.float32), np.array([[0.0, -40.0, -41.0]], np.float32)
    loss = functools.partial(losses.top_k_distillation, teacher_indices=np.array([[0]]), reduction="sum")
    value, slope = quick(jax.value_and_grad(loss))(sure, teacher_log_probs=best)
    odds = np.exp(np.float64(sure[:, 1:]))
    student, teacher = odds.sum() / (1 + odds.sum()), -np.expm1(np.float64(best))
    exact = (1 - teacher) * (np.log1p(-teacher) - np.log1p(-student)) + teacher * np.log(teacher / student)
    np.testing.assert_allclose(value, exact.item(), rtol=1e-6)
    np.testing.assert_allclose(slope[:, 1:], (student - teacher) * odds / odds.sum(), rtol=1e-6)
    whole = np.log(np.full((1, 3), 1 / 3, np.float32))
    options = {"teacher_log_probs": whole, "teacher_indices": np.array([[0, 1, 3]])}
    reverse = functools.partial(losses.top_k_distillation, **REVERSE)
    value, slope = quick(jax.value_and_grad(reverse))(np.zeros((1, 5), np.float32), **options)
    assert 0 < value < 40  # 2/5 log(2/5 / least number)
    assert np.isfinite(slope).all()


def test_lists_that_are_wrong_are_loud():
    z, best, places = single(LOGITS, listed(), BEST)
    loss = functools.partial(losses.top_k_distillation, z)
    for wrong, problem in ((places.at[1, 1].set(places[1, 0]), "once, got"), (places.at[1, 1].set(7), "in .0, 7")):
        with pytest.raises(ValueError, match=f"teacher_indices must .*{problem}"):
            loss(best, wrong)
        units = quick(lambda i: loss(best, i, reduction="none"))(wrong)
        assert np.isnan(units[1])
        assert np.isfinite(np.delete(units, 1)).all()
        assert np.isfinite(loss(best, wrong, where=np.arange(N) != 1))
    with pytest.raises(ValueError, match="teacher_log_probs must be 0 or below"):
        loss(best.at[0, 0].set(0.5), places)
    with pytest.raises(ValueError, match="total_variation has no mixture"):
        losses.distillation(z, z, mixture=0.5, **TV)
    with pytest.raises(ValueError, match=r"divergence must be one of .*reverse_kl"):
        losses.distillation(z, z, divergence="reverse")  # pyright: ignore[reportArgumentType]


# ---- in two parts ----------------------------------------------------------------------------------------------------


def test_the_parts_are_those_of_distillation():
    """KL = the part of the label + (1 - t_y) times that of the others; and the authors' code."""
    z, t, labels = single(LOGITS, TEACHER, LABELS)
    run = quick(functools.partial(losses.decoupled_distillation, reduction="none", temperature=2.0))
    parts = [run(z, t, labels, target_weight=a, rival_weight=b) for a, b in ((1.0, 0.0), (0.0, 1.0))]
    rest = 1 - softmax(TEACHER / 2.0, axis=-1)[np.arange(N), LABELS]
    whole = losses.distillation(z, t, temperature=2.0, reduction="none")
    np.testing.assert_allclose(parts[0] + rest * parts[1], whole, rtol=2e-5)
    own = np.arange(CLASSES) == LABELS[:, None]
    s, t = (softmax(x / 4.0, axis=-1) for x in (LOGITS, TEACHER))
    pairs = [np.stack([np.sum(p * own, -1), np.sum(p * ~own, -1)], -1) for p in (s, t)]
    others = [log_softmax(x / 4.0 - 1000.0 * own, axis=-1) for x in (LOGITS, TEACHER)]
    theirs = 16.0 * (kl(np.log(pairs[1]), np.log(pairs[0])) + 8.0 * kl(others[1], others[0]))
    ours = losses.decoupled_distillation(*single(LOGITS, TEACHER, LABELS), reduction="none")
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)


# ---- from hidden states ----------------------------------------------------------------------------------------------

BENT = {"temperature": 1.5, "mixture": 0.2, "soft_cap": 4.0}


def of_logits(hidden, embedding, bias, states, head, bends=None, **options):
    def logits(x, w, b, cap):
        z = jnp.matmul(x, w, precision="highest") + b
        return z if cap is None else cap * jnp.tanh(z / cap)

    options = options | (bends or {})
    caps = options.pop("soft_cap", None), options.pop("teacher_soft_cap", None)
    student = logits(hidden, embedding, bias[None, :], caps[0])
    return losses.distillation(student, logits(states, head, 0.0, caps[1]), **options)


def of_states(hidden, embedding, bias, states, head, bends=None, **options):
    heads = {"embedding": embedding, "bias": bias, "teacher_embedding": head}
    return losses.linear_distillation(hidden, states, **heads, **(bends or {}), **options)


@pytest.mark.sampled
@pytest.mark.parametrize("tile", [None, 5])
@pytest.mark.parametrize("bends", [{}, JS, REVERSE | BENT | {"teacher_soft_cap": 3.0}], ids=["bare", "js", "bent"])
def test_linear_is_the_loss_of_the_logits(bends, tile):
    """Value, gradient and, in float64, a product with the second derivative; of the teacher there is none."""
    tail = {"where": KEEP, "weights": WEIGHTS, "bends": bends}
    for dtype, tolerance in ((np.float32, 3e-6), (np.float64, 1e-12)):
        with jax.enable_x64(dtype == np.float64):
            x = [jnp.asarray(a, dtype) for a in (HIDDEN, EMBEDDING, BIAS, STATES, HEAD)]

            def everything(f, x=x):
                first = jax.value_and_grad(f, tuple(range(5)))
                return first(*x) if x[0].dtype == np.float32 else jax.jvp(first, x, x)

            both = ((of_states, {"tile": tile}), (of_logits, {}))
            run = quick(lambda: [everything(functools.partial(f, **tail, **o)) for f, o in both])  # noqa: B023
            found, expected = run()
            agree(found, expected, tolerance)
            slopes = found[1] if dtype == np.float32 else found[0][1]
            assert not np.any(slopes[3])
            assert not np.any(slopes[4])


@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
def test_linear_top_k_is_the_loss_of_the_logits(tail):
    bends = {"tail": tail, "temperature": 1.5, "where": KEEP, "weights": WEIGHTS}
    hidden, embedding, bias, best, places = single(HIDDEN, EMBEDDING, BIAS, listed(), BEST)

    def linear(hidden, embedding, bias, **options):
        options = {"embedding": embedding, "bias": bias} | bends | options
        return losses.linear_top_k_distillation(hidden, best, places, **options)

    def plain(hidden, embedding, bias, **options):
        logits = jnp.matmul(hidden, embedding, precision="highest") + bias[None, :]
        return losses.top_k_distillation(logits, best, places, **bends, **options)

    for options in ({}, {"reduction": "none"}):
        pull = lambda f, o=options: jax.vjp(functools.partial(f, **o), hidden, embedding, bias)  # noqa: E731
        both = functools.partial(linear, tile=5), plain
        agree(*quick(lambda pull=pull, both=both: [(x, back(x)) for x, back in map(pull, both)])())


def test_forbidden_tokens_of_states():
    """A bias of -inf, in blocks, where derivatives of loops are taken: nothing is NaN, and both may forbid the same."""
    hidden, embedding, states, head = single(HIDDEN, EMBEDDING, STATES, HEAD)
    forbidden = jnp.where(jnp.arange(CLASSES) < 2, -jnp.inf, 0.0)

    def run(hidden, embedding, bias, other, **options):
        heads = {"embedding": embedding, "bias": bias, "teacher_embedding": head, "teacher_bias": other}
        return losses.linear_distillation(hidden, states, **heads, tile=5, **options)

    nothing = jnp.zeros(CLASSES)
    for options in ({}, REVERSE | {"mixture": 0.1}, JS):
        first = lambda *x, o=options: jax.value_and_grad(lambda *x: run(*x, **o), (0, 1))(*x)  # noqa: E731
        second = quick(lambda *x, f=first: jax.jvp(lambda *y: f(*y, *x[2:]), x[:2], (hidden, embedding)))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(second(hidden, embedding, forbidden, forbidden)))
        slopes = quick(jax.grad(lambda *x, o=options: jnp.sum(run(*x, reduction="none", **o)), (0, 1)))
        for pair in ((forbidden, nothing), (nothing, forbidden)):
            assert all(np.isfinite(x).all() for x in slopes(hidden, embedding, *pair))


def test_memory_is_that_of_a_block():
    """And of the teacher nothing but its logits is made: a product more than the student's three."""
    n, d, classes = 4096, 8, 4096
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, d), (d, classes), (classes,), (n, d), (d, classes))]
    step = jax.value_and_grad(functools.partial(of_states, tile=16, **{"bends": JS}), (0, 1, 2))
    compiled = quick(step).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < n * classes * 4 / 4


def test_16_bit_states():
    half = [jnp.asarray(x, jnp.bfloat16) for x in (HIDDEN, EMBEDDING, BIAS, STATES, HEAD)]
    value, slopes = quick(jax.value_and_grad(of_states, (0, 1, 2)))(*half)
    wide = [x.astype(jnp.float32) for x in half]
    expected, _ = quick(jax.value_and_grad(of_logits, (0, 1, 2)))(*wide)
    assert value.dtype == jnp.float32
    assert all(x.dtype == jnp.bfloat16 for x in slopes)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


BATCH = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))


def test_tokens_on_several_devices():
    x = single(HIDDEN, EMBEDDING, BIAS, STATES, HEAD)

    def step(hidden, embedding, bias, states, head, weights, axis_name=None):
        f = lambda *x: of_states(*x, states, head, weights=weights, tile=1, axis_name=axis_name)  # noqa: E731
        return jax.value_and_grad(f, (0, 1, 2))(hidden, embedding, bias)

    spread, everywhere = P("batch"), P()
    specs = {"in_specs": (spread, everywhere, everywhere, spread, everywhere, spread)}
    specs |= {"out_specs": (everywhere, (spread, everywhere, everywhere)), "mesh": BATCH}
    there = quick(jax.shard_map(functools.partial(step, axis_name="batch"), **specs))(*x, WEIGHTS)
    agree(there, quick(step)(*x, WEIGHTS))


# ---- features --------------------------------------------------------------------------------------------------------

X, Y = RNG.normal(size=(N, D)), RNG.normal(size=(N, E))


def distances(x):
    found = np.linalg.norm(x[:, None] - x[None], axis=-1)
    return found / found[found > 0].mean()


def cosines(x):
    sides = x[None] - x[:, None]
    sides = sides / np.maximum(np.linalg.norm(sides, axis=-1, keepdims=True), 1e-12)
    return sides @ sides.transpose(0, 2, 1)


def smooth_l1(a, b):
    apart = np.abs(a - b)
    return np.mean(np.where(apart < 1, 0.5 * apart**2, apart - 0.5))


def unit_rows(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def dist(s, t, temperature=4.0, beta=2.0, gamma=2.0):
    def apart(a, b):
        return 1 - np.mean([np.corrcoef(p, q)[0, 1] for p, q in zip(a, b, strict=True)])

    s, t = softmax(s / temperature, axis=-1), softmax(t / temperature, axis=-1)
    return temperature**2 * (beta * apart(s, t) + gamma * apart(s.T, t.T))


AUTHORS = {
    "attention_transfer": lambda: np.mean(np.square(unit_rows(np.mean(X**2, -1)) - unit_rows(np.mean(Y**2, -1)))),
    "relational_distance": lambda: smooth_l1(distances(X), distances(Y)),
    "relational_angle": lambda: smooth_l1(cosines(X), cosines(Y)),
    "similarity_preserving": lambda: np.mean(np.square(unit_rows(X @ X.T) - unit_rows(Y @ Y.T))),
    "correlation_distillation": lambda: dist(LOGITS, TEACHER),
}


@pytest.mark.parametrize("name", AUTHORS)
def test_the_code_of_the_authors(name):
    of_rows = name == "correlation_distillation"
    rows = single(LOGITS, TEACHER) if of_rows else single(X, Y)
    options = {"temperature": 4.0, "inter": 2.0, "intra": 2.0} if of_rows else {}
    np.testing.assert_allclose(getattr(losses, name)(*rows, **options), AUTHORS[name](), rtol=1e-5)


@pytest.mark.sampled
@pytest.mark.parametrize("name", list(AUTHORS)[1:])
def test_sets_on_several_devices(name):
    """With `axis_name`: the loss and the gradient of the whole set, masked elements and all."""
    loss = getattr(losses, name)
    rows = single(LOGITS, TEACHER) if name == "correlation_distillation" else single(X, Y)

    def step(x, y, keep, weights, axis_name=None):
        return jax.value_and_grad(lambda x: loss(x, y, where=keep, weights=weights, axis_name=axis_name))(x)

    specs = {"in_specs": P("batch"), "out_specs": (P(), P("batch")), "mesh": BATCH}
    there = quick(jax.shard_map(functools.partial(step, axis_name="batch"), **specs))(*rows, KEEP, WEIGHTS)
    agree(there, quick(step)(*rows, KEEP, WEIGHTS))


def test_equal_points_are_at_no_distance():
    """However a compiler divides: no NaN and no nonsense from two points that are equal, or all of them."""
    x, y = single(X / 3.0, Y)
    x = x.at[1].set(x[0])
    for name in ("relational_distance", "relational_angle"):
        f = jax.value_and_grad(getattr(losses, name))
        agree(jax.jit(f)(x, y), f(x, y))
        value, slope = jax.jit(f)(jnp.ones_like(x), y)
        assert np.isfinite(value)
        assert not np.any(slope)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_scale_does_not_matter(size):
    x, y = single(X, Y)
    for name in ("attention_transfer", "relational_distance", "relational_angle", "similarity_preserving"):
        f = quick(jax.value_and_grad(getattr(losses, name)))
        (value, slope), (expected, other) = f(size * x, y / size), f(x, y)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(slope * size, other, rtol=1e-3, atol=1e-5 * np.abs(other).max())


def test_even_rows_have_their_digits():
    """At a temperature of a million rows differ from even ones in the sixth digit: float32 beside float64."""
    loss = functools.partial(losses.correlation_distillation, temperature=2.0**20)
    value, slope = quick(jax.value_and_grad(loss))(*single(LOGITS, TEACHER))
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.float32(x), jnp.float64) for x in (LOGITS, TEACHER)]
        expected, other = quick(jax.value_and_grad(loss))(*wide)
    agree((value, slope), (expected, other), 1e-5)
