"""Four sample-complexity curves, second-order points and the step activation: verdicts follow from what was run."""

from types import SimpleNamespace

import numpy as np
import pytest

from widescape import features
from widescape.features import SampleComplexity
from widescape.studies import catalog, chen2020hierarchical
from widescape.studies.study import Study, Verdict

OPEN = {"quad_neural_2000", "others_2000", "ratio_2000", "falls", "step", "step_eigenvalues"}
POWERS = {"ntk_raw_power", "ntk_neural_power", "quad_raw_power", "quad_neural_power"}
SAID: list[str] = []


@pytest.fixture(scope="module")
def study():
    SAID.clear()
    return catalog.run("chen2020hierarchical", quick=True, progress=False, say=SAID.append)


def claims(study):
    return {own.name: own for own in study.claims}


def verdicts(study, verdict):
    return {own.name for own in study.claims if own.verdict is verdict}


@pytest.mark.slow
@pytest.mark.claim("chen2020hierarchical/E2")
def test_verdicts_on_the_curves_follow_from_the_medians(study, measured):
    curves, found = study.results["curves"], claims(study)
    assert curves.values.shape == (4, 2, 2)
    medians = np.median(curves.values, axis=2)
    for j, n in enumerate((500, 1000)):
        assert found[f"quad_neural_{n}"].value == medians[3, j]
        assert found[f"others_{n}"].value == medians[:3, j].min()
    floor = 1 - np.array([500, 1000]) / 3740
    assert found["floor"].value == pytest.approx((medians[:2] - floor).min(), rel=1e-12)
    assert found["rank"].value == 152
    assert (found["falls"].value, found["falls"].undecided) == (1, 1)
    assert verdicts(study, Verdict.INCONCLUSIVE) == OPEN | POWERS
    assert not verdicts(study, Verdict.NOT_REPRODUCED)
    measured(f"{found['quad_neural_1000'].measured}; {found['others_1000'].measured}")


@pytest.mark.slow
@pytest.mark.claim("chen2020hierarchical/E3")
def test_certificates_are_of_one_objective_that_of_the_convex_optimum(study, measured):
    found, convex = claims(study), study.results["convex"]
    own = [study.results[f"certificate_{i}"] for i in range(5)]
    assert all(c.min_hess_eig >= -1e-6 for c in own)
    assert all(c.grad_norm <= 1e-8 for c in own)
    assert max(abs(c.objective / convex.objective - 1) for c in own) <= 1e-6
    assert convex.objective - convex.lower <= 1e-9 * convex.objective
    assert found["second_order"].value == min(c.min_hess_eig for c in own)
    for name in ("same_objective", "convex", "widths", "regularizer", "equal_norms"):
        assert 0 <= found[name].value <= found[name].high
    measured(found["second_order"].measured)


@pytest.mark.slow
def test_a_quick_study_says_what_it_left_out_and_comes_back_from_its_file(study, tmp_path):
    found = claims(study)
    assert all("left out of the quick study" in found[name].measured for name in OPEN - {"falls"})
    assert all("takes --full" in found[name].measured for name in POWERS)
    assert found["step"].published == "benefit, as d grows; here: none at this size"
    assert found["step_energy"].value == pytest.approx(0.0994, abs=1e-4)
    assert len(SAID) == 2
    assert [chart.name for chart in study.charts()] == ["curves-sample-complexity", "step_energies-degree-energies"]
    assert len(study.charts()[0].series) == 5  # four models and the floor
    assert Study.load(study.save(tmp_path / "study.zip")) == study


# All sizes, with learners that know the answer.


class Shrunk:
    """Learners whose errors are given: the target times 1 - sqrt(error)."""

    def __init__(self, errors):
        self.errors = errors

    def __call__(self, *, n_features=192, features="square"):
        del n_features
        return {name: self.learner(name, features) for name in chen2020hierarchical.MODELS}

    def learner(self, name, activation):
        def learn(x, y, *, validation, unlabeled, seed):
            target = chen2020hierarchical.LowRankPolynomial(x.shape[1], 4, kind="harmonic").target(seed)
            return Scaled(target, 1 - self.errors(name, activation, x.shape) ** 0.5)

        return learn


class Scaled(SimpleNamespace):
    def __init__(self, target, factor):
        super().__init__(target=target, factor=factor, selected={"rank": 152})

    def __call__(self, x):
        return self.factor * self.target(x)


def errors(name, activation, shape):
    """Quad-Neural's is 2 d^2/n, and that of the others falls to a half at n = d^4/8."""
    n, d = shape
    if name == "Quad-Neural":
        return 0.9 if activation == "step" else min(0.95, 2 * d**2 / n)
    return min(1.0, 0.1 + 0.05 * d**4 / n)


@pytest.fixture
def shrunk(monkeypatch):
    def run(errors, **options):
        monkeypatch.setattr(chen2020hierarchical.features, "four_learners", Shrunk(errors))
        monkeypatch.setattr(chen2020hierarchical, "_WIDTHS", (24,))
        monkeypatch.setattr(chen2020hierarchical, "_TOY_STARTS", 1)
        monkeypatch.setattr(chen2020hierarchical, "_STEP_FEATURES", 64)
        return catalog.run("chen2020hierarchical", progress=False, **options)

    return run


@pytest.mark.claim("chen2020hierarchical/E4")
@pytest.mark.claim("chen2020hierarchical/E5")
def test_a_full_study_measures_the_powers_and_the_step(shrunk, measured):
    study = shrunk(errors, full=True)
    found = claims(study)
    assert found["step"].value == pytest.approx(0.9, abs=1e-9)
    assert found["step"].verdict is Verdict.REPRODUCED
    assert "smallest" in found["step_eigenvalues"].measured
    assert found["quad_neural_2000"].value == pytest.approx(2 * 256 / 2000)
    assert found["quad_neural_2000"].verdict is Verdict.NOT_REPRODUCED
    assert found["falls"].verdict is Verdict.REPRODUCED
    assert found["quad_neural_power"].value == pytest.approx(2, abs=0.1)
    assert found["ntk_raw_power"].value == pytest.approx(4, abs=0.1)
    assert found["ntk_raw_power"].verdict is Verdict.REPRODUCED
    assert found["quad_raw_power"].verdict is Verdict.NOT_REPRODUCED
    assert {name for name in study.results if name.startswith("exponent")} == {
        f"exponent_{name.lower().replace('-', '_')}" for name in chen2020hierarchical.MODELS
    }
    measured(found["quad_neural_power"].measured)


def test_powers_that_are_not_reached_are_inconclusive(shrunk):
    found = claims(shrunk(lambda name, activation, shape: 0.9, full=True))
    assert {found[name].verdict for name in POWERS} == {Verdict.INCONCLUSIVE}
    assert "stay above the level" in found["quad_raw_power"].measured
    assert found["falls"].verdict is Verdict.NOT_REPRODUCED
    assert found["others_2000"].verdict is Verdict.REPRODUCED


def test_a_usual_study_has_five_seeds_and_the_step_activation_alone(shrunk):
    study = shrunk(errors)
    assert study.results["curves"].values.shape == (4, 3, 5)
    step = study.results["step"]
    assert isinstance(step, SampleComplexity)
    assert (step.models, step.ns.tolist()) == (("Quad-Neural",), [4000])
    assert verdicts(study, Verdict.INCONCLUSIVE) == POWERS
    assert features.sample_complexity_exponent("Quad-Neural", 4) == 2
