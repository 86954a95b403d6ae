"""Scores of codes whose disentanglement is known: the factors themselves, a rotation, noise."""

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import mutual_info_score, r2_score

from envs import Factor
from measure import Factors, measure, score
from measure import information as info
from measure import regression as reg
from measure.metrics import CHEAP, SCORES
from tests.helpers.runs import refusal

N, K = 2400, 5
ONE = ("dci_disentanglement", "dci_completeness", "dci_informativeness", "mig", "sap")
ONE += ("infom", "infoc", "modularity", "ridge_r2")
ORDER = np.array([3, 0, 4, 1, 2])
GROUPS = ("place", "place", "color", "color", "color")


def make_factors(n=N, kinds=("number",) * K, seed=0):
    values = np.random.default_rng(seed).uniform(-1, 1, (n, len(kinds)))
    named = [Factor(f"f{k}", GROUPS[k], kind) for k, kind in enumerate(kinds)]
    return Factors(tuple(named), values)


@pytest.fixture(scope="module")
def factors():
    return make_factors()


@pytest.fixture(scope="module")
def permuted(factors):
    """Of the factors in another order, and a dead latent."""
    code = np.column_stack([factors.values[:, ORDER] * [1, -1, 1, 1, -2], np.zeros(N)])
    return score(code, factors)


@pytest.fixture(scope="module")
def rotated(factors):
    """The code, and what is scored of it."""
    code = factors.values @ np.linalg.qr(np.random.default_rng(1).normal(size=(K, K)))[0]
    return code, score(code, factors)


def test_factors_in_another_order_score_one_whatever_their_scale_and_sign(permuted):
    found, order = permuted, ORDER
    told = {name: found.scores[name] for name in ONE}
    assert told == pytest.approx(dict.fromkeys(ONE, 1), abs=0.08)
    assert found.scores["dci_disentanglement_groups"] > 0.9
    assert found.scores["active"] == K
    assert [latent.best_factor for latent in found.latents] == [*(f"f{k}" for k in order), None]
    assert [latent.active for latent in found.latents] == [True] * K + [False]


def test_a_rotation_mixes_factors_and_tells_as_much_of_them(permuted, rotated):
    plain, (_, turned) = permuted, rotated
    assert turned.scores["ridge_r2"] == pytest.approx(plain.scores["ridge_r2"], abs=1e-5)
    np.testing.assert_allclose(turned.r2_all["ridge"], plain.r2_all["ridge"], atol=1e-5)
    for name in ("dci_disentanglement", "dci_completeness", "mig", "sap", "infom", "infoc"):
        assert turned.scores[name] < 0.5, name
    assert turned.scores["dci_disentanglement"] < plain.scores["dci_disentanglement"] - 0.5


def test_noise_scores_zero(factors):
    found = score(np.random.default_rng(2).normal(size=(N, 4)), factors)
    for name in (*ONE, "dci_disentanglement_groups"):
        assert found.scores[name] == pytest.approx(0, abs=0.06), name
    assert [latent.best_factor for latent in found.latents] == [None] * 4


def test_a_code_that_says_nothing_scores_zero(factors):
    found = score(np.ones((N, 3)), factors)
    assert {found.scores[n] for n in SCORES} == {0.0}
    assert all(np.isfinite(row).all() for row in (found.r2, found.importance, found.r2_ridge))


def test_cheap_scores_are_the_same_without_trees(factors, rotated):
    code, whole = rotated
    cheap = score(code, factors, cheap=True)
    assert set(cheap.scores) == set(CHEAP)
    assert {name: whole.scores[name] for name in CHEAP} == cheap.scores
    assert cheap.r2 is None
    assert cheap.importance is None


def test_an_angle_is_told_wherever_it_begins():
    factors = make_factors(kinds=("angle", "number"))
    turn = np.random.default_rng(3).uniform(0, 2 * np.pi)
    angle = np.pi * factors.values[:, 0]
    whole = Factors(factors.factors, np.column_stack([angle, factors.values[:, 1]]))
    moved = Factors(factors.factors, np.column_stack([angle + turn, factors.values[:, 1]]))
    code = np.column_stack([np.sin(angle), np.cos(angle)])
    one, other = score(code, whole), score(code, moved)
    assert one.r2_all["ridge"][0] == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(one.r2_ridge[:, 0], other.r2_ridge[:, 0], atol=1e-9)
    np.testing.assert_allclose(one.r2_ridge[:, 0], 0.5, atol=0.03)  # each has half of its variance
    np.testing.assert_allclose(one.r2[:, 0], other.r2[:, 0], atol=0.02)


def test_a_choice_has_no_order():
    rng = np.random.default_rng(4)
    values = rng.integers(0, 3, (N, 1)).astype(float)
    factors = Factors((Factor("kind", "kind", "choice"),), values)
    code = np.array([0.5, -1.0, 2.0])[values[:, 0].astype(int)][:, None]
    found = score(code + 0.01 * rng.normal(size=(N, 1)), factors)
    assert found.latents[0].r2 > 0.99
    assert found.scores["mig"] == pytest.approx(1, abs=0.05)


def test_measuring_encodes_and_tells_the_kl(factors):
    images = np.zeros((N, 2, 2, 3), np.uint8)
    mean, logvar = factors.values, np.full((N, K), -2.0)
    found = measure(lambda given: (mean[: len(given)], logvar), images, factors, cheap=True)
    kl = stats.norm(0.3, np.exp(-1.0))
    at = 0.5 * (0.3**2 + np.exp(-2) + 2 - 1)  # of N(0.3, e⁻²) from N(0, 1), in closed form
    draws = kl.rvs(200_000, random_state=0)
    assert (kl.logpdf(draws) - stats.norm.logpdf(draws)).mean() == pytest.approx(at, abs=0.01)
    shift = 0.5 * ((mean**2).mean(axis=0) - 0.09)
    np.testing.assert_allclose([latent.kl for latent in found.latents], at + shift, atol=1e-9)
    plain = measure(lambda given: mean, images, factors, cheap=True)
    assert [latent.kl for latent in plain.latents] == [None] * K
    assert plain.scores == found.scores


def test_what_cannot_be_measured_is_refused_in_a_line(factors):
    values = factors.values.copy()
    values[:, 2] = 0.7
    still = Factors(factors.factors, values)
    assert "the factor f2 is the same in all 2400 frames" in refusal(score, values, still)
    few = Factors(factors.factors, factors.values[:59])
    assert "59 frames are too few for 20 bins: give --frames 60" in refusal(score, few.values, few)
    none = Factors((), np.zeros((N, 0)))
    assert "there are no factors" in refusal(score, values, none)
    for code in (np.zeros((5, 2)), np.zeros(N), np.full((N, 2), np.nan)):
        with pytest.raises(ValueError, match="code"):
            score(code, factors)


# By independent computations


@pytest.mark.parametrize("rho", [0.5, 0.9, 0.99])
def test_mutual_information_of_a_gaussian_is_known(rho):
    rng = np.random.default_rng(5)
    x = rng.normal(size=40_000)
    y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=len(x))
    factors = Factors((Factor("y", "y"),), y[:, None])
    found, entropies = info.mutual_information(x[:, None], factors, bins=40)
    # Bins lose some of it, the more the closer the two go together.
    assert found[0, 0] == pytest.approx(-0.5 * np.log(1 - rho**2), rel=0.12)
    assert entropies[0] == pytest.approx(np.log(40), abs=1e-3)


def test_bins_and_information_equal_scikit_learns_before_the_correction():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(2, 5000))
    y = y + x
    one, other = info.bin_numbers(x), info.bin_numbers(y)
    assert {*np.bincount(one)} == {250}
    freedom = 19**2
    expected = mutual_info_score(one, other) - freedom / (2 * 5000)
    factors = Factors((Factor("y", "y"),), y[:, None])
    assert info.mutual_information(x[:, None], factors)[0][0, 0] == pytest.approx(expected)


def test_few_kinds_of_values_are_told_apart_one_by_one():
    values = np.array([3.0, 1.0, 1.0, 7.0])
    assert info.bin_numbers(values).tolist() == [1, 0, 0, 2]
    assert info.entropy(np.array([0, 0, 1, 1])) == pytest.approx(np.log(2))
    assert info.bins_for(15000) == info.BINS
    assert info.bins_for(60) == 3


def test_a_factor_that_hardly_ever_changes_is_scored():
    """As a drawer's place is, which a random policy moves once in a hundred frames."""
    rng = np.random.default_rng(9)
    values = np.column_stack([np.zeros(N), rng.normal(size=N)])
    values[-20:, 0] = rng.uniform(0.1, 1, 20)
    assert {*np.bincount(info.bin_numbers(values[:, 0]))} == {0, 20, N - 20}
    found = score(
        values, Factors((Factor("drawer", "drawer"), Factor("x", "x")), values), cheap=True
    )
    assert found.scores["mig"] == pytest.approx(1, abs=0.05)
    assert all(np.isfinite(value) for value in found.scores.values())


def test_ridge_regressions_equal_scikit_learns():
    rng = np.random.default_rng(7)
    code = rng.normal(size=(900, 3))
    code = (code - code[:600].mean(axis=0)) / code[:600].std(axis=0)
    target = np.column_stack([code @ [1.0, 0.2, 0.0], code @ [0.0, 1.0, 2.0]])
    target += rng.normal(size=target.shape)
    halves, targets = (code[:600], code[600:]), (target[:600], target[600:])

    def by_scikit(columns):
        model = Ridge(alpha=reg.RIDGE).fit(halves[0][:, columns], targets[0])
        guess = model.predict(halves[1][:, columns])
        return r2_score(targets[1], guess, multioutput="variance_weighted")

    assert reg.ridge_all(halves, targets) == pytest.approx(by_scikit([0, 1, 2]), abs=1e-6)
    each = reg.ridge_each(halves, targets)
    np.testing.assert_allclose(each, [max(0, by_scikit([i])) for i in range(3)], atol=1e-6)


def test_what_drifts_is_told_as_well_as_what_does_not():
    """A policy's later frames, which are tested on, may be of other places than its first."""
    values = np.random.default_rng(8).normal(size=(N, 1))
    values[2 * N // 3 :] += 2
    factors = Factors((Factor("place", "place"),), values)
    found = score(3 * values + 5, factors, cheap=True)
    assert found.scores["ridge_r2"] == pytest.approx(1, abs=1e-3)
    assert found.scores["sap"] == pytest.approx(1, abs=1e-3)


def test_dci_of_importances_by_hand():
    sure, even = np.eye(3), np.full((3, 3), 1 / 3)
    assert reg.disentanglement(sure) == reg.completeness(sure) == pytest.approx(1)
    assert reg.disentanglement(even) == reg.completeness(even) == pytest.approx(0)
    one_for_two = np.array([[1.0, 1.0], [0.0, 0.0]])  # a latent of both factors, and a dead one
    assert reg.disentanglement(one_for_two) == pytest.approx(0)
    assert reg.completeness(one_for_two) == pytest.approx(1)
    two_for_one = np.array([[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]])
    assert reg.disentanglement(two_for_one) == pytest.approx(1)
    half = 1 - np.log(2) / np.log(3)
    assert reg.completeness(two_for_one) == pytest.approx((half + 1) / 2)


def test_gaps_and_concentrations_by_hand():
    matrix = np.array([[0.9, 0.1], [0.3, 0.1], [0.0, 0.0]])
    np.testing.assert_allclose(info.lead(matrix), [0.6, 0.0])
    assert info.mig(matrix, np.array([1.0, 2.0])) == pytest.approx(0.3)
    # Of [0.9, 0.1] the share of the rest is 0.1² / 0.9²; the last latent tells nothing.
    expected = (1 - 1 / 81 + 1 - 1 / 9 + 0) / 3
    assert info.modularity(matrix) == pytest.approx(expected)
    infom, infoc = info.infom_infoc(matrix[:2], np.ones(2))
    assert infom == pytest.approx(((0.9 - 0.5) / 0.5 + (0.75 - 0.5) / 0.5) / 2)
    assert infoc == pytest.approx(((0.75 - 0.5) / 0.5 + 0) / 2)
