"""Sample-complexity experiments: bookkeeping that survives interruptions, and powers where they are known."""

import functools
import json
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest

from widescape import features
from widescape.core.errors import CheckpointError, NonFiniteError, ShapeError
from widescape.core.result import Result
from widescape.features import LowRankPolynomial, fit_exponent, sample_complexity_curve
from widescape.features.row_store import digest

PROBLEM = LowRankPolynomial(5, 1, noise=0.1)
NS, SEEDS = [10, 20, 40], [0, 1, 2]


def least_squares(x, y, *, validation, unlabeled, seed):
    weights = np.linalg.lstsq(x, y)[0]
    return lambda inputs: inputs @ weights


@dataclass(frozen=True)
class Chosen:
    """The better of two ridges on the validation set, with a constant added that the seed draws."""

    weights: np.ndarray
    selected: dict

    @classmethod
    def learn(cls, x, y, *, validation, unlabeled, seed):
        assert unlabeled(7).shape == (7, x.shape[1])
        fits = {reg: np.linalg.solve(x.T @ x + reg * np.eye(x.shape[1]), x.T @ y) for reg in (0.1, 10.0)}
        errors = {reg: np.mean((validation[0] @ w - validation[1]) ** 2) for reg, w in fits.items()}
        best = min(errors, key=errors.get)
        return cls(fits[best] + np.random.default_rng(seed).normal() * 1e-3, {"reg": best})

    def __call__(self, x):
        return x @ self.weights


MODELS = {"least squares": least_squares, "ridge": Chosen.learn}


def measure(models=MODELS, ns=NS, seeds=SEEDS, path=None, **options):
    settings = {"n_val": 30, "n_test": 50, **options}
    return sample_complexity_curve(models, settings.pop("problem", PROBLEM), ns, seeds, path=path, **settings)


@pytest.fixture(scope="module")
def curve():
    return measure()


def without_seconds(result):
    return {name: value for name, value in result.to_dict()["fields"].items() if name != "seconds"}


def test_values_are_test_errors_over_the_second_moment_of_the_test_targets(curve):
    x, y = PROBLEM.sample(20, seed=1)
    x_test, y_test = PROBLEM.sample(50, seed=1, part="test")
    weights = np.linalg.lstsq(x, y)[0]
    expected = np.mean((x_test @ weights - y_test) ** 2) / np.mean(y_test**2)
    assert curve.of("least squares")[1, 1] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(curve.median("ridge"), np.median(curve.of("ridge"), axis=1))


def test_rows_are_tidy_and_name_what_was_selected(curve):
    rows = curve.rows()
    assert len(rows) == 18
    assert rows[4] == {
        "model": "least squares", "n": 20, "seed": 1, "value": curve.values[0, 1, 1],
        "seconds": curve.seconds[0, 1, 1], "selected": None,
    }  # fmt: skip
    assert {row["selected"]["reg"] for row in rows if row["model"] == "ridge"} <= {0.1, 10.0}
    assert curve.seconds.min() >= 0


def test_intervals_enclose_medians_and_are_the_same_again(curve):
    assert (curve.low <= curve.medians).all()
    assert (curve.medians <= curve.high).all()
    assert (curve.values.min(axis=2) <= curve.low).all()
    assert (curve.high <= curve.values.max(axis=2)).all()
    assert without_seconds(measure()) == without_seconds(curve)
    single = measure(seeds=1)
    assert np.isnan(single.low).all()
    assert single.charts()[0].series[0].low is None


def test_slopes_are_those_of_least_squares(curve):
    x, y = np.log(NS), np.log(curve.median("least squares"))
    coefficients, covariance = np.polyfit(x, y, 1, cov="unscaled")
    residual = y - np.polyval(coefficients, x)
    slope, stderr = curve.slope("least squares")
    assert slope == pytest.approx(coefficients[0], rel=1e-10)
    assert stderr == pytest.approx((covariance[0, 0] * (residual @ residual)) ** 0.5, rel=1e-10)
    two = measure({"least squares": least_squares}, ns=[10, 40])
    assert np.isfinite(two.slopes).all()
    assert np.isnan(two.slopes_stderr).all()
    assert np.isnan(measure({"least squares": least_squares}, ns=[10]).slopes).all()


def test_results_print_save_and_load(curve, tmp_path):
    assert Result.load(curve.save(tmp_path / "curve.result")) == curve
    assert "medians" in str(curve)


def test_the_figure_has_the_floor_where_the_problem_has_one(curve):
    (chart,) = curve.charts()
    assert [series.label for series in chart.series] == list(MODELS)
    assert chart.x_scale == "log"
    harmonic = LowRankPolynomial(5, 2, kind="harmonic")
    found = measure({"least squares": least_squares}, problem=harmonic, ns=[5, 10], seeds=1)
    floor = found.charts()[0].series[-1]
    assert "floor" in floor.label
    np.testing.assert_allclose(floor.y, 1 - floor.x / 14)
    assert {5, 10} <= set(floor.x)


# Interruptions.


class StoppedError(Exception):
    pass


def test_an_interrupted_experiment_goes_on_and_ends_as_if_it_had_not_been(curve, tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    calls = []

    def counting(module_run):
        def run(*args):
            calls.append(args[1:5:2])
            if len(calls) == 8:
                raise StoppedError
            return module_run(*args)

        return run

    from widescape.features import sample_complexity

    original = sample_complexity._run
    monkeypatch.setattr(sample_complexity, "_run", counting(original))
    with pytest.raises(StoppedError):
        measure(path=path)
    assert len(path.read_text().splitlines()) == 1 + 7
    text = path.read_bytes()
    path.write_bytes(text[:-9])  # the last row is torn
    resumed = measure(path=path)
    assert len(calls) == 8 + 18 - 6
    assert without_seconds(resumed) == without_seconds(curve)
    done = len(calls)
    again = measure(path=path)
    assert len(calls) == done
    assert again == resumed  # seconds, too, are those of the file
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0]["fingerprint"]
    assert len({(row["model"], row["n"], row["seed"]) for row in rows[1:]}) == 18


def test_more_sizes_seeds_and_models_are_added_to_a_file(curve, tmp_path):
    path = tmp_path / "rows.jsonl"
    measure({"ridge": Chosen.learn}, ns=[20], seeds=[1], path=path)
    assert without_seconds(measure(path=path)) == without_seconds(curve)
    small = measure({"ridge": Chosen.learn}, ns=[40, 10], seeds=[2], path=path)
    np.testing.assert_array_equal(small.values[0, :, 0], curve.of("ridge")[[0, 2], 2])
    assert len(path.read_text().splitlines()) == 19


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"problem": LowRankPolynomial(5, 1, noise=0.2)}, "another experiment, whose problem"),
        ({"n_test": 51}, "whose n_test differ"),
        ({"n_val": 29}, "whose n_val differ"),
        ({"metric": "error"}, "whose metric differ"),
        ({"models": {"ridge": least_squares}}, "another model of the name 'ridge'"),
    ],
)
def test_files_of_other_experiments_are_refused(change, match, tmp_path):
    path = tmp_path / "rows.jsonl"
    settings = {"models": {"ridge": Chosen.learn}, "ns": [10], "seeds": [0], "path": path}
    measure(**settings)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=match):
        measure(**{**settings, **change})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [b"my notes", b"my notes\n", b'{"format": 99}\n', b'{"a": 1', b"[1, 2]\n"],
    ids=["text", "line", "format", "torn", "list"],
)
def test_files_of_another_kind_are_refused_and_left_alone(content, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        measure({"ridge": Chosen.learn}, path=path)
    assert path.read_bytes() == content


def test_a_damaged_line_is_named_and_a_torn_header_begins_anew(curve, tmp_path):
    path = tmp_path / "rows.jsonl"
    measure(path=path)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:3], lines[3][:-5], *lines[4:]]))
    with pytest.raises(CheckpointError, match="line 4, is damaged"):
        measure(path=path)
    path.write_bytes(lines[0][:40])
    assert without_seconds(measure(path=path)) == without_seconds(curve)
    for empty in (b"", lines[0] + b"\n"):
        path.write_bytes(empty)
        measure({"ridge": Chosen.learn}, ns=[10], seeds=1, path=path)
        assert len(path.read_text().splitlines()) == 2


def test_digests_tell_functions_by_their_code_and_closure():
    def make(factor):
        return lambda x: factor * x

    assert digest(make(2)) == digest(make(2)) != digest(make(3))
    assert digest(lambda x: x + 1) != digest(lambda x: x - 1)
    assert digest(lambda x: 1 + np.sin(x)) != digest(lambda x: 1 + np.cos(x))
    assert digest(functools.partial(max, 1)) != digest(functools.partial(max, 2))
    assert digest(np.arange(3)) == digest(np.arange(3)) != digest(np.arange(3.0))
    assert digest(jax.jit(make(2))) == digest(jax.jit(make(2))) != digest(jax.jit(make(4)))
    assert digest({"a": 1, "b": {1, 2}}) == digest({"b": {2, 1}, "a": 1})
    assert digest(Fitted(1.0)) == digest(Fitted(1.0)) != digest(Fitted(2.0))
    loop: list = []
    loop.append(loop)
    assert digest(loop) == digest(loop)


# Models with `fit`.


class Fitted:
    """The mean of the targets, scaled; notes what it was given."""

    seen: list = []  # noqa: RUF012  shared by copies on purpose

    def __init__(self, scale=1.0, random_state=None, validation=0.2, inner=None):
        self.scale, self.random_state, self.validation, self.inner = scale, random_state, validation, inner

    def get_params(self, deep=True):
        own = {name: getattr(self, name) for name in ("scale", "random_state", "validation", "inner")}
        nested = self.inner.get_params() if deep and self.inner is not None else {}
        return {**own, **{f"inner__{name}": value for name, value in nested.items()}}

    def set_params(self, **params):
        for name, value in params.items():
            inner, _, rest = name.partition("__")
            if rest:
                getattr(self, inner).set_params(**{rest: value})
            else:
                setattr(self, name, value)
        return self

    def fit(self, x, y):
        self.mean_ = self.scale * y.mean()
        self.selected = {"scale": self.scale}
        self.given = None if isinstance(self.validation, float) else self.validation[0].copy()
        self.seen.append(self)
        x[:] = y[:] = np.nan  # must not reach another model
        if self.given is not None:
            self.validation[0][:] = np.nan
        return self

    def predict(self, x):
        x[:] = np.nan
        return np.full(len(x), self.mean_)


def test_models_with_fit_are_copied_and_get_seed_and_validation_set():
    model = Fitted(0.5, inner=Fitted())
    Fitted.seen.clear()
    found = measure({"mean": model, "least squares": least_squares}, ns=[10, 20], seeds=[3, 4])
    assert len(Fitted.seen) == 4
    assert [fitted.random_state for fitted in Fitted.seen] == [3, 3, 4, 4]
    assert [fitted.inner.random_state for fitted in Fitted.seen] == [3, 3, 4, 4]
    assert {id(fitted.inner) for fitted in Fitted.seen}.isdisjoint({id(model.inner)})
    x, _ = PROBLEM.sample(30, seed=3, part="validation")
    for fitted in Fitted.seen[:2]:
        np.testing.assert_array_equal(fitted.given, x)
    assert Fitted.seen[0].inner.validation == 0.2
    assert not hasattr(model, "mean_")
    assert model.random_state is None
    assert found.rows()[0]["selected"] == {"scale": 0.5}
    assert np.isfinite(found.values).all()


def test_pipelines_of_scikit_learn_are_models():
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = measure({"pipeline": make_pipeline(StandardScaler(), Ridge(1e-3))}, ns=[200], seeds=1)
    assert found.values.max() < 0.05


@pytest.fixture(scope="module")
def frozen():
    """Ridge regression behind a frozen representation, by the seed of its unlabeled inputs."""
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    from widescape.estimators import NeuralRepresentation

    def model(seed):
        inputs = np.random.default_rng(seed).normal(size=(100, 5))
        return make_pipeline(FrozenEstimator(NeuralRepresentation(4, bias_scale=0.0).fit(inputs)), Ridge(1e-3))

    return model


def test_rows_of_a_frozen_part_that_was_fitted_to_other_data_are_refused(frozen, tmp_path):
    settings = {"ns": [20], "seeds": 1, "path": tmp_path / "rows.jsonl"}
    once = measure({"frozen": frozen(0)}, **settings)
    assert measure({"frozen": frozen(0)}, **settings) == once
    with pytest.raises(CheckpointError, match="another model of the name 'frozen'"):
        measure({"frozen": frozen(1)}, **settings)


def test_digests_hold_what_a_fit_does_not_replace(frozen):
    from sklearn.base import BaseEstimator
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import Ridge
    from sklearn.tree import DecisionTreeRegressor

    class Table(BaseEstimator):
        """Looks up a table that is no parameter."""

        def __init__(self, factor=1.0):
            self.factor = factor

    x = np.arange(12.0).reshape(6, 2)
    y, z = x[:, 0], x[:, 0] ** 2
    assert digest(Ridge().fit(x, y)) == digest(Ridge().fit(x, z)) == digest(Ridge()) != digest(Ridge(2.0))
    for model in (Ridge, DecisionTreeRegressor):
        once, again, other = (FrozenEstimator(model(random_state=0).fit(x, t)) for t in (y, y, z))
        assert digest(once) == digest(again) != digest(other)
    moment = features.second_moment(x)
    assert digest(replace(moment, provenance={"made": "yesterday"})) == digest(moment)
    first, second = Table(), Table()
    first.table, second.table = y, z
    assert digest(first) != digest(second)
    assert digest(np.random.default_rng(1)) == digest(np.random.default_rng(1)) != digest(np.random.default_rng(2))


class Plain:
    """A problem that prints as its place in memory."""

    def __init__(self, factor):
        self.factor = factor

    def sample(self, n, *, seed, part="train"):
        x, y = PROBLEM.sample(n, seed=seed, part=part)
        return x, self.factor * y

    def unlabeled(self, n, *, seed):
        return PROBLEM.unlabeled(n, seed=seed)


def test_a_problem_without_a_name_of_its_own_resumes_by_its_attributes(tmp_path):
    settings = {"models": {"ridge": Chosen.learn}, "ns": [10], "seeds": 1, "path": tmp_path / "rows.jsonl"}
    problems = [Plain(2.0), Plain(2.0), Plain(3.0)]
    once = measure(problem=problems[0], **settings)
    assert measure(problem=problems[1], **settings) == once
    assert "0x" not in once.problem
    with pytest.raises(CheckpointError, match="whose data differ"):
        measure(problem=problems[2], **settings)


class Noted:
    """A representation, or a model, that notes what it was fitted on."""

    def __init__(self, n_features=3, random_state=None, validation=None):
        self.n_features, self.random_state, self.validation = n_features, random_state, validation

    def get_params(self, deep=True):
        return vars(self).copy()

    def set_params(self, **params):
        vars(self).update(params)
        return self

    def fit(self, x, y=None):
        SEEN.append((self, x.copy(), y))
        self.lam_ = self.random_state + 0.5
        return self

    def transform(self, x):
        return x[:, : self.n_features] + self.random_state

    def predict(self, x):
        return x[:, 0]


SEEN: list = []


def test_a_representation_is_fitted_on_unlabeled_inputs_and_the_model_on_what_it_makes_of_labeled_ones():
    representation, model = Noted(2), Noted()
    SEEN.clear()
    found = measure({"own": features.on_representation(representation, model)}, ns=[10, 20], seeds=[3, 4])
    assert len(SEEN) == 8
    for (below, unlabeled, none), (above, x, y), (seed, n) in zip(
        SEEN[::2], SEEN[1::2], [(3, 10), (3, 20), (4, 10), (4, 20)], strict=True
    ):
        inputs, targets = PROBLEM.sample(n, seed=seed)
        held = PROBLEM.sample(30, seed=seed, part="validation")
        np.testing.assert_array_equal(unlabeled, PROBLEM.unlabeled(40, seed=seed))
        assert none is None
        assert below.random_state == above.random_state == seed
        np.testing.assert_array_equal(x, inputs[:, :2] + seed)
        np.testing.assert_array_equal(y, targets)
        np.testing.assert_array_equal(above.validation[0], held[0][:, :2] + seed)
        np.testing.assert_array_equal(above.validation[1], held[1])
    assert {row["selected"]["lam"] for row in found.rows()} == {3.5, 4.5}
    assert representation.random_state is model.random_state is None
    x_test, y_test = PROBLEM.sample(50, seed=3, part="test")
    expected = np.mean((x_test[:, 0] + 3 - y_test) ** 2) / np.mean(y_test**2)
    assert found.values[0, 0, 0] == pytest.approx(expected, rel=1e-12)
    SEEN.clear()
    measure({"own": features.on_representation(representation, model, samples=7)}, ns=[10], seeds=1)
    assert len(SEEN[0][1]) == 7


def test_a_representation_and_a_model_of_scikit_learn_are_one_learner(tmp_path):
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge, RidgeCV

    settings = {"ns": [200], "seeds": 2, "path": tmp_path / "rows.jsonl"}
    learner = features.on_representation(PCA(5), Ridge(1e-3), samples=50)
    found = measure({"ridge": learner}, **settings)
    assert found.values.max() < 0.05
    assert found.rows()[0]["selected"] is None
    assert measure({"ridge": features.on_representation(PCA(5), Ridge(1e-3), samples=50)}, **settings) == found
    with pytest.raises(CheckpointError, match="another model"):
        measure({"ridge": features.on_representation(PCA(5), Ridge(1e-2), samples=50)}, **settings)
    for arguments, error, match in (
        ((PCA(5), Ridge()), ValueError, "PCA has no parameter `n_features`"),
        ((Ridge(), Ridge()), TypeError, "`representation` is Ridge"),
        ((PCA(5), RidgeCV), TypeError, "`model` is <class"),
        ((PCA(5), PCA(5)), TypeError, "`model` is PCA"),
    ):
        with pytest.raises(error, match=match):
            features.on_representation(*arguments)
    with pytest.raises(ValueError, match="`samples` is 0"):
        features.on_representation(PCA(5), Ridge(), samples=0)


def test_what_a_fitted_pipeline_selected_is_that_of_its_last_step():
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from widescape.estimators import LinearTaylorRegressor

    model = make_pipeline(StandardScaler(), LinearTaylorRegressor(width=20, ridge=0.25))
    assert measure({"pipeline": model}, ns=[20], seeds=1).rows()[0]["selected"] == {"lam": 0.25}


# Classes, and what is refused.


@dataclass(frozen=True)
class Signs:
    """The sign of the first coordinate."""

    def sample(self, n, *, seed, part="train"):
        x = np.random.default_rng([seed, *part.encode()]).standard_normal((n, 3))
        return x, (x[:, 0] > 0).astype(int)

    def unlabeled(self, n, *, seed):
        return self.sample(n, seed=seed, part="unlabeled")[0]


def test_the_error_of_classes_is_the_share_of_wrong_answers():
    models = {
        "right": lambda x, y, **rest: lambda t: (t[:, 0] > 0).astype(int),
        "wrong": lambda x, y, **rest: lambda t: (t[:, 0] < 0).astype(int),
        "ones": lambda x, y, **rest: lambda t: np.ones(len(t), int),
    }
    found = sample_complexity_curve(models, Signs(), [5], 2, n_val=3, n_test=400, metric="error")
    np.testing.assert_array_equal(found.of("right"), 0)
    np.testing.assert_array_equal(found.of("wrong"), 1)
    for seed in range(2):
        share = Signs().sample(400, seed=seed, part="test")[1].mean()
        assert found.of("ones")[0, seed] == pytest.approx(1 - share, rel=1e-12)
    assert np.isnan(found.slopes).all()


def test_the_floor_is_one_of_the_relative_mean_squared_error_only():
    problem = LowRankPolynomial(5, 2, kind="harmonic")
    found = measure({"least squares": least_squares}, problem=problem, ns=[5, 10], seeds=1, metric="error")
    assert found.floor is None
    assert [series.label for series in found.charts()[0].series] == ["least squares"]


def test_failures_of_models_and_answers_that_do_not_fit_are_raised(tmp_path):
    def broken(x, y, **rest):
        raise StoppedError("no")

    with pytest.raises(StoppedError):
        measure({"broken": broken}, path=tmp_path / "rows.jsonl")
    with pytest.raises(ShapeError, match=r"'wide' at n = 10, seed 0: predictions have shape \(50, 1\)"):
        measure({"wide": lambda x, y, **rest: lambda t: np.zeros((len(t), 1))})
    with pytest.raises(NonFiniteError, match="'nan' at n = 10"):
        measure({"nan": lambda x, y, **rest: lambda t: np.full(len(t), np.nan)})


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"models": {}}, ValueError, "`models` is empty"),
        ({"models": {"a": 3}}, TypeError, "model 'a'"),
        ({"models": {"a": Fitted}}, TypeError, "model 'a'"),
        ({"ns": []}, ValueError, "`ns`"),
        ({"ns": [5, 5]}, ValueError, "each once"),
        ({"ns": [0]}, ValueError, "`ns` is 0"),
        ({"seeds": 0}, ValueError, "`seeds`"),
        ({"seeds": [0.5]}, TypeError, "`seeds`"),
        ({"metric": "mse"}, ValueError, "`metric` is 'mse'"),
        ({"n_test": 0}, ValueError, "`n_test` is 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(change, error, match):
    with pytest.raises(error, match=match):
        measure(**change)


def test_an_unknown_model_of_a_result_is_refused(curve):
    with pytest.raises(ValueError, match="choose one of 'least squares', 'ridge'"):
        curve.slope("lasso")


# Powers of the dimension.


@dataclass(frozen=True)
class Known:
    """Targets that are the first coordinate, and so can be missed by a chosen share."""

    d: int

    def sample(self, n, *, seed, part="train"):
        x = np.random.default_rng([seed, *part.encode()]).standard_normal((n, 2))
        return x, x[:, 0]

    def unlabeled(self, n, *, seed):
        return self.sample(n, seed=seed, part="unlabeled")[0]


def powers(exponent, spread=0.0, dims=(4, 8, 16), ns=(4, 16, 64, 256, 1024, 4096), seeds=6, common=False):
    """Curves of a model whose relative error is exactly 1/(1 + n/d^exponent), up to a factor for each seed.

    The factor is the same in all dimensions if `common`.
    """

    def learner(d, x, y, *, validation, unlabeled, seed):
        shift = np.exp(spread * np.random.default_rng([seed, 0 if common else d]).normal())
        error = 1 / (1 + len(x) / (shift * d**exponent))
        return lambda t: t[:, 0] * (1 - error**0.5)

    return {
        d: sample_complexity_curve({"known": functools.partial(learner, d)}, Known(d), ns, seeds, n_val=1, n_test=20)
        for d in dims
    }


def test_the_power_of_a_model_with_a_known_one_is_found():
    """1/(1 + e^s) is antisymmetric about its crossing of 1/2, so that interpolation there is exact at grid points."""
    found = fit_exponent(powers(2), "known")
    np.testing.assert_allclose(found.ns, [16, 64, 256], rtol=1e-9)
    assert found.exponent == pytest.approx(2, abs=1e-9)
    assert found.exponent_stderr < 1e-9
    assert found.status.ok
    assert found.crossed == 1
    assert found.charts()[0].series[0].x.tolist() == [4, 8, 16]
    between = fit_exponent(powers(2, dims=(8, 32), ns=(32, 128, 512, 2048)), "known")
    np.testing.assert_allclose(between.ns, [64, 1024], rtol=1e-9)  # half-way in log n, by that symmetry


@pytest.mark.parametrize("common", [False, True])
def test_the_error_of_the_power_is_that_of_repeated_experiments(common):
    """Crossings scatter as the factors of seeds: the slope's deviation is that of a median over the spread of log d.

    Seeds of different dimensions count as independent, also where their factors happen to be equal.
    """
    curves = powers(1.5, spread=0.4, ns=(2, 4, 8, 16, 32, 64, 128, 256, 512), seeds=40, common=common)
    found = fit_exponent(curves, "known")
    x = np.log([4, 8, 16]) - np.log([4, 8, 16]).mean()
    of_median = 0.4 * (np.pi / 2 / 40) ** 0.5
    expected = of_median / (x @ x) ** 0.5
    assert expected / 2 < found.exponent_stderr < 2 * expected
    assert abs(found.exponent - 1.5) < 4 * expected
    assert found.low < found.exponent < found.high


def test_curves_that_do_not_cross_say_so():
    above = fit_exponent(powers(2, ns=(4, 8), dims=(4, 8)), "known")
    assert above.status == "not_crossed"
    assert np.isnan(above.exponent)
    below = fit_exponent(powers(2, ns=(60, 100), dims=(4, 8)), "known")
    assert below.status == "below_from_start"
    assert np.isnan(below.ns[0])
    assert below.ns[1] == pytest.approx(64, rel=0.02)
    assert len(below.charts()[0].series[0].x) == 1
    assert above.charts() == ()


def test_powers_need_two_dimensions_a_known_model_and_a_level():
    curves = powers(2, ns=(8, 32), dims=(4, 5), seeds=1)
    assert np.isnan(fit_exponent(curves, "known").exponent_stderr)
    with pytest.raises(ValueError, match="at least two"):
        fit_exponent({4: curves[4]}, "known")
    with pytest.raises(ValueError, match="`model` is 'other'"):
        fit_exponent(curves, "other")
    with pytest.raises(ValueError, match="`level` is 0"):
        fit_exponent(curves, "known", level=0)


def test_random_feature_learners_fit_the_problem_together_with_the_library():
    """A learner of the library's own parts, with unlabeled inputs: square features fit a quadratic target exactly."""

    def learner(x, y, *, validation, unlabeled, seed):
        scale = features.input_scale(unlabeled(100))
        layer = features.random_features(4, 40, activation="square", input_scale=scale, seed=seed)
        weights = np.linalg.lstsq(layer(x), y, rcond=1e-10)[0]
        return lambda t: layer(t) @ weights

    problem = LowRankPolynomial(4, 2, 2, "harmonic")
    found = sample_complexity_curve({"features": learner}, problem, [6, 60], 2, n_val=1, n_test=100)
    few, enough = found.median("features")
    assert few > 1e-2
    assert enough < 1e-12
