"""Which loss, which optimizer: two tables of data, which the README shows too.

Every row names functions of the public namespaces: the first is what is recommended, the others are alternatives.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from lossax import (
    _check,
    activations,
    calibration,
    losses,
    objectives,
    optimizers,
    regularizers,
    schedules,
    targets,
    transforms,
)

_SPACES = {
    "activations": activations,
    "calibration": calibration,
    "losses": losses,
    "objectives": objectives,
    "optimizers": optimizers,
    "regularizers": regularizers,
    "schedules": schedules,
    "targets": targets,
}


class Task(NamedTuple):
    """A row of "Which loss?"."""

    task: str
    have: str
    use: tuple[str, ...]
    because: str


class Model(NamedTuple):
    """A row of "Which optimizer?"."""

    model: str
    train: str
    use: tuple[str, ...]
    learning_rate: float
    options: dict[str, float | str]
    schedule: str
    clip: float | None
    because: str


TASKS = (
    Task(
        "regression",
        "real numbers, errors about normal",
        ("losses.squared_error", "losses.gaussian_nll"),
        "it estimates the mean; one outlier can dominate",
    ),
    Task(
        "regression with outliers",
        "real numbers with outliers",
        ("losses.huber", "losses.absolute_error", "losses.barron", "losses.student_t_nll"),
        "the gradient of a large error stays bounded; `barron` goes from squared error to Welsch by one number",
    ),
    Task(
        "quantiles",
        "intervals, forecasts",
        ("losses.multi_quantile", "losses.quantile", "losses.interval_score", "calibration.conformal_quantile"),
        "each level is its own quantile; conformal prediction then makes the coverage hold",
    ),
    Task(
        "distributions",
        "an uncertainty for each prediction",
        ("losses.crps_gaussian", "losses.gaussian_nll", "losses.mixture_gaussian_nll", "losses.crps_ensemble"),
        "a proper score, in the unit of the targets, and finite however sure and wrong the model is",
    ),
    Task(
        "counts",
        "counts",
        ("losses.poisson_nll_with_log_rates", "losses.negative_binomial_nll", "losses.zero_inflated_poisson_nll"),
        "their variance grows with their mean; negative binomial where it grows faster",
    ),
    Task(
        "amounts",
        "positive amounts over several orders of magnitude",
        ("losses.gamma_deviance", "losses.tweedie_deviance", "losses.squared_log_error"),
        "errors count in proportion; Tweedie where exact zeros occur",
    ),
    Task(
        "survival",
        "times until an event, some cut off",
        ("losses.cox_partial_likelihood", "losses.discrete_hazard_nll", "losses.weibull_aft_nll"),
        "what was cut off says that it lasted longer, and no more",
    ),
    Task(
        "binary",
        "two classes",
        ("losses.sigmoid_binary_cross_entropy", "losses.hinge"),
        "takes logits, never probabilities",
    ),
    Task(
        "multi-label",
        "labels of which many may hold at once",
        ("losses.sigmoid_binary_cross_entropy", "losses.asymmetric", "losses.multi_label_softmax"),
        "one unit per label; asymmetric or ranking forms where nearly all labels are absent",
    ),
    Task(
        "multiclass",
        "one of many classes",
        ("losses.softmax_cross_entropy_with_integer_labels", "losses.multiclass_hinge"),
        "takes logits, never probabilities",
    ),
    Task(
        "soft labels",
        "a distribution over classes as target",
        ("losses.softmax_cross_entropy", "losses.kl_divergence", "targets.mixup"),
        "soft labels, distillation, mixup",
    ),
    Task(
        "imbalanced",
        "rare classes",
        (
            "losses.logit_adjusted",
            "targets.class_balanced_weights",
            "losses.softmax_focal",
            "losses.sigmoid_focal",
            "losses.ldam",
        ),
        "the prior is put where it belongs; class weights are the simpler knob, focal is not always better: measure",
    ),
    Task(
        "noisy labels",
        "labels of which some are wrong",
        (
            "losses.generalized_cross_entropy",
            "losses.bi_tempered_logistic",
            "losses.forward_corrected",
            "objectives.early_learning",
        ),
        "what contradicts everything else loses its say",
    ),
    Task(
        "ordinal",
        "ordered classes, ratings",
        ("losses.corn", "losses.coral", "losses.proportional_odds", "losses.squared_emd"),
        "a near miss costs less than a far one",
    ),
    Task(
        "unlabelled",
        "few labels and many examples without",
        ("losses.fixmatch", "objectives.virtual_adversarial", "losses.non_negative_pu"),
        "the model's sure answers teach it; positive-unlabelled where no negative is known",
    ),
    Task(
        "embeddings",
        "pairs that belong together: two views, an image and its text, a question and its answer",
        ("losses.info_nce", "losses.siglip", "objectives.memory", "losses.vicreg"),
        "the rest of the batch are the negatives, `symmetric` for two kinds of data; sweep the temperature first",
    ),
    Task(
        "metric learning",
        "examples with labels, to find others of their kind",
        ("losses.supervised_contrastive", "losses.margin_softmax", "losses.batch_triplet_margin", "losses.circle"),
        "every other of a kind is a positive; a margin where the classes are fixed, as in face recognition",
    ),
    Task(
        "pairs",
        "pairs of which it is known whether, or how well, they fit",
        ("losses.contrastive", "losses.cosine_embedding", "losses.cosent", "activations.cosine_similarity"),
        "a distance with a threshold; for grades of similarity `cosent` asks only for their order",
    ),
    Task(
        "ranking",
        "a score by which positives go first",
        ("losses.auc_margin", "losses.average_precision"),
        "what is measured is the order, not the probability",
    ),
    Task(
        "graded lists",
        "queries with lists of graded items",
        ("losses.ranking_softmax", "losses.lambdarank", "losses.approx_ndcg", "targets.padded_lists"),
        "the top counts: `distribution='sum', gain='exponential'`; `lambdarank` and `approx_ndcg` follow NDCG itself",
    ),
    Task(
        "preferences",
        "orders, votes, which of two is better",
        ("losses.plackett_luce", "losses.list_mle", "losses.bradley_terry"),
        "an order is chosen from the top down, known in part or whole; for pairs `bradley_terry` (BPR)",
    ),
    Task(
        "implicit feedback",
        "clicks or purchases, and nothing about the rest",
        ("losses.warp", "losses.pairwise_logistic", "losses.sampled_softmax"),
        "what was chosen goes before what was not; a sample corrected by its probability where the catalogue is large",
    ),
    Task(
        "segmentation",
        "a class for every pixel",
        ("losses.dice", "losses.lovasz_softmax", "losses.focal_tversky", "losses.softmax_cross_entropy"),
        "overlap does not drown in background; add cross-entropy for calibrated pixels: `objectives.weighted_sum`",
    ),
    Task(
        "boxes",
        "bounding boxes",
        ("losses.box_giou", "losses.box_ciou", "losses.smooth_l1"),
        "scale-free, and with a gradient where boxes do not meet",
    ),
    Task(
        "large vocabulary",
        "one of very many classes",
        ("losses.sampled_softmax", "losses.adaptive_softmax"),
        "the cost of a step does not grow with all classes",
    ),
    Task(
        "tokens",
        "tokens with padding, language models",
        ("losses.linear_cross_entropy", "targets.next_tokens", "losses.softmax_cross_entropy_with_integer_labels"),
        "from hidden states, the logits never exist; with `where=` the mean is over real tokens, on all devices",
    ),
    Task(
        "distillation",
        "a larger model that answers the same questions",
        (
            "losses.distillation",
            "losses.linear_distillation",
            "losses.top_k_distillation",
            "losses.correlation_distillation",
        ),
        "forward divergence to cover what the teacher says, reverse for its best; of logits, top k or hidden states",
    ),
    Task(
        "preference tuning",
        "answers of a language model, of which one is better or liked",
        ("losses.dpo", "losses.simpo", "losses.kto", "losses.bradley_terry", "activations.linear_log_probs"),
        "`dpo` beside a reference, `simpo` without; `kto` without pairs; `bradley_terry` for a reward model",
    ),
    Task(
        "reinforcement",
        "rewards for what a policy has sampled: answers that can be checked, actions",
        (
            "losses.policy_gradient",
            "targets.group_advantages",
            "targets.gae",
            "losses.kl_estimate",
            "losses.clipped_value",
        ),
        "PPO, GRPO, DAPO, GSPO and others are its arguments; advantages from a group of answers or a value function",
    ),
    Task(
        "transcription",
        "labels in order, but not where: speech, handwriting",
        ("losses.ctc", "losses.transducer", "activations.ctc_best_path"),
        "all alignments are summed up; a transducer where labels depend on each other or a frame has several",
    ),
    Task(
        "tagging",
        "a tag for every step, which depends on its neighbours",
        ("losses.linear_chain_crf", "losses.softmax_cross_entropy_with_integer_labels", "activations.viterbi"),
        "what cannot follow is never predicted; a softmax at every step where neighbours say little",
    ),
    Task(
        "time series",
        "curves whose shape counts more than the time of each part",
        ("losses.soft_dtw_divergence", "losses.soft_dtw", "losses.huber"),
        "it forgives delays and differences in speed; where the time counts, an error for each step",
    ),
    Task(
        "samples",
        "two samples to be made alike",
        ("losses.mmd", "losses.energy_distance", "losses.sliced_wasserstein", "losses.correlation_alignment"),
        "no density is needed",
    ),
    Task(
        "calibrated",
        "probabilities that have to be right",
        ("losses.softmax_cross_entropy_with_integer_labels", "calibration.fit_temperature", "targets.mixup"),
        "a proper score first, then one temperature on held-out data",
    ),
    Task(
        "sparse",
        "few inputs that matter out of many",
        ("losses.squared_error", "regularizers.l1", "regularizers.elastic_net"),
        "an L1 penalty added to the loss draws the others to zero",
    ),
)

MODELS = (
    Model(
        "any",
        "anything, first try",
        ("optimizers.adamw", "optimizers.adam"),
        1e-3,
        {},
        "schedules.warmup_cosine",
        None,
        "one rate serves most models, and decay is decoupled",
    ),
    Model(
        "transformer",
        "a transformer",
        ("optimizers.adamw", "optimizers.lion"),
        3e-4,
        {"b2": 0.95, "weight_decay": 0.1},
        "schedules.warmup_cosine",
        1.0,
        "warm-up, a clip and a faster second moment survive its early spikes",
    ),
    Model(
        "fewer steps",
        "a transformer, in fewer steps",
        ("optimizers.muon", "optimizers.soap", "optimizers.adamw"),
        3e-3,
        {"scale": "rms", "weight_decay": 0.1},
        "schedules.warmup_cosine",
        1.0,
        "all singular values of a step are alike; at this scale rates and decay are AdamW's",
    ),
    Model(
        "convolutional",
        "a convolutional network",
        ("optimizers.sgd", "optimizers.adamw"),
        0.1,
        {"momentum": 0.9},
        "schedules.warmup_cosine",
        None,
        "generalizes at least as well as Adam there; try 0.01 to 0.1",
    ),
    Model(
        "recurrent",
        "a recurrent network",
        ("optimizers.adam", "optimizers.rmsprop"),
        1e-3,
        {},
        "schedules.warmup_cosine",
        1.0,
        "gradients through time explode: clip them",
    ),
    Model(
        "little memory",
        "with little memory",
        ("optimizers.adafactor", "optimizers.lion"),
        1e-2,
        {},
        "schedules.warmup_cosine",
        None,
        "a row and a column for each matrix; steps are relative to the size of the parameters, down to 1e-3",
    ),
    Model(
        "large batch",
        "large batches, with half of Adam's memory",
        ("optimizers.lion", "optimizers.adamw"),
        1e-4,
        {"weight_decay": 0.3},
        "schedules.warmup_cosine",
        1.0,
        "a third to a tenth of AdamW's rate, as much more decay",
    ),
    Model(
        "language model",
        "a language model, with curvature",
        ("optimizers.sophia", "optimizers.adamw"),
        2e-4,
        {"weight_decay": 0.1},
        "schedules.warmup_cosine",
        1.0,
        "a little below AdamW's rate; `update` takes `obj_fn=`",
    ),
)


class Recommendation(NamedTuple):
    """What to train with, ready to use, the code that builds it, why, and what else to try."""

    loss: Callable[..., jax.Array]
    optimizer: optax.GradientTransformation
    schedule: Callable[[jax.typing.ArrayLike], jax.Array]
    code: str
    reason: str
    alternatives: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.code}\n\n{self.reason}\nAlternatives: {', '.join(self.alternatives) or 'none'}"


def function(name: str) -> Callable[..., Any]:
    """The public function that a row of the tables names."""
    space, _, own = name.partition(".")
    return getattr(_SPACES[space], own)


def _call(name: str, *arguments: str, **options: Any) -> str:
    return f"{name}({', '.join([*arguments, *(f'{key}={value!r}' for key, value in options.items())])})"


def recommend(task: str, *, model: str = "any", steps: int = 1000) -> Recommendation:
    """Loss, optimizer and schedule to begin with, the reason, and what else to try.

    Args:
      task: What is to be learned: a row of "Which loss?", such as `"regression with outliers"`.
      model: What learns it: a row of "Which optimizer?", such as `"transformer"`.
      steps: Length of the run; a twentieth of it warms up.

    Returns:
      `Recommendation(loss, optimizer, schedule, code, reason, alternatives)`: the loss is a function, the optimizer a
      transformation and the schedule what it is built with; `code` builds the same.

    Raises:
      TypeError: if `steps` is no Python int.
      ValueError: if `task` or `model` is unknown, or `steps` below 1.

    Example:
      >>> print(recommend("regression with outliers", model="transformer", steps=100))
      loss = losses.huber
      schedule = schedules.warmup_cosine(0.0003, warmup_steps=5, decay_steps=95)
      optimizer = chain(transforms.clip_by_global_norm(1.0), optimizers.adamw(schedule, b2=0.95, weight_decay=0.1))
      <BLANKLINE>
      Loss: the gradient of a large error stays bounded; `barron` goes from squared error to Welsch by one number.
      Optimizer: warm-up, a clip and a faster second moment survive its early spikes.
      Alternatives: losses.absolute_error, losses.barron, losses.student_t_nll, optimizers.lion
    """
    tasks, models = {row.task: row for row in TASKS}, {row.model: row for row in MODELS}
    _check.choice(tasks, task=task)
    _check.choice(models, model=model)
    _check.count(steps=steps)
    wanted, trained = tasks[task], models[model]
    warmup = steps // 20
    phases = {"warmup_steps": warmup, "decay_steps": steps - warmup}
    schedule = function(trained.schedule)(trained.learning_rate, **phases)
    optimizer = function(trained.use[0])(schedule, **trained.options)
    built = _call(trained.use[0], "schedule", **trained.options)
    if trained.clip is not None:
        optimizer = optax.chain(transforms.clip_by_global_norm(trained.clip), optimizer)
        built = _call("chain", _call("transforms.clip_by_global_norm", str(trained.clip)), built)
    code = (
        f"loss = {wanted.use[0]}\n"
        f"schedule = {_call(trained.schedule, str(trained.learning_rate), **phases)}\n"
        f"optimizer = {built}"
    )
    reason = f"Loss: {wanted.because}.\nOptimizer: {trained.because}."
    alternatives = (*wanted.use[1:], *trained.use[1:])
    return Recommendation(function(wanted.use[0]), optimizer, schedule, code, reason, alternatives)
