"""Losses, projections and functions of trees of Optax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from operations.operation import (
    WIDE,
    Draw,
    Operation,
    integers,
    normal,
    op,
    positive,
    probabilities,
    tree,
    uniform,
    unit,
    value,
)

losses, projections = optax.losses, optax.projections

M, V = normal(4, 5), normal(6)
T: Draw = tree(w=normal(3, 4), b=normal(4))


def signs(draw: np.random.Generator) -> np.ndarray:
    return draw.integers(0, 2, 6) * 2.0 - 1


def align(logits: Any) -> Any:
    """CTC with paddings of the input and of the labels."""
    paddings = jnp.zeros(logits.shape[:2], logits.dtype).at[1, -1].set(1)
    labels, label_paddings = jnp.array([[1, 2, 3], [2, 2, 0]]), jnp.array([[0, 0, 0], [0, 0, 1]], logits.dtype)
    return losses.ctc_loss(logits, paddings, labels, label_paddings)


def step_with_adam(params: Any, grads: Any) -> Any:
    """One step of an optimizer that is differentiated through."""
    optimizer = optax.adam(0.1, eps_root=1e-3)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    return optax.apply_updates(params, updates)


def clip_by_global_norm(grads: Any) -> Any:
    return optax.clip_by_global_norm(1.0).update(grads, optax.EmptyState())[0]


TABLE: dict[str, tuple[Operation, ...]] = {
    "optax": (
        op("squared_error", losses.squared_error, M, normal(4, 5)),
        op("l2_loss", losses.l2_loss, M, normal(4, 5)),
        op("huber_loss", losses.huber_loss, M, normal(4, 5)),
        op("log_cosh", losses.log_cosh, M, normal(4, 5)),
        op("cosine_distance", lambda x, y: losses.cosine_distance(x, y, epsilon=1e-3), M, normal(4, 5)),
        op("cosine_similarity", losses.cosine_similarity, M, normal(4, 5)),
        op("hinge_loss", losses.hinge_loss, V, signs, argnums=(0,)),
        op("perceptron_loss", losses.perceptron_loss, V, signs, argnums=(0,)),
        op("sparsemax_loss", losses.sparsemax_loss, V, integers(2, 6)),
        op("multiclass_hinge_loss", losses.multiclass_hinge_loss, M, integers(5, 4)),
        op("multiclass_perceptron_loss", losses.multiclass_perceptron_loss, M, integers(5, 4)),
        op("multiclass_sparsemax_loss", losses.multiclass_sparsemax_loss, M, integers(5, 4), dtypes=WIDE),
        op("sigmoid_binary_cross_entropy", losses.sigmoid_binary_cross_entropy, M, unit(4, 5)),
        op("softmax_cross_entropy", losses.softmax_cross_entropy, M, probabilities(4, 5)),
        op("safe_softmax_cross_entropy", losses.safe_softmax_cross_entropy, M, probabilities(4, 5)),
        op(
            "softmax_cross_entropy_with_integer_labels",
            losses.softmax_cross_entropy_with_integer_labels,
            M,
            integers(5, 4),
        ),
        op(
            "poly_loss_cross_entropy",
            lambda z, y: losses.poly_loss_cross_entropy(z, y, epsilon=2.0),
            M,
            probabilities(4, 5),
        ),
        op(
            "sigmoid_focal_loss",
            lambda z, y: losses.sigmoid_focal_loss(z, y, alpha=0.25),
            V,
            lambda draw: signs(draw) / 2 + 0.5,
            argnums=(0,),
        ),
        op("kl_divergence", losses.kl_divergence, M, probabilities(4, 5)),
        op("kl_divergence_with_log_targets", losses.kl_divergence_with_log_targets, M, normal(4, 5)),
        op("generalized_kl_divergence", losses.generalized_kl_divergence, M, probabilities(4, 5)),
        op("ntxent", losses.ntxent, normal(6, 4), value(np.array([0, 0, 1, 1, 2, 2]))),
        op("triplet_margin_loss", losses.triplet_margin_loss, M, normal(4, 5), normal(4, 5)),
        op("ranking_softmax_loss", losses.ranking_softmax_loss, M, positive(4, 5), argnums=(0,)),
        op("dice_loss", lambda z, y: losses.dice_loss(z, y), normal(2, 6, 1), unit(2, 6, 1)),
        op("binary_dice_loss", losses.binary_dice_loss, normal(2, 6, 1), unit(2, 6, 1)),
        op(
            "multiclass_generalized_dice_loss",
            losses.multiclass_generalized_dice_loss,
            normal(2, 6, 3),
            probabilities(2, 6, 3),
        ),
        op("ctc_loss", align, normal(2, 6, 5)),
        op(
            "smooth_labels",
            lambda z, y: losses.softmax_cross_entropy(z, losses.smooth_labels(y, 0.1)),
            M,
            probabilities(4, 5),
        ),
        op(
            "make_fenchel_young_loss",
            lambda z, y: losses.make_fenchel_young_loss(jax.nn.logsumexp)(z, y),
            M,
            probabilities(4, 5),
        ),
        op("projection_simplex", projections.projection_simplex, V, dtypes=WIDE),
        op("projection_l1_ball", projections.projection_l1_ball, V, dtypes=WIDE),
        op("projection_l2_ball", projections.projection_l2_ball, V),
        op("projection_l2_sphere", projections.projection_l2_sphere, V),
        op("projection_linf_ball", projections.projection_linf_ball, V),
        op("projection_box", lambda x: projections.projection_box(x, -0.5, 1.0), V),
        op("projection_non_negative", projections.projection_non_negative, V),
        op("projection_hyperplane", lambda x, a: projections.projection_hyperplane(x, a, 1.0), V, uniform(1, 2, 6)),
        op("projection_halfspace", lambda x, a: projections.projection_halfspace(x, a, -9.0), V, uniform(1, 2, 6)),
        op("tree.norm", optax.tree.norm, T),
        op("tree.vdot", optax.tree.vdot, T, T),
        op("tree.add_scale", lambda x, y: optax.tree.add_scale(x, 0.3, y), T, T),
        op("clip_by_global_norm", clip_by_global_norm, T),
        op("adam, a step", step_with_adam, T, T),
        op("cosine_decay_schedule", lambda x: x * optax.cosine_decay_schedule(1.0, 10)(3), V),
    )
}
