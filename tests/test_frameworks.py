"""Every public optimizer in Flax NNX, Flax Linen, Equinox, Haiku and plain dicts, and inside Optax's wrappers."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lossax
from lossax import optimizers, transforms
from tests import vocabulary as v
from tests.test_optimizers import gradients, parameters, quadratic, structure

every = pytest.mark.parametrize("make", v.OPTIMIZERS.values(), ids=v.OPTIMIZERS)
rng = np.random.default_rng(0)
INPUTS = rng.normal(size=(16, 4)).astype("float32")
LABELS = np.argmax(INPUTS[:, :3], axis=1)
RATE = 0.02
KERNELS = lossax.path_mask(exclude="bias|/b$")


def cross_entropy(logits):
    return lossax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(LABELS))


# ---- one tiny model per framework: train(tx, steps) returns the losses and the state of the optimizer ----------------


class Run(NamedTuple):
    """What training left: the loss before every step, the optimizer's state, and the parameters before and after."""

    losses: list[float]
    state: Any
    before: list[jax.Array]
    after: list[jax.Array]


def measures_curvature(make):
    """Whether an optimizer needs the objective: `obj_fn` for its default estimator."""
    return "estimator" in inspect.signature(make).parameters


def arrays(tree):
    return [jnp.array(x, copy=True) for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]


def forward(params):
    hidden = jnp.tanh(jnp.asarray(INPUTS) @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    return hidden @ params["out"]["kernel"] + params["out"]["bias"][None]


def weights(key: Any = None):
    first, second = jax.random.split(jax.random.key(0) if key is None else key)
    return {
        "hidden": {"kernel": 0.5 * jax.random.normal(first, (4, 5)), "bias": jnp.zeros(5)},
        "out": {"kernel": 0.5 * jax.random.normal(second, (5, 3)), "bias": jnp.zeros(3)},
    }


def functional(params, loss, tx, steps, apply=optax.apply_updates, grad=jax.grad, jit=jax.jit):
    """The loop of every framework whose model is a tree."""
    state, losses, before = tx.init(params), [], arrays(params)

    @jit
    def step(params, state):
        g = grad(loss)(params)
        updates, state = tx.update(g, state, params, obj_fn=loss)
        return apply(params, updates), state, loss(params)

    for _ in range(steps):
        params, state, value = step(params, state)
        losses.append(float(value))
    return Run(losses, state, before, arrays(params))


def with_dict(tx, steps):
    return functional(weights(), lambda params: cross_entropy(forward(params)), tx, steps)


def with_haiku(tx, steps):
    hk = pytest.importorskip("haiku")
    net = hk.without_apply_rng(
        hk.transform(lambda x: hk.Sequential([hk.Linear(5, name="hidden"), jnp.tanh, hk.Linear(3, name="out")])(x))
    )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        params = net.init(jax.random.key(0), jnp.asarray(INPUTS))
        return functional(params, lambda params: cross_entropy(net.apply(params, jnp.asarray(INPUTS))), tx, steps)


def equinox_model():
    eqx = pytest.importorskip("equinox")

    class Model(eqx.Module):
        hidden: Any
        out: Any
        activation: Callable
        name: str
        nothing: None = None

        def __call__(self, x):
            return self.out(self.activation(self.hidden(x)))

    one, two = jax.random.split(jax.random.key(0))
    return eqx, Model(eqx.nn.Linear(4, 5, key=one), eqx.nn.Linear(5, 3, key=two), jnp.tanh, "tiny")


def with_equinox_filtered(tx, steps):
    eqx, model = equinox_model()
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params):
        return cross_entropy(jax.vmap(eqx.combine(params, static))(jnp.asarray(INPUTS)))

    return functional(params, loss, tx, steps, eqx.apply_updates)


def with_equinox_unfiltered(tx, steps):
    eqx, model = equinox_model()

    def loss(model):
        return cross_entropy(jax.vmap(model)(jnp.asarray(INPUTS)))

    return functional(model, loss, tx, steps, eqx.apply_updates, eqx.filter_grad, eqx.filter_jit)


def with_linen(tx, steps, *, stock=False):
    """The stock train state hands no extra argument on; a subclass of four lines does."""
    linen = pytest.importorskip("flax.linen")
    train_state = pytest.importorskip("flax.training.train_state")

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(3, name="out")(jnp.tanh(linen.Dense(5, name="hidden")(x)))

    class WithExtraArguments(train_state.TrainState):
        def apply_gradients(self, *, grads, **extra):
            updates, opt_state = self.tx.update(grads, self.opt_state, self.params, **extra)
            params = optax.apply_updates(self.params, updates)
            return self.replace(step=self.step + 1, params=params, opt_state=opt_state)

    model = Model()

    def loss(params):
        return cross_entropy(model.apply({"params": params}, jnp.asarray(INPUTS)))

    params = model.init(jax.random.key(0), jnp.asarray(INPUTS))["params"]
    before, losses = arrays(params), []
    kind, extra = (train_state.TrainState, {}) if stock else (WithExtraArguments, {"obj_fn": loss})

    def step(state):
        value, g = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=g, **extra), value

    state = kind.create(apply_fn=model.apply, params=params, tx=tx)
    donating = jax.jit(step, donate_argnums=0)
    for _ in range(steps):
        state, value = donating(state)
        losses.append(float(value))
    return Run(losses, state.opt_state, before, arrays(state.params))


def with_nnx(tx, steps):
    nnx = pytest.importorskip("flax.nnx")

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(4, 5, rngs=rngs)
            self.out = nnx.Linear(5, 3, rngs=rngs)

        def __call__(self, x):
            return self.out(jnp.tanh(self.hidden(x)))

    def loss(model):
        return cross_entropy(model(jnp.asarray(INPUTS)))

    @nnx.jit
    def step(model, optimizer):
        graph, _, rest = nnx.split(model, nnx.Param, ...)
        value, g = nnx.value_and_grad(loss)(model)
        optimizer.update(model, g, obj_fn=lambda params: loss(nnx.merge(graph, params, rest, copy=True)))
        return value

    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    before = arrays(nnx.state(model, nnx.Param))
    losses = [float(step(model, optimizer)) for _ in range(steps)]
    return Run(losses, optimizer.opt_state, before, arrays(nnx.state(model, nnx.Param)))


FRAMEWORKS = {
    "dict": with_dict,
    "haiku": with_haiku,
    "equinox": with_equinox_filtered,
    "equinox-unfiltered": with_equinox_unfiltered,
    "linen": with_linen,
    "nnx": with_nnx,
}
frameworks = pytest.mark.parametrize("train", FRAMEWORKS.values(), ids=FRAMEWORKS)


# Dicts, Haiku, Linen and filtered Equinox all hold parameters in plain trees: for those, a few optimizers.
FALLS = [
    pytest.param(make, train, id=f"{name}-{framework}")
    for framework, train in FRAMEWORKS.items()
    for name, make in v.OPTIMIZERS.items()
    if framework in ("nnx", "equinox-unfiltered") or name in ("adamw", "adafactor", "muon", "sophia")
]


@pytest.mark.sampled
@pytest.mark.parametrize(("make", "train"), FALLS)
def test_the_loss_falls(make, train):
    run = train(make(RATE, **v.required(make)), 10)
    assert run.losses[-1] < run.losses[0]
    assert run.losses[0] > 0.5
    assert all(np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(run.after, run.before, strict=True))


OTHERWISE_SHAPED = {  # states whose leaves are not those of the parameters; NNX keeps such leaves as mappings
    "factored": lambda: optimizers.adafactor(RATE, min_dim_size_to_factor=1),
    "int8": lambda: transforms.low_precision(optimizers.adamw(RATE), block=4, min_size=1),
    "residual": lambda: lossax.chain(transforms.error_feedback(transforms.compress_low_rank(2)), optimizers.sgd(RATE)),
    "projected": lambda: lossax.assemble(transforms.project_low_rank(optimizers.scale_by_adam(), 2), RATE, 0.0),
}


@pytest.mark.parametrize("make", OTHERWISE_SHAPED.values(), ids=OTHERWISE_SHAPED)
def test_states_of_other_shapes(make):
    run = with_nnx(make(), 3)
    assert run.losses[-1] < run.losses[0]


@pytest.mark.sampled
@pytest.mark.parametrize("name", [n for n, make in v.OPTIMIZERS.items() if not measures_curvature(make)])
def test_the_stock_train_state_of_linen(name):
    make = v.OPTIMIZERS[name]
    run, extra = (with_linen(make(RATE, **v.required(make)), 5, stock=stock) for stock in (True, False))
    chex.assert_trees_all_equal(run, extra)


@frameworks
def test_the_rate_and_the_mask_are_the_same_everywhere(train):
    """Two steps of decay alone: kernels shrink and biases stay, as one rule decides in `init` and in `update`."""
    decisions = []

    def rule(tree):
        kept = KERNELS(tree)
        decisions.append([(np.shape(x), k) for x, k in _pairs(tree, kept) if isinstance(x, jax.Array)])
        return kept

    decay = lossax.assemble(optax.set_to_zero(), lossax.schedules.linear(0.5, 0.25, 2), 0.5, rule)
    run = train(lossax.chain(optax.masked(optax.identity(), rule), decay), 2)
    for before, after in zip(run.before, run.after, strict=True):
        kept = 0.75 * (1.0 - 0.375 * 0.5) if before.ndim == 2 else 1.0
        np.testing.assert_allclose(after, kept * before, rtol=1e-6)
    assert len(decisions) >= 3
    assert all(decided == decisions[0] for decided in decisions)
    assert all(keep == (len(shape) == 2) for shape, keep in decisions[0])
    rate = lossax.learning_rate(run.state)
    assert isinstance(rate, jax.Array)
    assert rate == 0.375


def _pairs(tree, other):
    """The leaves of two trees side by side, `None` among them."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: x is None)
    return zip(leaves, structure.flatten_up_to(other), strict=True)


def test_the_rate_is_read_inside_a_compiled_step():
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, lossax.optimizers.adamw(0.5), wrt=nnx.Param)
    read = nnx.jit(lambda optimizer: 2.0 * lossax.learning_rate(optimizer.opt_state))
    assert read(optimizer) == 1.0
    assert lossax.learning_rate(nnx.as_pure(optimizer.opt_state)) == 0.5


def test_many_models_in_one_nnx_program():
    """`nnx.vmap` over seeds: one optimizer per model, and one rate each to read."""
    nnx = pytest.importorskip("flax.nnx")

    @nnx.vmap(in_axes=0, out_axes=0)
    def create(key):
        model = nnx.Linear(4, 3, rngs=nnx.Rngs(key))
        return model, nnx.Optimizer(model, lossax.optimizers.adam(RATE), wrt=nnx.Param)

    @nnx.jit
    @nnx.vmap(in_axes=0, out_axes=0)
    def step(model, optimizer):
        value, g = nnx.value_and_grad(lambda model: cross_entropy(model(jnp.asarray(INPUTS))))(model)
        optimizer.update(model, g)
        return value

    models, optimizers = create(jax.random.split(jax.random.key(0), 3))
    values = [step(models, optimizers) for _ in range(10)]
    assert np.all(values[-1] < values[0])
    np.testing.assert_array_equal(lossax.learning_rate(optimizers.opt_state), np.full(3, np.float32(RATE)))


# ---- transformations of the whole training ---------------------------------------------------------------------------


@pytest.mark.sampled
@every
def test_training_is_scanned_and_mapped_over_seeds(make):
    tx = make(RATE, **v.required(make))

    def loss(params):
        return cross_entropy(forward(params))

    def train(key):
        def body(carry, _):
            value, g = jax.value_and_grad(loss)(carry[0])
            updates, state = tx.update(g, carry[1], carry[0], obj_fn=loss)
            return (optax.apply_updates(carry[0], updates), state), value

        params = weights(key)
        return jax.lax.scan(body, (params, tx.init(params)), length=10)

    keys = jax.random.split(jax.random.key(1), 3)
    (params, state), values = jax.jit(jax.vmap(train))(keys)
    assert np.all(values[:, -1] < values[:, 0])
    alone = jax.jit(train)(keys[1])
    atol = 1e-5 * v.ability(make, "ULPS", (2, 8))[1] / 8
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], (params, state)), alone[0], rtol=1e-4, atol=atol)


# ---- Optax's wrappers ------------------------------------------------------------------------------------------------


def steps(tx: Any, count: int = 3, grads: Callable = gradients) -> tuple[Any, Any]:
    """The parameters after a few steps of one compiled program, and the last state."""
    step = jax.jit(lambda g, s, p: tx.update(g, s, p, obj_fn=quadratic))
    params: Any = parameters()
    state = tx.init(params)
    before = structure(state)
    for i in range(count):
        updates, state = step(grads(seed=i), state, params)
        params = optax.apply_updates(params, updates)
    assert structure(state) == before
    return params, state


@pytest.mark.sampled
@every
def test_in_optax_wrappers(make):
    """The wrapped optimizer does what it does alone."""
    required = v.required(make)
    tx = make(RATE, **required)
    alone, _ = steps(tx)
    w_alone, _ = steps(optax.chain(tx, optax.masked(optax.set_to_zero(), {"w": False, "b": True})))
    start = parameters()

    masked, state = steps(optax.masked(tx, {"w": True, "b": False}))
    if v.ability(make, "SEES_ALL_LEAVES", False):  # then the steps of one leaf are others without the other
        w_alone = masked
    chex.assert_trees_all_close(masked["w"], w_alone["w"], rtol=1e-6)
    assert lossax.learning_rate(state) == np.float32(RATE)

    split, _ = steps(optax.partition({"a": tx, "b": optax.set_to_zero()}, {"w": "a", "b": "b"}))
    chex.assert_trees_all_close(split["w"], w_alone["w"], rtol=1e-6)
    chex.assert_trees_all_equal(split["b"], start["b"])

    fixed = v.ability(make, "FIXED", {})
    kinds = inspect.signature(make).parameters.values()
    structural = [p.name for p in kinds if p.annotation is int or p.name in fixed]
    inject = optax.inject_hyperparams(make, static_args=structural, hyperparam_dtype=jnp.float32)
    injected, state = steps(inject(learning_rate=lossax.schedules.constant(RATE), **required))
    chex.assert_trees_all_close(injected, alone, rtol=1e-5)
    assert state.hyperparams["learning_rate"] == np.float32(RATE)

    with jax.numpy_dtype_promotion("standard"):
        gathered, state = steps(optax.MultiSteps(tx, 2).gradient_transformation(), 4)
    assert state.gradient_step == 2
    mean = iter([(0, 1), (2, 3)])

    def means(seed):
        del seed
        one, two = next(mean)
        return jax.tree.map(lambda a, b: 0.5 * (a + b), gradients(seed=one), gradients(seed=two))

    chex.assert_trees_all_close(gathered, steps(tx, 2, means)[0], rtol=1e-4, atol=1e-6)

    last, _ = steps(optax.apply_if_finite(tx, 3))
    chex.assert_trees_all_close(last, alone, rtol=1e-6)


@pytest.mark.sampled
@every
def test_lossax_and_optax_mix_in_a_chain(make):
    tx = make(RATE, **v.required(make))
    alone, _ = steps(tx)
    chex.assert_trees_all_close(steps(lossax.chain(optax.clip_by_global_norm(1e9), tx))[0], alone, rtol=1e-6)
    chex.assert_trees_all_close(steps(optax.chain(optax.identity(), tx, optax.scale(1.0)))[0], alone, rtol=1e-6)
    named = optax.named_chain(("first", lossax.transforms.clip_by_global_norm(1e9)), ("second", tx))
    chex.assert_trees_all_close(steps(named)[0], alone, rtol=1e-6)


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def assert_bitwise(restored, state):
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, state)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def states(make):
    """The state after some steps, plain and with each part that a switch adds."""
    parameters_of = inspect.signature(make).parameters
    yield steps(make(RATE, **v.required(make)))[1]
    if "momentum" in parameters_of and parameters_of["momentum"].default is None:
        yield steps(make(RATE, momentum=0.9, **v.required(make)))[1]
    if "mu_dtype" in parameters_of:
        yield steps(make(RATE, mu_dtype=jnp.bfloat16, **v.required(make)))[1]
    if "min_dim_size_to_factor" in parameters_of:
        yield steps(make(RATE, min_dim_size_to_factor=2, **v.required(make)))[1]


@pytest.mark.sampled
@every
def test_msgpack_round_trip(make):
    """Promise O9."""
    serialization = pytest.importorskip("flax.serialization")
    for state in states(make):
        fresh = jax.tree.map(jnp.zeros_like, state)
        assert_bitwise(serialization.from_bytes(fresh, serialization.to_bytes(state)), state)


@pytest.mark.sampled
@every
def test_orbax_round_trip(make, tmp_path):
    """Promise O9."""
    checkpoint = pytest.importorskip("orbax.checkpoint")
    with checkpoint.StandardCheckpointer() as checkpointer:
        for i, state in enumerate(states(make)):
            checkpointer.save(tmp_path / str(i), state)
            checkpointer.wait_until_finished()
            restored = checkpointer.restore(tmp_path / str(i), jax.eval_shape(lambda state=state: state))
            assert_bitwise(restored, state)


# ---- what stays Optax's ----------------------------------------------------------------------------------------------


def rosenbrock(params):
    x = params["w"]
    return jnp.sum(10.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


SEARCHES: dict[str, Callable[[], optax.GradientTransformationExtraArgs]] = {
    "lbfgs": lambda: lossax.chain(lossax.transforms.clip_by_global_norm(1e9), optax.lbfgs()),
    "backtracking": lambda: lossax.chain(
        lossax.optimizers.adam(1.0), optax.scale_by_backtracking_linesearch(30, store_grad=True)
    ),
    "zoom": lambda: lossax.chain(
        lossax.optimizers.scale_by_adam(), optax.scale(-1.0), optax.scale_by_zoom_linesearch(20)
    ),
    "averaged": lambda: lossax.transforms.skip_nonfinite(lossax.transforms.average_parameters(optax.lbfgs(), 0.5)),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_line_searches_and_second_order_methods_compose(name):
    """Value, gradient and the function itself go through lossax's transformations as extra arguments."""
    tx = SEARCHES[name]()
    params = {"w": jnp.array([-1.0, 1.5, 0.5])}

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(rosenbrock)(params)
        updates, state = tx.update(grads, state, params, value=value, grad=grads, value_fn=rosenbrock)
        return optax.apply_updates(params, updates), state, value

    state, values = tx.init(params), []
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for _ in range(60):
            params, state, value = step(params, state)
            values.append(float(value))
    assert values[-1] < (1e-6 if name in ("lbfgs", "averaged") else 0.1) * values[0]
