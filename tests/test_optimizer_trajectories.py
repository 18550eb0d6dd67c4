"""Whole trajectories: against the oracles, Optax and torch, in numbers. One line of the table is one convention."""

import inspect
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lossax
from tests.oracles import oracles
from tests.vocabulary import ability, optimised, quick

STEPS = 120
RATE = 0.01


class Case(NamedTuple):
    """An optimizer, its arguments, and the names and arguments of the same thing in Optax and torch."""

    name: str
    own: dict[str, Any]
    optax: tuple[str, dict[str, Any]] | None = None
    torch: tuple[str, dict[str, Any]] | None = None

    def make(self, rate=RATE, **changed):
        return getattr(lossax.optimizers, self.name)(rate, **(self.own | changed))

    def make_optax(self):
        name, own = self.optax  # pyright: ignore[reportGeneralTypeIssues]
        return optax.with_extra_args_support(operator.attrgetter(name)(optax)(RATE, **own))


def alternating(step):
    """A schedule whose values float32 holds exactly."""
    even = step % 2 == 0
    return jnp.where(even, 0.5, 0.75) if isinstance(step, jax.Array) else 0.5 if even else 0.75


HEAVY = {"momentum": 0.9}
AHEAD = {"momentum": 0.9, "nesterov": True}
BETAS = {"b1": 0.8, "b2": 0.95, "eps": 1e-3}
ROOTED = {"eps": 0.0, "eps_root": 1e-4}
OUTSIDE = {"decay": 0.99, "eps_in_sqrt": False}
CENTERED = {"centered": True}
UNCLIPPED = {"b2": 0.99}
UNCORRECTED = {"bias_correction_mu": False, "bias_correction_nu": False}
SUMMED = {"accumulate": "sum", "grafting": "none", "start": 1, "every": 3, "eps": 1e-3, "nesterov": True} | HEAVY
COUNTED = {"deterministic": True, "update_probability": 0.3, "damping": 0.0}
NORMS = [lambda _, norm=norm: norm for norm in ("sign io", "row oi", "column io", "rms oo")]
EARLY = {"start": 1, "eps": 1e-2}
MUON_RMS = ("contrib.muon", {"nesterov": False, "beta": 0.8, "consistent_rms": 0.2})
CASES = [
    Case("sgd", {}, ("sgd", {}), ("SGD", {})),
    Case("sgd", HEAVY, ("sgd", HEAVY), ("SGD", HEAVY)),
    Case("sgd", AHEAD, ("sgd", AHEAD), ("SGD", AHEAD)),
    Case("sgd", HEAVY | {"dampening": 0.25}, None, ("SGD", HEAVY | {"dampening": 0.25})),
    Case("sgd", AHEAD | {"momentum": alternating, "dampening": alternating}),
    Case("rmsprop", {}, ("rmsprop", {})),
    Case("rmsprop", {"initial_scale": 1.0}, ("rmsprop", {"initial_scale": 1.0})),
    Case("rmsprop", {"bias_correction": True}, ("rmsprop", {"bias_correction": True})),
    Case("rmsprop", CENTERED | HEAVY, ("rmsprop", CENTERED | HEAVY)),
    Case("rmsprop", AHEAD | OUTSIDE, ("rmsprop", AHEAD | OUTSIDE)),
    Case("rmsprop", CENTERED | {"bias_correction": True, "eps": 1e-2, "initial_scale": 1.0}),
    Case("rmsprop", OUTSIDE, ("rmsprop", OUTSIDE), ("RMSprop", {})),
    Case("rmsprop", OUTSIDE | HEAVY, ("rmsprop", OUTSIDE | HEAVY), ("RMSprop", HEAVY)),
    Case("rmsprop", OUTSIDE | CENTERED | HEAVY, None, ("RMSprop", CENTERED | HEAVY)),
    Case("rmsprop", CENTERED | {"decay": alternating, "bias_correction": True, "momentum": alternating}),
    Case("adagrad", {}, ("adagrad", {})),
    Case("adagrad", {"initial_accumulator_value": 0.0, "eps": 1e-10, "eps_in_sqrt": False}, None, ("Adagrad", {})),
    Case("adam", {}, ("adam", {}), ("Adam", {})),
    Case("adam", BETAS, ("adam", BETAS), ("Adam", {"betas": (0.8, 0.95), "eps": 1e-3})),
    Case("adam", ROOTED, ("adam", ROOTED)),
    Case("adam", {"b1": alternating, "b2": alternating}),
    Case("adamw", {}, ("adamw", {}), ("AdamW", {"weight_decay": 1e-4})),
    Case("adamw", {"weight_decay": 0.01, "independent": True}),
    Case("nadam", {}, ("nadam", {})),
    Case("nadam", BETAS | {"weight_decay": 0.1}, ("nadamw", BETAS | {"weight_decay": 0.1})),
    Case("nadam", {"momentum_decay": 4e-3}, None, ("NAdam", {})),
    Case(
        "nadam",
        {"momentum_decay": 0.1, "weight_decay": 0.1},
        None,
        ("NAdam", {"momentum_decay": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ),
    Case("nadam", {"b1": alternating, "b2": alternating}),
    Case("lion", {}, ("lion", {})),
    Case("muon", {}, ("contrib.muon", {})),
    Case("muon", {"nesterov": False, "beta": 0.8, "scale": "rms"}, MUON_RMS),
    Case("muon", {"coefficients": "dion"}, ("contrib.muon", {"ns_coeffs": "dion"})),
    Case("muon", {"coefficients": "polar_express", "steps": 8, "norm": "schatten", "scale": "spectral"}),
    Case("muon", {"beta": alternating, "scale": "none"}),
    Case("dion", {"rank": 2}),
    Case("dion", {"rank": 2, "beta": alternating, "eps": 1e-3}),
    Case("scion", {}),
    Case("scion", {"beta": alternating, "radius": alternating, "coefficients": "dion", "weight_decay": 0.0}),
    *(Case("scion", {"norms": one, "weight_decay": 0.5}) for one in NORMS),
    Case("normuon", {}),
    Case("normuon", {"nesterov": True, "scale": "width", "eps": 1e-3}),
    Case("normuon", {"b1": alternating, "b2": alternating, "coefficients": "polar_express", "steps": 8}),
    Case("adamuon", {}),
    Case("adamuon", {"nesterov": True, "sign": False, "b2": 0.999}),
    Case("adamuon", {"b1": alternating, "b2": alternating, "scale": "spectral", "norm": "schatten", "eps": 1e-3}),
    Case(
        "lion", {"b1": 0.95, "b2": 0.98, "weight_decay": 0.1}, ("lion", {"b1": 0.95, "b2": 0.98, "weight_decay": 0.1})
    ),
    Case("lion", {"b1": alternating, "b2": alternating}),
    Case("amsgrad", {}, ("amsgrad", {})),
    Case("amsgrad", {"bias_correction_max": True}, None, ("Adam", {"amsgrad": True})),
    Case("amsgrad", BETAS | UNCORRECTED, ("amsgrad", BETAS | UNCORRECTED)),
    Case("amsgrad", ROOTED | {"b1": alternating, "b2": alternating}),
    Case("radam", {}),  # Optax's in float32 is another
    Case("radam", {"eps": 0.0}, None, ("RAdam", {"eps": 0.0})),
    Case("radam", {"b1": alternating, "b2": alternating}),
    Case("adamax", {}, ("adamax", {}), ("Adamax", {})),
    Case("adamax", BETAS | {"weight_decay": 0.1}, ("adamaxw", BETAS | {"weight_decay": 0.1})),
    Case("adamax", {"b1": alternating, "b2": alternating}),
    Case("adabelief", {}, ("adabelief", {})),
    Case("adabelief", {"nesterov": True, "eps_root": 0.1}, ("adabelief", {"nesterov": True, "eps_root": 1e-4})),
    Case("adabelief", {"b1": alternating, "b2": alternating}),
    Case("yogi", {}),
    Case("yogi", {"b1": alternating, "b2": alternating, "eps_root": 0.1}),
    Case("adopt", {}),  # Optax's 1 - b2 is rounded by 2e-4
    Case("adopt", BETAS | {"nesterov": True}, ("contrib.adopt", BETAS | {"nesterov": True})),
    Case("adopt", UNCLIPPED | {"clip_threshold": jnp.inf}, ("contrib.adopt", UNCLIPPED | {"use_clipping": False})),
    Case("adopt", {"b1": alternating, "b2": alternating, "clip_threshold": alternating}),
    Case("ademamix", {}, ("contrib.ademamix", {})),
    Case("ademamix", BETAS | {"b3": 0.99, "alpha": 8.0}, ("contrib.ademamix", BETAS | {"b3": 0.99, "alpha": 8.0})),
    Case("ademamix", {"alpha_warmup_steps": 100, "b3_warmup_steps": 50, "eps_root": 0.1}),
    Case("ademamix", {"b1": alternating, "b2": alternating, "b3": alternating, "alpha": alternating}),
    Case("adan", {}),  # Optax's multiplies changes by 1 - b2
    Case("adan", {"extrapolation": 0.08}, ("adan", {})),
    Case("adan", {"b1": alternating, "b2": alternating, "b3": alternating}),
    Case("mars", {}),
    Case("mars", {"base": "lion", "gamma": 0.5, "max_norm": alternating}),
    Case("mars", {"b1": alternating, "b2": alternating, "gamma": alternating, "max_norm": 4.0}),
    Case("laprop", {}),
    Case("laprop", {"b1": alternating, "b2": alternating, "eps": 1e-3}),
    Case("stable_adamw", {}),
    Case("stable_adamw", {"b1": alternating, "b2": alternating, "clip_threshold": alternating, "eps": 0.5}),
    Case("adam_atan2", {}),
    Case("adam_atan2", {"b1": alternating, "b2": alternating, "a": alternating, "b": alternating}),
    Case("signum", {}, ("signum", {})),
    Case("signum", {"beta": alternating}),
    Case("sign_sgd", {}, ("sign_sgd", {})),
    Case("adadelta", {}, ("adadelta", {}), ("Adadelta", {})),
    Case("adadelta", {"rho": alternating, "eps": 1e-3}),
    Case("rprop", {}),
    Case("rprop", {"eta_minus": alternating, "max_relative_step": 2.0, "min_relative_step": alternating}),
    Case("schedule_free_sgd", {}),
    Case("schedule_free_sgd", {"b1": alternating, "r": 1.0, "weight_decay": 0.1}),
    Case("schedule_free_adamw", {}),
    Case("schedule_free_adamw", {"b1": 0.0, "b2": alternating, "eps": 1e-3, "weight_decay": 0.1}),
    Case("dadapt_adamw", {}, ("contrib.dadapt_adamw", {})),
    Case(
        "dadapt_adamw",
        {"weight_decay": 0.1, "d0": 1e-2},
        ("contrib.dadapt_adamw", {"weight_decay": 0.1, "estim_lr0": 1e-2}),
    ),
    Case("dadapt_adamw", {"b1": alternating, "b2": alternating, "growth_rate": 1.02, "d0": 0.1, "eps": 1e-3}),
    Case("dog", {}, ("contrib.dog", {})),
    Case("dog", {"layerwise": True, "reps_rel": 1e-2, "eps": alternating}),
    Case("dowg", {}, ("contrib.dowg", {})),
    Case("dowg", {"initial_distance": 1.0, "eps": alternating, "weight_decay": 0.1}),
    Case("prodigy", {}, ("contrib.prodigy", {})),
    Case(
        "prodigy",
        {"b3": 0.9, "d0": 1e-2, "d_coef": 2.0, "weight_decay": 0.1, "safeguard_warmup": True},
        (
            "contrib.prodigy",
            {"beta3": 0.9, "estim_lr0": 1e-2, "estim_lr_coef": 2.0, "weight_decay": 0.1, "safeguard_warmup": True},
        ),
    ),
    Case("prodigy", {"b1": alternating, "b2": alternating, "growth_rate": 1.01, "d0": 0.1, "bias_correction": False}),
    Case("came", {}),
    Case("came", {"min_dim_size_to_factor": 4, "clip_threshold": 0.5, "eps": 1e-3}),
    Case("came", {"b1": alternating, "b2": alternating, "b3": alternating, "eps_instability": 0.1}),
    Case("soap", {}),
    Case("soap", {"every": 3, "statistics": "kl", "b1": alternating, "b2": alternating}),
    Case("soap", {"every": 2, "one_sided": True, "shampoo_beta": alternating, "eps": 1e-3}),
    Case("kl_shampoo", {}),
    Case("kl_shampoo", {"every": 3, "max_size": 3, "b1": alternating, "b2": alternating, "eps": 1e-3}),
    Case("psgd_kron", {"deterministic": True, "damping": 0.0}),
    Case("psgd_kron", COUNTED | {"factor_rate": 0.5, "diagonal": "one", "clip_threshold": jnp.inf}),
    Case("psgd_kron", COUNTED | {"b1": alternating, "clip_threshold": alternating, "diagonal": "all"}),
    Case("shampoo", {"start": 3, "every": 2}),
    Case("shampoo", SUMMED),
    Case("shampoo", {"start": 1, "every": 1, "block_size": 2, "max_size": 3, "grafting": "sgd", "exponent": 0.5}),
    Case("shampoo", EARLY | {"b1": alternating, "b2": alternating, "block_size": 2, "grafting": "rmsprop"}),
    Case("adam_mini", {}),
    Case("adam_mini", {"unit_axes": (), "b1": alternating, "b2": alternating, "eps": 1e-3}),
]


FIRST = {case.name: case for case in reversed(CASES)}


def table(cases, *, sampled=False):
    """`sampled` marks all but the first case of each optimizer."""

    def param(case):
        shown = (f"{k}={'schedule' if callable(x) else x}" for k, x in case.own.items())
        marks = pytest.mark.sampled if sampled and case is not FIRST[case.name] else ()
        return pytest.param(case, id=f"{case.name}({', '.join(shown)})", marks=marks)

    return pytest.mark.parametrize("case", [param(case) for case in cases])


every = table(CASES)


def quadratic(params):
    """What optimizers that ask for an objective are given."""
    return jnp.sum(params**2)


EXTRA = {"obj_fn": quadratic, "sampled_loss_fn": lambda params, key: quadratic(params + 0.0 * key.sum())}


def data(dtype: Any = "float32"):
    """Parameters, and gradients whose coordinates differ in scale by thousands."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(STEPS, 3, 4)) * np.exp(2.0 * rng.normal(size=(3, 4)))
    return rng.normal(size=(3, 4)).astype("float32").astype(dtype), gradients.astype("float32").astype(dtype)


def trajectory(tx, params, gradients, *, frozen=False):
    """The parameters after all steps, and the update of each."""

    @(optimised if frozen else quick)  # updates from frozen parameters are judged by their last digits
    def run(params, gradients):
        def body(carry, g):
            updates, state = tx.update(g, carry[1], carry[0], **EXTRA)
            return (carry[0] if frozen else optax.apply_updates(carry[0], updates), state), updates

        (params, _), updates = jax.lax.scan(body, (params, tx.init(params)), gradients)
        return params, updates

    return [np.asarray(x) for x in run(params, gradients)]


def ulps_of(case):
    """How far medians of updates may be from float64, at the first step and later."""
    return ability(getattr(lossax.optimizers, case.name), "ULPS", (2, 8))


def exact(case, params, gradients, **changed):
    return np.stack(oracles()[case.name](params, list(gradients), RATE, **(case.own | changed)))


def assert_close(ours, theirs, tolerance):
    """Relative to each value, and to the size of all where values cancel."""
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.sqrt(np.mean(np.square(theirs))))


# ---- the formula -----------------------------------------------------------------------------------------------------


@every
def test_float64_is_the_oracle(case):
    params, gradients = data("float64")
    with jax.enable_x64(True):
        _, updates = trajectory(case.make(), params, gradients)
    assert updates.dtype == np.float64
    assert_close(updates, exact(case, params, gradients), 1e-9)


@table(CASES, sampled=True)
def test_float32_update_is_the_formula(case):
    """Promise O4: against float64, parameters frozen: median at most 2 ulp at step 1, and 8 through step 100.

    More where a family says why.
    """
    first, later = ulps_of(case)
    params, gradients = data()
    _, updates = trajectory(case.make(weight_decay=0.0), params, gradients, frozen=True)
    right = exact(case, params.astype("float64"), gradients.astype("float64"), weight_decay=0.0)
    ulps = np.abs(updates - right) / np.spacing(np.abs(right).astype("float32"))
    medians = np.median(ulps, axis=(1, 2))
    assert medians[0] <= first
    assert medians[:100].max() <= later


def test_complex_is_the_oracle():
    params, gradients = data("float64")
    params, gradients = params + 1j, gradients + 1j * gradients[::-1]
    for case in {case.name: case for case in CASES if alternating not in case.own.values()}.values():
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # strict refuses real * complex
            try:
                _, updates = trajectory(case.make(), params, gradients)
            except TypeError as error:
                assert "complex" in str(error)
                continue
        assert updates.dtype == np.complex128
        right = exact(case, params, gradients)
        np.testing.assert_allclose(updates, right, rtol=1e-9, atol=1e-9 * np.abs(right).max(), err_msg=str(case))


# ---- peers -----------------------------------------------------------------------------------------------------------


@table([case for case in CASES if case.optax])
def test_optax(case):
    """1e-5 in float32, as the design promises; and in float64, where Optax has no rounding of its own to show."""
    params, gradients = data()
    with jax.numpy_dtype_promotion("standard"):
        theirs = trajectory(case.make_optax(), params, gradients)
    ours = trajectory(case.make(), params, gradients)
    assert_close(ours[0], theirs[0], 1e-5)
    # Optax's float32 bias correction alone is 130 ulp off.
    assert_close(ours[1], theirs[1], 2e-5 * ulps_of(case)[1] / 8)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        theirs = trajectory(case.make_optax(), *data("float64"))
        wide = trajectory(case.make(), *data("float64"))
    assert_close(wide[0], theirs[0], 1e-9)
    assert_close(wide[1], theirs[1], 1e-9)
    assert_close(ours[0], theirs[0], 2e-6)


@table([case for case in CASES if case.optax])
def test_state_is_no_larger_than_optax(case):
    """But for a few numbers: the step, the rate in effect, the mass of each average."""
    params = jax.ShapeDtypeStruct((64, 32), "float32")
    states = (jax.eval_shape(tx.init, params) for tx in (case.make(), case.make_optax()))
    ours, theirs = (sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) for state in states)
    assert ours <= theirs + 64


@table([case for case in CASES if case.torch])
def test_torch(case):
    """In float64, under a learning rate that changes."""
    torch = pytest.importorskip("torch")
    params, gradients = data("float64")
    tensor = torch.tensor(params, requires_grad=True)
    name, own = case.torch
    peer = getattr(torch.optim, name)([tensor], lr=RATE, **own)
    path = []
    for step, g in enumerate(gradients):
        peer.param_groups[0]["lr"] = RATE * float(alternating(step))
        tensor.grad = torch.tensor(g)
        peer.step()
        path.append(tensor.detach().numpy().copy())
    with jax.enable_x64(True):
        after, updates = trajectory(case.make(lambda step: RATE * alternating(step)), params, gradients)
    assert_close(after, path[-1], 1e-9)
    assert_close(params + np.cumsum(updates, axis=0), np.stack(path), 1e-9)


# ---- half precision --------------------------------------------------------------------------------------------------


DROPPING = np.float32(np.random.default_rng(0).normal(size=(3100, 3, 4)))
DROPPING[100:] *= 0.01


@table(CASES, sampled=True)
def test_bfloat16_parameters_behave_as_float32(case):
    """Promise O3: once gradients have dropped a hundredfold, bfloat16 steps are as long as float32's."""
    if ability(getattr(lossax.optimizers, case.name), "KEEPS_WHAT_ROUNDING_TAKES", False):
        pytest.skip("a step makes up for the rounding of those before")

    @quick
    def length(params):
        tx = case.make(weight_decay=0.0)

        def body(state, g):
            updates, state = tx.update(g.astype(params.dtype), state, params, **EXTRA)
            return state, jnp.mean(jnp.square(updates.astype(jnp.float32)))

        _, squares = jax.lax.scan(body, tx.init(params), DROPPING)
        return jnp.sqrt(jnp.mean(squares[-100:]))

    params, _ = data()
    np.testing.assert_allclose(length(params.astype(jnp.bfloat16)), length(params), rtol=0.05)


@pytest.mark.parametrize("name", ["adam", "nadam"])
def test_a_narrow_first_moment_is_rounded_and_not_biased(name):
    """Stored in bfloat16 and used in float32. Optax multiplies in bfloat16, where b1 is 0.898: updates 0.5% short."""
    case = Case(name, {"mu_dtype": "bfloat16"})
    params, gradients = data()
    assert optax.tree.get(case.make().init(params), "mu").dtype == jnp.bfloat16
    _, updates = trajectory(case.make(), params, gradients)
    right = exact(Case(name, {}), params.astype("float64"), gradients.astype("float64"))
    error = (updates - right) / np.sqrt(np.mean(right**2))
    assert np.sqrt(np.mean(error**2)) < 2.0**-8
    assert abs(np.mean(error * np.sign(right))) < 5e-4


# ---- derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.sampled
@every
def test_three_steps_are_differentiable(case):
    """Promise O6: by the rate, every number of the line, the parameters and the gradients."""
    defaults = {p.name: p.default for p in inspect.signature(getattr(lossax.optimizers, case.name)).parameters.values()}
    defaults.pop("learning_rate")
    numbers = {k: x for k, x in (defaults | case.own).items() if isinstance(x, float)} | {"rate": RATE}
    params, gradients = data("float64")
    gradients = gradients[:3]

    def after(numbers, params, gradients):
        tx = case.make(**numbers)
        state = tx.init(params)
        for g in gradients:
            updates, state = tx.update(g * params, state, params, **EXTRA)
            params = optax.apply_updates(params, updates)
        return sum(jnp.sum(jnp.sin(p)) for p in jax.tree.leaves(params))

    slopes = quick(jax.grad(after, argnums=(0, 1, 2)))
    for kind in ("ordinary", "zero", "one dead"):
        g = gradients.copy()
        if kind != "ordinary":
            g[(...,) if kind == "zero" else (slice(None), 0, 0)] = 0.0
        for leaf in jax.tree.leaves(slopes(jax.tree.map(np.float32, numbers), np.float32(params), np.float32(g))):
            assert np.all(np.isfinite(leaf)), kind


# ---- where the peers go wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias_correction", [False, True])
def test_centred_variance_does_not_cancel(bias_correction):
    """A mean a thousand times the deviation: the mean of squares less the square of the mean has no digit left."""
    params, gradients = data()
    gradients = np.float32(1.0) + np.float32(1e-3) * np.sign(gradients)
    case = Case("rmsprop", {"centered": True, "bias_correction": bias_correction, "eps": 1e-12, "initial_scale": 1.0})
    _, updates = trajectory(case.make(), params, gradients)
    assert_close(updates, exact(case, params.astype("float64"), gradients.astype("float64")), 1e-4)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("adam", {"eps": 0.0}),
        ("nadam", {"eps": 0.0}),
        ("rmsprop", {"eps": 0.0}),
        ("rmsprop", {"eps": 0.0, "eps_in_sqrt": False}),
        ("adagrad", {"eps": 0.0, "initial_accumulator_value": 0.0}),
    ],
)
def test_a_dead_coordinate_needs_no_eps(name, own):
    params, gradients = data()
    gradients[:, 0, 0] = 0.0
    _, updates = trajectory(Case(name, own).make(), params, gradients)
    assert np.all(updates[:, 0, 0] == 0)
    assert np.all(np.isfinite(updates))
    assert np.all(updates[:, 1:] != 0)
