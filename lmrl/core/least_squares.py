"""A critic in closed form: ridge regression of returns on features of states.

The linear baseline of "Benchmarking Deep Reinforcement Learning for Continuous Control" (Duan et al., 2016,
https://huggingface.co/papers/1604.06778), for the states of a text. Its features may see the references, as the critic
of "An Actor-Critic Algorithm for Sequence Prediction" (Bahdanau et al., 2017,
https://huggingface.co/papers/1607.07086) does: a baseline may depend on anything but the action.

Everything is computed from one matrix of sums, `moments` (F + 2, F + 2) for F features: the sum of `z z'` over all
tokens, with `z = [1, features, target]`. Matrices of micro-batches, processes and rollouts add up; a factor below 1
lets older ones count less. `weights` (F + 1,) are the bias and a weight for each feature. Both are float64.
"""

import torch
from torch import Tensor

from .checks import check_shapes

MAX_WIDTH = 1_024  # of states; wider ones are projected, as the cost of the fit grows with the cube of the width
PROJECTION_SEED = 0
CONSTANT = 1e-10  # a feature with a variance below this share of a mean square is a constant plus rounding


def regression_moments(features: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """
    Returns the moments of the tokens where the mask is 1, (F + 2, F + 2).

    Args:
        features (`torch.Tensor` of shape `(B, T, F)`):
            Features of the state before each token.
        targets (`torch.Tensor` of shape `(B, T)`):
            Return of each token.
    """
    check_shapes(3, features=features)
    check_shapes(2, targets=targets, mask=mask, states=features[..., 0])
    kept = mask.flatten().nonzero().squeeze(1)
    x = features.flatten(0, 1)[kept].double()
    y = targets.flatten()[kept].double()
    z = torch.cat([torch.ones_like(y).unsqueeze(1), x, y.unsqueeze(1)], dim=1)
    return z.T @ z


def fit_ridge(moments: Tensor, shrinkage: float | Tensor) -> Tensor:
    """
    Returns the weights that minimize the mean squared error plus `shrinkage` times the squared weights: (F + 1,).

    The penalty is on the weights of standardized features (mean 0, variance 1), so it means the same for each of them
    and for any number of tokens; the bias is not penalized. A feature that does not vary gets the weight 0. Without
    any token all weights are 0.

    Args:
        shrinkage (`float` or `torch.Tensor` of shape `(F,)`):
            Strength of the penalty, > 0, for all features or for each: the share of its variance added to it.
    """
    check_shapes(2, moments=moments)
    count = moments[0, 0]
    second = moments / torch.where(count > 0, count, 1.0)
    means = second[0]
    covariance = second - torch.outer(means, means)
    variances = covariance.diagonal()[1:-1]
    squares = second.diagonal()[1:-1]
    varies = variances > CONSTANT * squares.maximum(squares.median())  # a state's features have one rounding error
    scales = torch.where(varies, variances, torch.inf).rsqrt()  # 0 for a constant
    correlation = scales.unsqueeze(1) * covariance[1:-1, 1:-1] * scales
    regularized = correlation + torch.diag(torch.where(varies, shrinkage, 1.0))  # a constant: a row of the identity
    weights = scales * torch.linalg.solve(regularized, scales * covariance[1:-1, -1])
    return torch.cat([(means[-1] - weights @ means[1:-1]).unsqueeze(0), weights])


def squared_error(moments: Tensor, weights: Tensor) -> Tensor:
    """Returns the sum of the squared errors of the weights on the tokens summed up in the moments: a scalar >= 0."""
    check_shapes(2, moments=moments)
    check_shapes(1, weights=weights)
    residual = torch.cat([weights, weights.new_tensor([-1.0])])
    return (residual @ moments @ residual).clamp(min=0)


def linear_values(features: Tensor, weights: Tensor) -> Tensor:
    """Returns the values of states, (B, T) in float32, for features of shape (B, T, F)."""
    check_shapes(3, features=features)
    check_shapes(1, weights=weights)
    return (features.double() @ weights[1:] + weights[0]).float()


def narrow(vectors: Tensor, width: int = MAX_WIDTH) -> Tensor:
    """Returns vectors (..., D) in float32; wider ones are projected to `width` numbers by a fixed random matrix."""
    if vectors.shape[-1] <= width:
        return vectors.float()
    generator = torch.Generator().manual_seed(PROJECTION_SEED)
    projection = torch.randn(vectors.shape[-1], width, generator=generator) / width**0.5
    projected: Tensor = vectors.float() @ projection.to(vectors.device)
    return projected


def sums_so_far(embeddings: Tensor, mask: Tensor) -> Tensor:
    """Returns the sum of the embeddings (B, T, D) of the tokens before each token, (B, T, D): 0 before the first."""
    check_shapes(3, embeddings=embeddings)
    check_shapes(2, mask=mask)
    sums = (embeddings * mask.unsqueeze(-1)).cumsum(dim=1)
    return torch.cat([torch.zeros_like(sums[:, :1]), sums[:, :-1]], dim=1)


def join_features(states: Tensor, others: Tensor) -> Tensor:
    """
    Returns the features of a critic, (B, T, F), side by side: the states (B, T, D), other numbers known of the text so
    far (B, T, K), the index of the token, and that index times each of the numbers, as a number may mean something
    else late in a text than early.
    """
    check_shapes(3, states=states)
    check_shapes(3, others=others)
    place = torch.arange(states.shape[1], device=states.device, dtype=torch.float32)
    place = place.view(1, -1, 1).expand(len(states), -1, 1)
    return torch.cat([states, others, place, others * place], dim=-1)
