"""What an encoder's latent tells of the true factors: every metric of one encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from measure import information, regression
from measure.factors import Factors
from tools import UserError

# Images uint8 [N, H, W, C] → the latent's means [N, Z], with the log variances behind them or not.
Encoder = Callable[[np.ndarray], "np.ndarray | tuple[np.ndarray, np.ndarray]"]

LEARNED = 2 / 3  # share of the frames that regressions learn from: 10k of 15k, as published
ACTIVE = 1 / 20  # of the largest spread: what less moves is not active
TELLS = 0.05  # R² below which a latent tells of no factor
SENSITIVITY = (10, 50)  # numbers of bins that MIG is told for beside its own

# In the order of tables; those of `CHEAP` need no trees.
CHEAP = ("mig", "sap", "infom", "infoc", "modularity", "ridge_r2", "active")
SCORES = (
    "dci_disentanglement",
    "dci_completeness",
    "dci_informativeness",
    "dci_disentanglement_groups",
    *CHEAP,
)


@dataclasses.dataclass(frozen=True)
class Latent:
    """One number of a latent.

    Attributes:
        index: which.
        kl: KL[q(z_i | o) ‖ N(0, 1)], nats, the mean over the frames; None without a variance.
        std: of its mean over the frames.
        active: whether it moves at least a twentieth as much as the one that moves most.
        best_factor: what it tells most of; None where that is next to nothing.
        r2: how well it alone predicts that, 0 to 1.
    """

    index: int
    kl: float | None
    std: float
    active: bool
    best_factor: str | None
    r2: float


@dataclasses.dataclass(frozen=True)
class Metrics:
    """What was measured of one encoder; Z latents, K factors.

    Attributes:
        factors: the factors, without their values.
        frames: N.
        latents: one by one.
        r2: held-out R² of each factor from each latent alone by a tree, [Z, K]; None of the cheap
            ones.
        r2_ridge: likewise linear.
        r2_all: from all latents: ``ridge`` and, unless cheap, ``forest``, [K] each.
        importance: of latents to factors in those forests, [Z, K]; None of the cheap ones.
        mutual_information: in nats, [Z, K].
        scores: by the names of `SCORES`, and MIG by other numbers of bins.
    """

    factors: tuple
    frames: int
    latents: list[Latent]
    r2: np.ndarray | None
    r2_ridge: np.ndarray
    r2_all: dict[str, np.ndarray]
    importance: np.ndarray | None
    mutual_information: np.ndarray
    scores: dict[str, float]


def measure(
    encoder: Encoder, images: np.ndarray, factors: Factors, *, cheap: bool = False, jobs: int = 1
) -> Metrics:
    """All metrics of an encoder.

    Args:
        encoder: images → means [N, Z] of its latent, or these and the log variances.
        images: uint8 [N, H, W, C].
        factors: of the same pictures.
        cheap: without trees: tenths of a second.
        jobs: threads of the forests.

    Raises:
        UserError: a factor does not change, or there are fewer frames than bins.
    """
    found = encoder(images)
    if isinstance(found, tuple):
        mean, logvar = (np.asarray(part, np.float64) for part in found)
        kl = 0.5 * (mean**2 + np.exp(logvar) - logvar - 1).mean(axis=0)
        return score(mean, factors, kl=kl, cheap=cheap, jobs=jobs)
    return score(found, factors, cheap=cheap, jobs=jobs)


def score(
    code: np.ndarray,
    factors: Factors,
    *,
    kl: np.ndarray | None = None,
    cheap: bool = False,
    jobs: int = 1,
) -> Metrics:
    """All metrics of a code [N, Z]; KL [Z] is only told on. Other arguments as of `measure`.

    Raises:
        UserError: as `measure`.
        ValueError: the code is of other pictures than the factors, or not finite.
    """
    code = np.asarray(code, np.float64)
    _check(code, factors)
    std = code.std(axis=0)
    active = std > ACTIVE * std.max() if std.max() > 0 else np.zeros(len(std), bool)
    cut = round(LEARNED * len(code))
    # By what is learned from, or regressions would lack their intercepts where a policy drifts.
    scale = code[:cut].std(axis=0)
    standard = (code - code[:cut].mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    halves = standard[:cut], standard[cut:]
    targets = [(target[:cut], target[cut:]) for target in factors.targets]

    mi, entropies = information.mutual_information(code, factors)
    r2_ridge = np.stack([regression.ridge_each(halves, t) for t in targets], axis=1)
    r2_all = {"ridge": np.array([regression.ridge_all(halves, t) for t in targets])}
    infom, infoc = information.infom_infoc(mi[active], entropies) if active.any() else (0.0, 0.0)
    scores = {
        "mig": information.mig(mi, entropies),
        "sap": float(information.lead(r2_ridge).mean()),
        "infom": infom,
        "infoc": infoc,
        "modularity": information.modularity(mi[active]) if active.any() else 0.0,
        "ridge_r2": float(r2_all["ridge"].mean()),
        "active": float(active.sum()),
    }
    r2 = importance = None
    if not cheap:
        r2 = np.stack([regression.tree_each(halves, t, active) for t in targets], axis=1)
        told, columns = zip(*(regression.forest(halves, t, jobs) for t in targets), strict=True)
        r2_all["forest"], importance = np.array(told), np.stack(columns, axis=1)
        scores |= _dci(importance, r2_all["forest"], factors)
        scores |= {f"mig_{bins}": _mig(code, factors, bins) for bins in SENSITIVITY}
    latents = _latents(r2_ridge if r2 is None else r2, factors.names, std, active, kl)
    return Metrics(
        factors.factors, len(code), latents, r2, r2_ridge, r2_all, importance, mi, scores
    )


def _check(code: np.ndarray, factors: Factors) -> None:
    n, least = len(factors.values), 3 * information.BINS
    if code.ndim != 2 or len(code) != n:
        raise ValueError(f"a code [N, Z] of {n} pictures is needed, not {code.shape}")
    if not np.isfinite(code).all():
        raise ValueError("the code has numbers that are not finite")
    if n < least:
        raise UserError(
            f"{n} frames are too few for {information.BINS} bins: give --frames {least} or more"
        )
    factors.check()


def _mig(code: np.ndarray, factors: Factors, bins: int) -> float:
    return information.mig(*information.mutual_information(code, factors, bins))


def _dci(importance: np.ndarray, told: np.ndarray, factors: Factors) -> dict[str, float]:
    grouped = np.stack(
        [importance[:, members].sum(axis=1) for members in factors.groups.values()], axis=1
    )
    return {
        "dci_disentanglement": regression.disentanglement(importance),
        "dci_completeness": regression.completeness(importance),
        "dci_informativeness": float(told.mean()),
        # A colour may be in three latents, so that of completeness has no such namesake.
        "dci_disentanglement_groups": regression.disentanglement(grouped),
    }


def _latents(
    matrix: np.ndarray,
    names: list[str],
    std: np.ndarray,
    active: np.ndarray,
    kl: np.ndarray | None,
) -> list[Latent]:
    found = []
    for i, row in enumerate(matrix):
        best = int(row.argmax())
        tells = bool(active[i]) and row[best] >= TELLS
        own = None if kl is None else float(kl[i])
        name = names[best] if tells else None
        found.append(Latent(i, own, float(std[i]), bool(active[i]), name, float(row[best])))
    return found
