"""How well latents predict factors on held-out frames, and DCI, which is made of it.

A factor of several numbers, such as an angle's sine and cosine, has one R²: the share of their
summed variance that is explained. It does not depend on where an angle begins, and of an angle that
goes all round it is the mean of the two.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from tools import UserError

RIDGE = 1.0  # on standardised latents, beside thousands of frames: only dead latents feel it
LEAVES, LEAF = 64, 20  # of a tree on one latent: most leaves, fewest frames in one
# Ten trees, as for DCI by regression in Ubisoft's library.
FOREST = {"n_estimators": 10, "min_samples_leaf": 10, "max_features": 0.5}

Split = tuple[np.ndarray, np.ndarray]  # what is learned from, what is tested on


def r2(truth: np.ndarray, guess: np.ndarray) -> float:
    """The share of a target's variance [N, C] that a guess explains, not below 0."""
    total = ((truth - truth.mean(axis=0)) ** 2).sum()
    return float(max(0.0, 1 - ((truth - guess) ** 2).sum() / total)) if total > 0 else 0.0


def ridge_all(code: Split, target: Split) -> float:
    """R² of a target [N, C] by ridge regression from all latents [N, Z].

    Their mean over the frames that are learned from is 0.
    """
    learned, tested = code
    mean = target[0].mean(axis=0)
    gram = learned.T @ learned + RIDGE * np.eye(learned.shape[1])
    weights = np.linalg.solve(gram, learned.T @ (target[0] - mean))
    return r2(target[1], mean + tested @ weights)


def ridge_each(code: Split, target: Split) -> np.ndarray:
    """R² of a target [N, C] by ridge regression from each latent alone, centred likewise: [Z]."""
    learned, tested = code
    mean = target[0].mean(axis=0)
    power = (learned**2).sum(axis=0) + RIDGE
    slopes = (learned.T @ (target[0] - mean)) / power[:, None]  # [Z, C]
    rest = target[1] - mean
    cross = tested.T @ rest
    squares = (tested**2).sum(axis=0)[:, None]
    errors = (rest**2).sum(axis=0) - 2 * slopes * cross + slopes**2 * squares
    total = ((target[1] - target[1].mean(axis=0)) ** 2).sum()
    return np.maximum(0.0, 1 - errors.sum(axis=1) / total) if total > 0 else np.zeros(len(slopes))


def tree_each(code: Split, target: Split, latents: np.ndarray) -> np.ndarray:
    """R² of a target [N, C] by a regression tree from each latent alone: [Z].

    Args:
        code: standardised latents [N, Z].
        target: of the same frames.
        latents: which are tried, bool [Z]; others have 0.
    """
    tree = sklearn("sklearn.tree").DecisionTreeRegressor
    found = np.zeros(len(latents))
    for i in np.flatnonzero(latents):
        model = tree(max_leaf_nodes=LEAVES, min_samples_leaf=LEAF, random_state=0)
        model.fit(code[0][:, [i]], target[0])
        guess = model.predict(code[1][:, [i]]).reshape(target[1].shape)
        found[i] = r2(target[1], guess)
    return found


def forest(code: Split, target: Split, jobs: int) -> tuple[float, np.ndarray]:
    """R² of a target [N, C] by a random forest from all latents, and their importances [Z]."""
    model = sklearn("sklearn.ensemble").RandomForestRegressor(**FOREST, random_state=0, n_jobs=jobs)
    flat = target[0] if target[0].shape[1] > 1 else target[0][:, 0]
    model.fit(code[0], flat)
    guess = model.predict(code[1]).reshape(target[1].shape)
    return r2(target[1], guess), model.feature_importances_


def sklearn(name: str) -> Any:
    """A module of scikit-learn's, which takes a second to import.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            "disentanglement is measured with scikit-learn, which is not installed: "
            "pip install -r requirements-figures.txt -c constraints.txt"
        ) from None


def disentanglement(importance: np.ndarray) -> float:
    """DCI's D (Eastwood and Williams 2018): 1 where each latent matters to one factor alone.

    Latents count by what they matter in all.

    Args:
        importance: of each latent to each factor, [Z, K], or to each group of them, [Z, G].
    """
    mass = importance.sum(axis=1)
    if importance.shape[1] == 1 or mass.sum() == 0:
        return 1.0 if mass.sum() > 0 else 0.0
    return float((1 - _evenness(importance)) @ mass / mass.sum())


def completeness(importance: np.ndarray) -> float:
    """DCI's C: 1 where each factor, or group, is in one latent alone; [Z, K] as for D."""
    if importance.sum() == 0:
        return 0.0
    if len(importance) == 1:
        return 1.0
    told = importance.sum(axis=0) > 0
    return float((1 - _evenness(importance.T))[told].mean())


def _evenness(rows: np.ndarray) -> np.ndarray:
    """The entropy of each row [M, L] to the base L: 1 where all are equal, and of an empty row."""
    total = rows.sum(axis=1, keepdims=True)
    share = np.divide(rows, total, out=np.full_like(rows, 1 / rows.shape[1]), where=total > 0)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return -(share * logs).sum(axis=1) / np.log(rows.shape[1])
