"""The study of over-parameterized landscapes reproduces what the theory says, on networks that are as stated."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from study_claims import claims
from widescape.landscape import compare_gd_rate
from widescape.studies import catalog, liu2020loss
from widescape.studies.study import Study, Verdict

PROVED = ("ratio", "rank", "nonconvex", "obeys")
ONLY_FULL = ("hessian_two_hidden_linear", "hessian_two_hidden_curved")


@pytest.fixture(scope="module")
def study():
    return catalog.run("liu2020loss", quick=True, progress=False)


def unit(generator, n, d):
    x = generator.standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.claim("liu2020loss/E1")
def test_certificates_are_there_for_wide_networks_only_and_every_certified_run_obeys(study, measured):
    found = claims(study)
    for name in ("certified_20000", "uncertified_1000", "h_slope", "obeys", "rate"):
        assert found[name].verdict is Verdict.REPRODUCED, found[name]
    for i in range(4):
        h = study.results[f"h_{i}"].median("h")
        certified = [width for width, own in zip(liu2020loss.WIDTHS, h, strict=True) if own <= 1]
        assert certified == [width for width in liu2020loss.WIDTHS if f"check_{width}_{i}" in study.results]
        for width in certified:
            own, check = study.results[f"certificate_{width}_{i}"], study.results[f"check_{width}_{i}"]
            assert own.certified
            assert own.rigorous
            assert own.h == h[liu2020loss.WIDTHS.index(width)]
            assert check.max_distance <= own.radius
            assert check.min_eigenvalue >= own.mu
            assert (check.loss <= check.loss[0] * own.rate ** np.arange(151) * (1 + 1e-9) + 1e-18).all()
    measured(f"{found['certified_20000'].measured}; {found['h_slope'].measured}; {found['obeys'].measured}")


@pytest.mark.slow
@pytest.mark.claim("liu2020loss/E3")
def test_the_linearized_curve_predicts_the_loss(study, measured):
    reports = [own for name, own in study.results.items() if name.startswith("rates_")]
    worst = 0.0
    for own in reports:
        seen = own.loss >= 1e-10 * own.loss[0]
        assert not seen[-1]
        worst = max(worst, np.abs(own.linearized_loss[seen] / own.loss[seen] - 1).max())
    assert worst <= 0.05
    assert claims(study)["linearized"].verdict is Verdict.REPRODUCED
    measured(f"at most {worst:.2%} off down to 1e-10 of the first loss, in {len(reports)} runs of width 20,000")


@pytest.mark.slow
@pytest.mark.claim("liu2020loss/E2")
def test_the_hessian_falls_with_the_width_under_a_linear_output_only(study, measured):
    found = claims(study)
    for name in ("hessian_one_hidden_linear", "hessian_one_hidden_curved", "gradient", "kernel_linear", "both_train"):
        assert found[name].verdict is Verdict.REPRODUCED, found[name]
    assert [found[name].verdict for name in ONLY_FULL] == [Verdict.INCONCLUSIVE] * 2
    linear, curved = (study.results[f"one_hidden_{name}"] for name in ("linear", "curved"))
    power = np.polyfit(np.log(linear.widths), np.log(linear.median("hessian_norm")), 1)[0]
    assert found["hessian_one_hidden_linear"].value == pytest.approx(power, rel=1e-9)
    assert curved.median("hessian_norm").min() > 0.5
    measured(
        f"linear output {found['hessian_one_hidden_linear'].measured}, curved output "
        f"{found['hessian_one_hidden_curved'].measured}"
    )


@pytest.mark.slow
@pytest.mark.claim("liu2020loss/C13")
def test_gaussian_jacobians_are_conditioned_as_calibrated_and_below_the_bound(study, measured):
    found = claims(study)
    for m, mean, bound in ((40, 3.16, 2 * math.log(40 / 21) + 5), (200, 1.19, 2 * math.log(200 / 181) + 5)):
        own = found[f"gaussian_{m}"]
        assert own.verdict is Verdict.REPRODUCED
        assert abs(own.value - mean) <= (0.15 if m == 40 else 0.06)
        assert own.value < bound
        assert f"{bound:.2f}" in own.published
    measured(", ".join(f"{found[name].measured}" for name in ("gaussian_40", "gaussian_200")))


@pytest.mark.slow
def test_what_is_proved_holds_and_the_digits_are_certified_on_the_way(study):
    found = claims(study)
    for name in PROVED:
        assert found[name].verdict is Verdict.REPRODUCED, found[name]
    for i in range(3):
        run = study.results[f"ratio_{i}"]
        seen = run.loss >= 1e-16 * run.loss[0]
        assert seen.sum() > 10
        assert (run.ratio[seen] >= run.lam_min[seen] * (1 - 1e-6)).all()
        assert (run.ratio[seen] <= run.lam_max[seen] * (1 + 1e-6)).all()
        eigenvalues = np.abs(study.results[f"hessian_{i}"].eigs)
        assert len(eigenvalues) == 180
        assert eigenvalues[2] > 1e-3 > 1e-8 * eigenvalues[0] >= eigenvalues[3]
    first, check = study.results["digits"], study.results["digits_check"]
    assert first.h[0] > 10
    assert first.certificate.h <= 1
    assert first.step == found["digits"].value
    assert check.holds
    assert found["digits_obey"].measured == "2 of 2; the rest of the run, and the steps at the certified rate"


@pytest.mark.slow
def test_the_study_prints_shows_its_figures_and_comes_back_from_its_file(study, tmp_path):
    assert len(str(study).splitlines()) < 20
    assert len(study.table()) == len(study.claims) == 21
    names = [chart.name for chart in study.charts()]
    assert names == [
        "ratio_0-pl-ratio",
        "beside_0-nonconvexity",
        "h_0-width-scaling",
        "rates_0-rates",
        "one_hidden_linear-width-scaling",
        "one_hidden_curved-width-scaling",
        "digits-first-certified-step",
    ]
    assert Study.load(study.save(tmp_path / "study.zip")) == study


def test_a_doubled_network_starts_at_zero_and_is_the_sum_over_its_neurons(rng):
    x, y = unit(rng, 4, 20), np.ones((4, 1))
    system = liu2020loss._doubled(60, x, y, jax.random.key(0))
    np.testing.assert_allclose(system.F(), 0, atol=1e-14)
    w, a = np.asarray(system.params[0]["w"]), np.asarray(system.params[2]["w"])
    assert sorted(set(a.ravel())) == [-1, 1]
    moved = system.flat + 0.1 * rng.standard_normal(system.num_params)
    weights, signs = (np.asarray(system.unravel(moved)[i]["w"]) for i in (0, 2))
    np.testing.assert_allclose(system.F(moved), np.tanh(x @ weights) @ signs / 60**0.5, atol=1e-13)
    assert abs(np.mean(w**2) - 1) < 5 * (2 / (w.size / 2)) ** 0.5
    slopes = a.ravel()[None] * (1 - np.tanh(x @ w) ** 2)  # the output is frozen: the kernel is of the first layer alone
    jacobian = system.jacobian()
    np.testing.assert_allclose(jacobian @ jacobian.T, (slopes @ slopes.T) * (x @ x.T) / 60, atol=1e-12)
    other = liu2020loss._doubled(60, x, y, jax.random.key(1))
    assert (other.params[0]["w"] != w).all()


def test_broken_promises_and_lost_measurements_are_not_reproduced():
    assert liu2020loss._counted("c", "S.", [], "none", published="").verdict is Verdict.INCONCLUSIVE
    assert liu2020loss._counted("c", "S.", [True, False], "", published="").verdict is Verdict.NOT_REPRODUCED
    assert liu2020loss._counted("c", "S.", [1, 1, 0], "", published="", most=True).verdict is Verdict.REPRODUCED
    assert [own.verdict for own in liu2020loss._predicted([])] == [Verdict.INCONCLUSIVE] * 2
    system = liu2020loss._doubled(20, np.eye(2), np.ones((2, 1)), jax.random.key(0))
    report = compare_gd_rate(system, 0.5, 100, progress=False)
    assert report.status.ok
    off = dataclasses.replace(report, curve_error=0.06, measured=1.02 * report.linearized)
    assert [own.verdict for own in liu2020loss._predicted([off, report])] == [Verdict.NOT_REPRODUCED] * 2
    lost = dataclasses.replace(report, curve_error=None)
    assert liu2020loss._predicted([report, lost])[0].verdict is Verdict.INCONCLUSIVE


def test_a_seed_gives_other_networks_and_points_than_the_next():
    make = liu2020loss._network_maker(liu2020loss._ONE_HIDDEN)
    systems = [make(8, jax.random.key(seed)) for seed in (0, 0, 1)]
    assert (systems[0].flat == systems[1].flat).all()
    assert (systems[0].flat != systems[2].flat).all()
    assert (systems[0].x != systems[2].x).all()
    np.testing.assert_allclose(np.linalg.norm(systems[0].x, axis=1), 10**0.5, rtol=1e-14)
    gaussian = [liu2020loss._gaussian(jax.random.key(seed), 2, 4, 1.0, 1.0).value for seed in (0, 0, 1)]
    assert gaussian[0] == gaussian[1] != gaussian[2]
