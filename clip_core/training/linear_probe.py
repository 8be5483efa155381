"""The paper's linear probe: logistic regression by L-BFGS, and how its regulariser is chosen.

Radford et al. 2021, section 3.2 and appendix A.3: at most 1000 iterations, and a search among 96
values of C between 1e-6 and 1e6, first seven that lie far apart, then by halving around the best,
down to eight steps a decade. C is that of scikit-learn: the loss is C times the sum of the
cross-entropies, and half the sum of the squared weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

STEPS_PER_DECADE = 8
DECADES = range(-6, 7, 2)  # of the seven values that come first
MAX_ITERATIONS = 1000
TOLERANCE = 1e-6  # of the largest slope of the mean loss
_HISTORY = 10


def fit_logistic(
    features: np.ndarray, classes: np.ndarray, count: int, c: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns [count, dim] weights and [count] biases, float32.

    Args:
        features: [rows, dim] floats.
        classes: [rows] int64, from 0 to `count` - 1.
        c: inverse strength of the regulariser, above 0.
    """
    x, y = torch.from_numpy(features.astype(np.float64)), torch.from_numpy(classes)
    parameters = torch.zeros(count, x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=MAX_ITERATIONS,
        max_eval=2 * MAX_ITERATIONS,
        tolerance_grad=TOLERANCE,
        tolerance_change=0,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = x @ parameters[:, :-1].T + parameters[:, -1]
        penalty = parameters[:, :-1].square().sum() / (2 * c * len(x))
        total = torch.nn.functional.cross_entropy(logits, y) + penalty
        total.backward()
        return total

    optimizer.step(loss)
    found = parameters.detach().numpy().astype(np.float32)
    return found[:, :-1].copy(), found[:, -1].copy()


def fit_ridge(features: np.ndarray, targets: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns [1, dim] weights and [1] bias of the ridge regression, float32.

    Args:
        features: [rows, dim] floats.
        targets: [rows] floats.
        c: inverse strength of the regulariser, above 0; scikit-learn's alpha is 1 / c.
    """
    x, y = features.astype(np.float64), targets.astype(np.float64)
    centre, middle = x.mean(axis=0), y.mean()
    x = x - centre
    gram = x.T @ x + np.eye(x.shape[1]) / c
    weight = np.linalg.solve(gram, x.T @ (y - middle))
    bias = middle - centre @ weight
    return weight[None].astype(np.float32), np.array([bias], np.float32)


def best_c(score: Callable[[float], float]) -> float:
    """Searches for the C of the highest score; of equal ones it is the smaller.

    Args:
        score: of a C; it is called about fifteen times.
    """
    scores: dict[int, float] = {}

    def try_exponents(exponents: list[int]) -> int:
        for step in exponents:
            if step not in scores:
                scores[step] = score(10 ** (step / STEPS_PER_DECADE))
        return max(scores, key=lambda step: (scores[step], -step))

    far = 2 * STEPS_PER_DECADE
    bounds = DECADES[0] * STEPS_PER_DECADE, DECADES[-1] * STEPS_PER_DECADE
    best = try_exponents([decade * STEPS_PER_DECADE for decade in DECADES])
    while far > 1:
        far //= 2
        near = [best - far, best + far]
        best = try_exponents([step for step in near if bounds[0] <= step <= bounds[1]])
    return float(10 ** (best / STEPS_PER_DECADE))
