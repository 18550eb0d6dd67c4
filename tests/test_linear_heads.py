"""Losses of hidden states beside the same loss of their logits: blocks, devices, dtypes and memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lossax import _heads, activations, losses, targets
from tests.vocabulary import quick

N, D, CLASSES = 12, 4, 7
RNG = np.random.default_rng(0)
HIDDEN, EMBEDDING, BIAS = (RNG.normal(size=shape) for shape in ((N, D), (D, CLASSES), (CLASSES,)))
LABELS = RNG.integers(0, CLASSES, N)
KEEP, WEIGHTS = RNG.random(N) < 0.8, RNG.random(N)
OPTIONS = {"label_smoothing": 0.1, "z_loss": 1e-2, "soft_cap": 5.0, "class_weights": np.arange(1.0, CLASSES + 1)}


def plain(hidden, embedding, bias, labels=LABELS, **options):
    logits = jnp.matmul(hidden, embedding, precision="highest") + bias[None, :]
    return losses.softmax_cross_entropy_with_integer_labels(logits, labels, **options)


def tiled(hidden, embedding, bias, labels=LABELS, **options):
    return losses.linear_cross_entropy(hidden, labels, embedding=embedding, bias=bias, **options)


def arrays(dtype):
    return [jnp.asarray(x, dtype) for x in (HIDDEN, EMBEDDING, BIAS)]


def agree(actual, desired, tolerance):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-2))


@pytest.mark.parametrize("tile", [None, 5])
@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["bare", "full"])
def test_it_is_the_loss_of_the_logits(options, tile):
    """Value and gradient by states, embedding and bias; in float64 a product with the second derivative too."""
    options = options | {"where": KEEP, "weights": WEIGHTS}
    for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-12)):
        with jax.enable_x64(dtype == np.float64):
            x = arrays(dtype)

            def everything(f, x=x):
                first = jax.value_and_grad(f, (0, 1, 2))
                return first(*x) if x[0].dtype == np.float32 else jax.jvp(first, x, x[:])

            run = quick(
                lambda everything=everything: [
                    everything(functools.partial(f, **options, **o)) for f, o in ((plain, {}), (tiled, {"tile": tile}))
                ]
            )
            agree(*run()[::-1], tolerance)


@pytest.mark.parametrize("bends", [{}, {"temperature": 0.7, "soft_cap": 3.0}], ids=["bare", "bent"])
def test_what_it_says_of_each_token(bends):
    """All statistics and the gradient of their sum beside those of the logits; masked tokens are not looked at."""
    hidden, embedding, bias = arrays(np.float32)
    pull = jnp.asarray(RNG.normal(size=(3, N)), jnp.float32)

    def plain_statistics(hidden, embedding, bias):
        logits = jnp.matmul(hidden, embedding, precision="highest") + bias[None, :]
        cap, temperature = bends.get("soft_cap"), bends.get("temperature", 1.0)
        logits = (logits if cap is None else cap * jnp.tanh(logits / cap)) / temperature
        log_p = jax.nn.log_softmax(logits)
        entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=1)
        own = log_p[np.arange(N), LABELS]
        found = jnp.where(KEEP[None, :], jnp.stack([own, jax.nn.logsumexp(logits, axis=1), entropy]), 0.0)
        return jnp.sum(found * pull), (found, KEEP & (jnp.argmax(logits, axis=1) == LABELS))

    def statistics(hidden, embedding, bias):
        hidden, labels = jnp.where(KEEP[:, None], hidden, jnp.nan), np.where(KEEP, LABELS, -100)
        options = {"embedding": embedding, "bias": bias, "where": KEEP, "tile": 5} | bends
        *found, correct = activations.linear_statistics(hidden, labels, **options)
        only = activations.linear_log_probs(hidden, labels, **options)
        both = jnp.sum(jnp.stack(found)[1:] * pull[1:]) + jnp.sum(only * pull[0])
        return both, (jnp.stack(found), correct)

    both = [quick(jax.value_and_grad(f, (0, 1, 2), has_aux=True)) for f in (statistics, plain_statistics)]
    agree(*(f(hidden, embedding, bias) for f in both), 1e-6)


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_reductions(reduction):
    x, options = arrays(np.float32), {"where": KEEP, "weights": WEIGHTS, "reduction": reduction}
    pull = lambda f: lambda *x: jax.vjp(functools.partial(f, **options), *x)[1](np.float32(2.0) + f(*x, **options))  # noqa: E731
    agree(quick(pull(functools.partial(tiled, tile=3)))(*x), quick(pull(plain))(*x), 1e-6)


def test_the_gradient_of_many_classes_is_added_up_in_place(monkeypatch):
    """On one device, a few columns at a time, of which the last ones overlap; of each token, too."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(_heads, "_COLUMNS", 3)
    x, pull = arrays(np.float32), jnp.asarray(WEIGHTS, jnp.float32)
    each = lambda *x: -activations.linear_log_probs(x[0], LABELS, embedding=x[1], bias=x[2], tile=5)  # noqa: E731
    for ours, peer in (
        (functools.partial(tiled, tile=5), plain),
        (lambda *x: jnp.sum(pull * each(*x)), lambda *x: jnp.sum(pull * plain(*x, reduction="none"))),
    ):
        agree(*(quick(jax.value_and_grad(f, (0, 1, 2)))(*x) for f in (ours, peer)), 1e-6)


def test_inside_checkpoint_vmap_and_scan():
    """Of the mean, whose gradient is made along with it, and of each token, whose gradient is made by itself."""
    hidden, embedding, bias = arrays(np.float32)
    pulls = jnp.asarray(RNG.normal(size=(3, N)), jnp.float32)

    def steps(mean, log_probs):
        def step(hidden, pull):
            f = lambda h, w: mean(h, w, bias) + jnp.sum(pull * log_probs(h, w))  # noqa: E731
            return jax.value_and_grad(jax.checkpoint(f), (0, 1))(hidden, embedding)

        def move(hidden, pull):
            value, (by_hidden, by_embedding) = step(hidden, pull)
            return hidden - 0.1 * by_hidden, (value, by_embedding)

        return jax.vmap(step, in_axes=(None, 0))(hidden, pulls), jax.lax.scan(move, hidden, pulls)

    def plain_log_probs(h, w):
        return -plain(h, w, bias, reduction="none")

    def log_probs(h, w):
        return activations.linear_log_probs(h, LABELS, embedding=w, bias=bias, tile=5)

    run = quick(lambda: (steps(functools.partial(tiled, tile=5), log_probs), steps(plain, plain_log_probs)))
    agree(*run(), 2e-6)


def test_memory_is_that_of_a_block():
    """Beside what it returns; and nothing is made for an embedding that is not trained."""
    n, d, classes = 512, 8, 4096
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, d), (d, classes), (classes,))]
    f = lambda *x: tiled(*x, labels=np.zeros(n, np.int32), tile=16)  # noqa: E731
    frozen = lambda x, w, b: f(x, jax.lax.stop_gradient(w), b)  # noqa: E731
    work = []
    for step in (jax.value_and_grad(f, (0, 1, 2)), jax.value_and_grad(f), jax.value_and_grad(frozen, (0, 1, 2))):
        compiled = quick(step).lower(*shapes).compile()
        work.append(compiled.cost_analysis()["flops"])
        assert compiled.memory_analysis().temp_size_in_bytes < n * classes * 4 / 4
    assert max(work[1:]) < 0.8 * work[0]


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_tokens_on_several_devices(devices, monkeypatch):
    monkeypatch.setattr(_heads, "_COLUMNS", 3)  # inside `shard_map` they are added up in place too
    rng = np.random.default_rng(1)
    hidden = jnp.asarray(rng.normal(size=(16, D)), jnp.float32)
    labels, weights = jnp.asarray(rng.integers(0, CLASSES, 16)), jnp.asarray(rng.random(16), jnp.float32)
    _, embedding, bias = arrays(np.float32)

    def step(hidden, embedding, bias, labels, weights, **options):
        f = lambda *x: tiled(*x, labels=labels, weights=weights, **options)  # noqa: E731
        return jax.value_and_grad(f, (0, 1, 2))(hidden, embedding, bias)

    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    spread, everywhere = PartitionSpec("data"), PartitionSpec()
    specs = {"in_specs": (spread, everywhere, everywhere, spread, spread)}
    specs |= {"out_specs": (everywhere, (spread, everywhere, everywhere))}
    local = functools.partial(step, axis_name="data", tile=1)
    x = (hidden, embedding, bias, labels, weights)
    agree(quick(jax.shard_map(local, mesh=mesh, **specs))(*x), quick(step)(*x), 1e-6)

    def each(hidden, embedding, bias, labels, weights, total=jnp.sum):
        log_probs = lambda *x: activations.linear_log_probs(x[0], labels, embedding=x[1], bias=x[2], tile=1)  # noqa: E731
        return jax.value_and_grad(lambda *x: total(weights * log_probs(*x)), (0, 1, 2))(hidden, embedding, bias)

    total = lambda x: jax.lax.psum(jnp.sum(x), "data")  # noqa: E731
    local = functools.partial(each, total=total)
    agree(quick(jax.shard_map(local, mesh=mesh, **specs))(*x), quick(each)(*x), 1e-6)


def of_classes(hidden, embedding, bias, labels, weights, kind, **options):
    """A number of each kind of what a head is good for, with tokens and classes perhaps spread by hand."""
    tail = {"bias": bias, "tile": 3, "soft_cap": 5.0, **options}
    by_class = {"class_weights": jnp.linspace(0.5, 2.0, 8), "label_smoothing": 0.1, "z_loss": 0.01, "gamma": 1.0}
    if kind == "mean":
        return losses.linear_cross_entropy(hidden, labels, embedding=embedding, weights=weights, **by_class, **tail)
    if kind == "distillation":
        teacher = {"teacher_embedding": 2.0 * embedding, "teacher_bias": bias}
        return losses.linear_distillation(hidden, hidden[:, ::-1], embedding=embedding, **teacher, **tail)
    if kind == "top_k":
        best = jnp.log(jnp.full((len(labels), 1), 0.5)), labels[:, None]
        return losses.linear_top_k_distillation(hidden, *best, embedding=embedding, weights=weights, **tail)
    axis = tail.pop("axis_name", None)
    found = activations.linear_statistics(hidden, labels, embedding=embedding, **tail)
    each = found.log_probs + found.entropy**2 + found.log_partition + found.correct.astype(jnp.float32)
    total = jnp.sum(weights * each)
    return total if axis is None else jax.lax.psum(total, axis)


@pytest.mark.parametrize("kind", ["mean", "distillation", "top_k", "statistics"])
@pytest.mark.parametrize(
    ("tokens", "classes"), [(2, 2), *(pytest.param(*n, marks=pytest.mark.sampled) for n in ((1, 4), (4, 2)))]
)
def test_tokens_and_classes_are_spread_by_hand(tokens, classes, kind):
    rng = np.random.default_rng(2)
    x = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((16, D), (D, 8), (8,))]
    x += [jnp.asarray(rng.integers(0, 8, 16)), jnp.asarray(rng.random(16), jnp.float32)]
    step = lambda *x, **o: jax.value_and_grad(lambda *y: of_classes(*y, *x[3:], kind, **o), (0, 1, 2))(*x[:3])  # noqa: E731
    mesh = jax.make_mesh((tokens, classes), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    spread, columns, everywhere = PartitionSpec("data"), PartitionSpec(None, "model"), PartitionSpec()
    specs = {"in_specs": (spread, columns, PartitionSpec("model"), spread, spread)}
    specs |= {"out_specs": (everywhere, (spread, columns, PartitionSpec("model")))}
    local = functools.partial(step, axis_name="data", class_axis_name="model")
    program = quick(jax.shard_map(local, mesh=mesh, **specs)).lower(*x).compile()
    agree(program(*x), quick(step)(*x), 2e-6)
    assert not re.search(rf"all-gather.*\[{D},8\]", program.as_text())


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize(("tokens", "classes"), [(8, 1), (1, 8), (2, 4), (4, 2)])
def test_the_compiler_spreads_tokens_and_classes(tokens, classes, kind):
    """The gradient of each shard of the embedding is made where it lies: no device ever sees all of it."""
    hidden = jnp.asarray(RNG.normal(size=(8, 2, D)), jnp.float32)
    embedding, bias = jnp.asarray(RNG.normal(size=(D, 16)), jnp.float32), jnp.zeros(16)
    labels = jnp.arange(16).reshape(8, 2)
    first = lambda h, w, y, **o: jax.value_and_grad(lambda h, w: tiled(h, w, bias, labels=y, **o), (0, 1))(h, w)  # noqa: E731
    expected = quick(first)(hidden, embedding, labels)
    mesh = jax.make_mesh((tokens, classes), ("data", "model"), axis_types=(kind, kind))
    with jax.set_mesh(mesh):
        place = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))  # noqa: E731
        x = place(hidden, "data"), place(embedding, None, "model"), place(labels, "data")
        programs = [quick(functools.partial(first, tile=8)).lower(*x).compile()]
        if kind == AxisType.Auto and 1 not in (tokens, classes):  # tokens by hand, classes still by the compiler
            spread, everywhere = PartitionSpec("data"), PartitionSpec()
            specs = {"in_specs": (spread, everywhere, spread), "out_specs": (everywhere, (spread, everywhere))}
            local = functools.partial(first, tile=2, axis_name="data")
            programs.append(quick(jax.shard_map(local, axis_names={"data"}, **specs)).lower(*x).compile())
        for program in programs:
            agree(program(*x), expected, 1e-6)
            assert classes == 1 or not re.search(rf"all-gather.*\[{D},16\]", program.as_text())


def test_half_precision_is_computed_in_float32():
    x = arrays(jnp.bfloat16)
    value, slopes = quick(jax.value_and_grad(tiled, (0, 1, 2)))(*x)
    wide = [a.astype(jnp.float32) for a in x]
    expected, wide_slopes = quick(jax.value_and_grad(tiled, (0, 1, 2)))(*wide)
    assert value == expected
    for slope, wide_slope in zip(slopes, wide_slopes, strict=True):
        np.testing.assert_array_equal(slope, wide_slope.astype(jnp.bfloat16))


@pytest.mark.parametrize("tile", [None, 5])
def test_forbidden_tokens_and_ignored_labels(tile):
    hidden, embedding, _ = arrays(np.float32)
    bias = jnp.where(jnp.arange(CLASSES) == 0, -jnp.inf, 0.0)
    labels = np.where(LABELS == 0, -100, LABELS)
    kept = labels >= 0
    assert not kept.all()
    f = lambda *x: tiled(*x, bias, labels=labels, where=kept, tile=tile)  # noqa: E731
    value, (by_hidden, by_embedding) = quick(jax.value_and_grad(f, (0, 1)))(hidden, embedding)
    logits = hidden[kept] @ embedding[:, 1:]
    expected = losses.softmax_cross_entropy_with_integer_labels(logits, labels[kept] - 1)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert not by_embedding[:, 0].any()
    assert not by_hidden[~kept].any()
    assert np.isfinite(by_hidden).all()


def test_next_tokens_of_packed_sequences():
    tokens = jnp.asarray(RNG.integers(0, CLASSES, (2, 6)))
    hidden = jnp.asarray(RNG.normal(size=(2, 6, D)), jnp.float32)
    _, embedding, bias = arrays(np.float32)
    labels, where = targets.next_tokens(tokens)
    logits = hidden @ embedding + bias[None, None, :]
    expected = losses.softmax_cross_entropy_with_integer_labels(logits, labels, where=where)
    np.testing.assert_allclose(tiled(hidden, embedding, bias, labels=labels, where=where), expected, rtol=1e-6)


def test_what_does_not_fit_is_named():
    hidden, embedding, bias = arrays(np.float32)
    for wrong, match in (
        ({"embedding": embedding.T}, r"embedding must be \[4, classes\] for hidden\[12, 4\], got \[7, 4\]"),
        ({"bias": bias[1:]}, r"bias must have shape \[7\]"),
        ({"class_weights": bias[1:]}, r"class_weights must have shape \[7\]"),
        ({"labels": LABELS + 1}, r"labels must be in \[0, 7\), got 7"),
        ({"tile": 0}, "tile must be at least 1"),
    ):
        with pytest.raises(ValueError, match=match):
            losses.linear_cross_entropy(hidden, **{"labels": LABELS, "embedding": embedding, "bias": bias} | wrong)
