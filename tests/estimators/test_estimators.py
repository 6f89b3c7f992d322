"""The estimators give the library's own numbers, in scikit-learn's manner."""

import json
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from widescape import arch, data, kernels, predict
from widescape.core.errors import IllConditionedError, MemoryBudgetError
from widescape.estimators import (
    InputScaler,
    KernelCache,
    NNGPClassifier,
    NNGPRegressor,
    NTKClassifier,
    NTKRegressor,
    ZCAWhitener,
    kernel_cache,
    load,
    plan_fit,
    save,
)
from widescape.estimators import solver as solver_module
from widescape.estimators.classification import calibrated_scale

NET = arch.fc(2, 16, 1, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)
CLASSIFIERS = {"nngp": NNGPClassifier, "ntk": NTKClassifier}
REGRESSORS = {"nngp": NNGPRegressor, "ntk": NTKRegressor}


@pytest.fixture(autouse=True)
def _forget():
    kernel_cache.clear()


@pytest.fixture(scope="module")
def digits():
    return data.load("digits").subset(120, 60)


@pytest.fixture(scope="module")
def curve():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    y = 50 + 10 * np.sin(2 * x[:, 0]) + rng.normal(size=60)
    return x[:40], y[:40], x[40:], y[40:]


def matrices(x, x_test, get):
    return kernels.gram(NET, x, get=get), kernels.gram(NET, x_test, x, get=get)


# Predictions.


@pytest.mark.parametrize("get", ["nngp", "ntk"])
def test_classifiers_regress_on_one_hot_targets(digits, get):
    x, y, x_test, _ = digits.arrays()
    K, cross = matrices(x, x_test, get)
    outputs = predict.GP(K, predict.one_hot(y, 10), reg=1e-2).mean(cross)
    model = CLASSIFIERS[get](NET, reg=1e-2).fit(x, y)
    assert np.allclose(model.decision_function(x_test), outputs, rtol=0, atol=1e-11)
    assert np.array_equal(model.predict(x_test), outputs.argmax(axis=1))
    loo = predict.GP(K, predict.one_hot(y, 10), reg=1e-2).loo()
    assert np.isclose(model.loo_mse_, loo.mse)
    assert np.isclose(model.loo_accuracy_, np.mean(loo.mean.argmax(axis=1) == y))


@pytest.mark.parametrize("get", ["nngp", "ntk"])
@pytest.mark.parametrize("t", [None, 50.0])
def test_regressors_predict_in_the_units_of_the_targets(curve, get, t):
    x, y, x_test, _ = curve
    K, cross = matrices(x, x_test, get)
    scaled = (y - y.mean()) / y.std()
    flow = predict.GradientFlow(K, scaled, reg=1e-2)
    expected = y.mean() + y.std() * flow.test(t, cross)
    assert np.allclose(REGRESSORS[get](NET, reg=1e-2, t=t).fit(x, y).predict(x_test), expected, rtol=0, atol=1e-9)


def test_an_early_time_is_a_strong_regularizer(digits):
    x, y, _, _ = digits.arrays()
    short, long = (NTKClassifier(NET, reg=0.0, t=t).fit(x, y) for t in (1.0, 1e6))
    assert np.abs(short.decision_function(x)).max() < 0.5
    assert np.allclose(long.decision_function(x), predict.one_hot(y, 10), atol=0.05)


# Leave-one-out.


@pytest.mark.parametrize("model", [NTKClassifier(NET, reg="loo"), NNGPRegressor(NET, reg="loo")])
def test_the_regularizer_chosen_by_leave_one_out_is_at_least_as_good_as_any_other(model, digits, curve):
    x, y = (digits.x_train, digits.y_train) if isinstance(model, NTKClassifier) else curve[:2]
    chosen = clone(model).fit(x, y)
    others = [clone(model).set_params(reg=reg).fit(x, y).loo_mse_ for reg in np.logspace(-6, 0, 13)]
    assert chosen.loo_mse_ <= min(others) * (1 + 1e-6)


def test_probabilities_have_the_scale_with_the_least_leave_one_out_log_loss(digits):
    x, y, x_test, _ = digits.arrays()
    model = NTKClassifier(NET, reg=1e-2).fit(x, y)
    K, _ = matrices(x, x_test, "ntk")
    left_out = predict.GP(K, predict.one_hot(y, 10), reg=1e-2).loo().mean

    def loss(scale):
        # One doubt among n + 2: a label is its class with probability 1 - 1/(n + 2), each other one with a ninth of it.
        targets = np.full((120, 10), 1 / 122 / 9)
        targets[np.arange(120), y] = 1 - 1 / 122
        return -(targets * log_softmax(scale * left_out, axis=1)).sum(axis=1).mean()

    best = minimize_scalar(loss, bounds=(0.1, 1000), method="bounded", options={"xatol": 1e-6})
    assert np.isclose(loss(model.scale_), best.fun, rtol=1e-6)
    probabilities = model.predict_proba(x_test)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert np.array_equal(model.classes_[probabilities.argmax(axis=1)], model.predict(x_test))


def test_probabilities_are_calibrated_on_the_test_set_too(digits):
    whole = data.load("digits").subset(600, 400)
    model = NNGPClassifier(reg="loo").fit(whole.x_train, whole.y_train)
    own = model.predict_proba(whole.x_test)[np.arange(400), whole.y_test]
    # Better than any overconfident or underconfident rescaling by three.
    outputs = model.decision_function(whole.x_test)
    for factor in (1 / 3, 3):
        other = log_softmax(factor * model.scale_ * outputs, axis=1)[np.arange(400), whole.y_test]
        assert np.log(own).mean() > other.mean()


def test_perfect_left_out_predictions_leave_a_doubt_of_one_in_n():
    labels = np.arange(30) % 2
    for margin in (1.0, 0.05):
        outputs = margin * predict.one_hot(labels, 2)
        scale = calibrated_scale(outputs, labels)
        assert np.isclose(1 / (1 + np.exp(-scale * margin)), 1 - 1 / 32, rtol=1e-3)


# Standard deviations.


def test_nngp_deviations_are_those_of_a_new_observation_scaled_by_leave_one_out(curve):
    x, y, x_test, y_test = curve
    model = NNGPRegressor(NET, reg=0.05).fit(x, y)
    mean, std = model.predict(x_test, return_std=True)
    K, cross = matrices(x, x_test, "nngp")
    scaled = (y - y.mean()) / y.std()
    gp = predict.GP(K, scaled, reg=0.05)
    loo = gp.loo()
    factor = np.sqrt(np.mean(loo.residual**2 / loo.variance))
    own = np.diag(NET.kernel(x_test, get="nngp").nngp)
    variance = gp.mean_cov(cross, own.copy()).cov + gp.noise
    assert np.allclose(std, y.std() * factor * np.sqrt(variance), rtol=1e-9)
    assert 0.3 < np.mean(((mean - y_test) / std) ** 2) < 3


@pytest.mark.parametrize(("get", "t"), [("ntk", None), ("ntk", 30.0), ("nngp", 30.0)])
def test_other_deviations_are_the_spread_of_trained_networks(curve, get, t):
    x, y, x_test, _ = curve
    _, std = REGRESSORS[get](NET, reg=0.05, t=t).fit(x, y).predict(x_test, return_std=True)
    both = np.concatenate([x, x_test])
    nngp = np.array(NET.kernel(both, get="nngp").nngp)
    K, cross = matrices(x, x_test, get)
    scaled = (y - y.mean()) / y.std()
    prior = predict.Covariances(nngp[:40, :40], nngp[40:, :40], nngp[40:, 40:])
    cov = predict.GradientFlow(K, scaled, reg=0.05).ensemble(t, cross, prior).cov
    assert np.allclose(std, y.std() * np.sqrt(np.diag(cov)), rtol=1e-7)


def test_deviations_do_not_depend_on_how_test_points_are_cut(curve, monkeypatch):
    x, y, x_test, _ = curve
    model = NTKRegressor(NET).fit(x, y)
    whole = model.predict(x_test, return_std=True)[1]
    monkeypatch.setattr(solver_module, "_CHUNK", 7)
    assert np.allclose(model.predict(x_test, return_std=True)[1], whole, rtol=1e-10)


def test_several_outputs_are_predicted_at_once(curve):
    x, y, x_test, _ = curve
    both = np.stack([y, -3 * y], axis=1)
    mean, std = NNGPRegressor(NET, reg=0.05).fit(x, both).predict(x_test, return_std=True)
    one, one_std = NNGPRegressor(NET, reg=0.05).fit(x, y).predict(x_test, return_std=True)
    assert np.allclose(mean, np.stack([one, -3 * one], axis=1), rtol=1e-9)
    assert np.allclose(std, np.stack([one_std, 3 * one_std], axis=1), rtol=1e-9)


def test_what_the_caller_does_to_the_training_data_afterwards_does_not_matter(curve):
    x, y = curve[0].copy(), np.stack([curve[1]] * 2, axis=1)
    model = NNGPRegressor(NET, reg=0.05).fit(x, y)
    before = model.predict(curve[2], return_std=True)
    x *= 5
    y[:] = 0
    kernel_cache.clear()
    for now, then in zip(model.predict(curve[2], return_std=True), before, strict=True):
        assert np.array_equal(now, then)


@pytest.mark.parametrize("get", ["nngp", "ntk"])
def test_new_parameters_count_from_the_next_fit_on(curve, tmp_path, get):
    x, y, x_test, _ = curve
    model = REGRESSORS[get](NET, reg=0.05).fit(x, y)
    before = model.predict(x_test, return_std=True)
    model.set_params(net=arch.fc(1, 8, 1, activation=arch.Erf(), w_std=1.0), t=1.0, reg=3.0)
    save(model, tmp_path / "model.npz")
    for own in (model, pickle.loads(pickle.dumps(model)), load(tmp_path / "model.npz").model):
        for now, then in zip(own.predict(x_test, return_std=True), before, strict=True):
            assert np.allclose(now, then, rtol=1e-12)


def test_a_constant_target_has_no_scale_and_its_deviations_are_not_zero(curve):
    x = curve[0]
    both = np.stack([curve[1], np.full(40, 0.1)], axis=1)
    mean, std = NNGPRegressor(NET, reg=0.05).fit(x, both).predict(curve[2], return_std=True)
    assert np.allclose(mean[:, 1], 0.1)
    assert (std[:, 1] > 0.1).all()


def test_targets_and_inputs_of_any_size_keep_their_digits(curve):
    x, y, x_test, _ = curve
    mean, std = NNGPRegressor(NET, reg=0.05).fit(x, y).predict(x_test, return_std=True)
    for unit in (1e200, 1e-200):
        large, wide = NNGPRegressor(NET, reg=0.05).fit(x, unit * y).predict(x_test, return_std=True)
        assert np.allclose(large / unit, mean, rtol=1e-9)
        assert np.allclose(wide / unit, std, rtol=1e-9)
        assert np.allclose(InputScaler().fit_transform(unit * x), InputScaler().fit_transform(x), rtol=1e-9)


# Grid searches and the cache.


@pytest.mark.claim("lee2020finite/4-grid")
def test_a_grid_search_computes_each_pair_of_examples_about_once(digits):
    x, y = digits.x_train, digits.y_train
    grid = {"reg": [1e-4, 1e-3, 1e-2, 1e-1, 1.0]}
    search = GridSearchCV(NTKClassifier(NET), grid, cv=4).fit(x.reshape(120, -1), y)
    once = 120 * 121 // 2
    first_test = 30 * 90  # the first fold is predicted before its test examples were ever trained on
    assert kernel_cache.computed_pairs == once + first_test
    kernel_cache.limit_bytes, limit = 0, kernel_cache.limit_bytes
    try:
        alone = GridSearchCV(NTKClassifier(NET), grid, cv=4).fit(x.reshape(120, -1), y)
    finally:
        kernel_cache.limit_bytes = limit
    assert np.array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    assert search.best_params_ == alone.best_params_


@pytest.mark.slow
def test_remembered_kernels_are_those_computed_afresh(rng):
    x = rng.normal(size=(30, 5))
    cache = KernelCache()
    for part in (slice(0, 10), slice(5, 25), slice(None), slice(None, None, -1)):
        assert np.allclose(cache.train(NET, x[part], "ntk"), kernels.gram(NET, x[part], get="ntk"), rtol=1e-12, atol=0)
    assert cache.computed_pairs == 30 * 31 // 2
    assert np.allclose(cache.cross(NET, x[:4], x[9:], "ntk"), kernels.gram(NET, x[:4], x[9:], get="ntk"), rtol=1e-12)
    assert cache.computed_pairs == 30 * 31 // 2
    twice = x[[3, 3, 7]]
    assert np.allclose(cache.train(NET, twice, "ntk"), kernels.gram(NET, twice, get="ntk"), rtol=1e-12, atol=0)


def test_networks_kernels_and_shapes_are_kept_apart(rng):
    x = rng.normal(size=(6, 4))
    cache = KernelCache()
    other = arch.fc(1, 16, 1, activation=arch.Erf(), w_std=1.0)
    for net, get, own in ((NET, "ntk", x), (NET, "nngp", x), (other, "ntk", x), (NET, "ntk", x.reshape(6, 2, 2))):
        assert np.allclose(cache.train(net, own, get), kernels.gram(net, own, get=get), rtol=1e-12)


def test_what_is_returned_can_be_changed_without_changing_what_is_remembered(rng):
    x = rng.normal(size=(6, 4))
    cache = KernelCache()
    first = cache.train(NET, x, "ntk")
    first[:] = 0
    assert np.allclose(cache.train(NET, x, "ntk"), kernels.gram(NET, x, get="ntk"), rtol=1e-12)


def test_the_cache_keeps_to_its_limit_and_forgets_what_was_used_longest_ago(rng):
    x = rng.normal(size=(20, 4))
    size = 20 * 20 * 8 + 20 * 4 * 8
    cache = KernelCache(limit_bytes=2 * size)
    other = arch.fc(1, 16, 1, activation=arch.Erf(), w_std=1.0)
    cache.train(NET, x, "ntk")
    cache.train(NET, x, "nngp")
    cache.train(other, x, "ntk")
    assert cache.num_bytes == 2 * size
    before = cache.computed_pairs
    cache.train(NET, x, "nngp")
    assert cache.computed_pairs == before
    cache.train(NET, x, "ntk")
    assert cache.computed_pairs > before
    cache.train(NET, rng.normal(size=(60, 4)), "ntk")  # more than the limit
    assert cache.num_bytes <= 2 * size


def test_other_data_takes_the_place_of_what_fills_the_cache(rng):
    first, second = rng.normal(size=(30, 4)), rng.normal(size=(20, 4))
    cache = KernelCache(limit_bytes=31 * 31 * 8 + 31 * 4 * 8)
    cache.train(NET, first, "ntk")
    cache.train(NET, second, "ntk")
    before = cache.computed_pairs
    assert np.allclose(cache.train(NET, second, "ntk"), kernels.gram(NET, second, get="ntk"), rtol=1e-12)
    assert cache.computed_pairs == before


# Files.


@pytest.mark.parametrize("how", ["pickle", "file"])
@pytest.mark.parametrize(
    "model",
    [
        NTKClassifier(reg="loo"),
        NNGPRegressor(NET, reg=1e-2),
        NTKRegressor(NET, reg=1e-2, t=10.0),
        make_pipeline(InputScaler(), ZCAWhitener(), NNGPClassifier(NET)),
    ],
    ids=["classifier", "nngp regressor", "early ntk regressor", "pipeline"],
)
def test_a_model_that_was_stored_predicts_the_same(how, model, curve, tmp_path):
    x, y, x_test, _ = curve
    classes = hasattr(model, "predict_proba")
    y = np.array(["low", "high"])[(y > 50).astype(int)] if classes else y
    model = clone(model).fit(x, y)
    if how == "pickle":
        stored = pickle.loads(pickle.dumps(model))
    else:
        save(model, tmp_path / "model.npz", about={"made": "here"})
        kept = load(tmp_path / "model.npz")
        stored = kept.model
        assert kept.about == {"made": "here"}
    assert np.array_equal(stored.predict(x_test), model.predict(x_test))
    if classes:
        assert np.array_equal(stored.predict_proba(x_test), model.predict_proba(x_test))
    else:
        assert np.allclose(stored.predict(x_test, return_std=True)[1], model.predict(x_test, return_std=True)[1])
    clone(stored).fit(x, y)


def test_a_pickle_does_not_hold_the_kernel_matrix(rng):
    x = rng.normal(size=(200, 2))
    model = NNGPRegressor(NET, reg=1e-2).fit(x, x[:, 0])
    assert len(pickle.dumps(model)) < 200 * 200 * 8 / 4


def test_files_that_hold_no_model_and_models_that_fit_no_file_are_refused(tmp_path, curve):
    from sklearn.preprocessing import StandardScaler

    from widescape.core.errors import ModelFileError

    x, y, _, _ = curve
    bad = tmp_path / "bad.npz"
    for content in (b"", b"PK\x03\x04 cut", pickle.dumps({"document": 1})):
        bad.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"bad\.npz"):
            load(bad)
    good = tmp_path / "good.npz"
    save(NNGPRegressor(NET).fit(x, y), good)
    with np.load(good) as archive:
        parts = dict(archive)
    document = json.loads(str(parts["document"]))

    def changed(change):
        other = json.loads(json.dumps(document))
        change(other)
        np.savez(bad, **{**parts, "document": np.array(json.dumps(other))})

    for change in (
        lambda d: d.update(steps=[]),
        lambda d: d.update(format=99),
        lambda d: d["steps"][0]["state"].update(predict="x"),
        lambda d: d["steps"][0]["state"].update(_solver="x"),
        lambda d: d["steps"][0]["state"].update(reg_="loo"),
        lambda d: d["steps"][0]["state"].update(y_fit_={"array": "model.X_fit_"}),
        lambda d: d["steps"][0].update({"class": "object"}),
    ):
        changed(change)
        with pytest.raises(ModelFileError, match=r"bad\.npz"):
            load(bad)
    with pytest.raises(ModelFileError, match=r"absent\.npz"):
        load(tmp_path / "absent.npz")
    with pytest.raises(ModelFileError, match="StandardScaler cannot be saved"):
        save(make_pipeline(StandardScaler(), NNGPRegressor(NET)).fit(x, y), bad)
    own = arch.fc(1, 8, 1, activation=arch.Activation(jnp.tanh), w_std=1.0)
    with pytest.raises(ModelFileError, match="functions of its own"):
        save(NNGPRegressor(own).fit(x, y), bad)


# Choice of examples, refusals, plans.


def test_a_limit_on_examples_draws_a_balanced_subset_by_the_seed(digits):
    x, y, _, _ = digits.arrays()
    model = NTKClassifier(NET, n_train_max=50, random_state=3).fit(x, y)
    assert np.bincount(y[model.train_indices_]).tolist() == [5] * 10
    assert np.array_equal(model.X_fit_, x[model.train_indices_])
    again, other = (NTKClassifier(NET, n_train_max=50, random_state=s).fit(x, y) for s in (3, 4))
    assert np.array_equal(again.train_indices_, model.train_indices_)
    assert not np.array_equal(other.train_indices_, model.train_indices_)
    assert np.array_equal(NTKClassifier(NET, n_train_max=500).fit(x, y).train_indices_, np.arange(120))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"reg": -1.0}, "`reg` is -1"),
        ({"reg": "best"}, "or 'loo'"),
        ({"reg": float("nan")}, "`reg` is nan"),
        ({"t": 0.0}, "`t` is 0"),
        ({"t": 5.0, "reg": "loo"}, "with `t`"),
        ({"n_train_max": 1}, "at least 2"),
        ({"random_state": None}, "`random_state` is None"),
        ({"net": "fc"}, "`net` is 'fc'"),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(options, reason, curve):
    with pytest.raises((ValueError, TypeError), match=reason):
        NNGPRegressor(**options).fit(curve[0], curve[1])


@pytest.mark.claim("lee2020finite/4-estimators")
def test_sparse_input_and_other_shapes_are_refused(curve, digits):
    x, y, _, _ = curve
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        NNGPRegressor(NET).fit(sparse.csr_matrix(x), y)
    model = NTKClassifier(NET).fit(digits.x_train, digits.y_train)
    with pytest.raises(ValueError, match="examples of shape"):
        model.predict(digits.x_test[:, :, :4])


def test_a_limit_below_the_number_of_classes_is_refused(digits):
    with pytest.raises(ValueError, match="there are 10 classes"):
        NTKClassifier(NET, n_train_max=9).fit(digits.x_train, digits.y_train)


def test_images_have_no_feature_names(digits):
    scaler = InputScaler().fit(digits.x_train)
    with pytest.raises(ValueError, match="no columns"):
        scaler.get_feature_names_out()
    assert InputScaler().fit(digits.x_train.reshape(120, 64)).get_feature_names_out()[:2].tolist() == ["x0", "x1"]


def test_one_class_is_refused(digits):
    with pytest.raises(ValueError, match="one class only"):
        NTKClassifier(NET).fit(digits.x_train, np.zeros(120, int))


def test_duplicates_without_a_regularizer_are_refused_with_one_that_works(curve):
    x, y = np.concatenate([curve[0]] * 2), np.concatenate([curve[1]] * 2)
    with pytest.raises(IllConditionedError, match="reg") as caught:
        NNGPRegressor(NET, reg=0.0).fit(x, y)
    NNGPRegressor(NET, reg=max(10 * caught.value.suggested_reg, 1e-10)).fit(x, y)


def test_a_fit_that_exceeds_the_memory_says_how_many_examples_fit(curve, monkeypatch):
    monkeypatch.setattr(solver_module, "available_bytes", lambda: 8 * 4 * 30**2)
    with pytest.raises(MemoryBudgetError, match="n_train_max=30"):
        NNGPRegressor(NET).fit(curve[0], curve[1])
    NNGPRegressor(NET, n_train_max=30).fit(curve[0], curve[1])


def test_a_plan_counts_pairs_and_memory(rng):
    plan = plan_fit(NET, rng.normal(size=(600, 3)), get="ntk", num_test=100, spectral=False)
    assert plan.pairs == 600 * 601 // 2 + 600 * 100
    assert plan.peak_bytes == 4 * 8 * 600**2
    assert plan.fits
    assert plan.seconds > 0


# Transformers.


def test_the_scaler_takes_one_number_for_images_and_one_each_for_features(rng, digits):
    table = rng.normal(size=(30, 3)) * [1.0, 10.0, 0.0] + [0.0, 5.0, 2.0]
    scaled = InputScaler().fit_transform(table)
    assert np.allclose(scaled[:, :2].std(axis=0), 1)
    assert np.allclose(scaled.mean(axis=0), 0)
    images = InputScaler().fit(digits.x_train)
    expected = (digits.x_test - digits.x_train.mean()) / digits.x_train.std()
    assert np.allclose(images.transform(digits.x_test), expected)


def test_the_whitener_is_the_whitening_of_the_data_room(rng):
    x = rng.normal(size=(80, 4, 4, 1))
    found = ZCAWhitener(reg=0.3, image_norm=False).fit(x).transform(x[:5])
    assert np.array_equal(found, data.ZCA(0.3, image_norm=False).fit(x).transform(x[:5]))


@pytest.mark.parametrize("options", [{"reg": "loo"}, {"reg": 0.1}, {"reg": 0.1, "t": 10.0}])
def test_a_kernel_too_large_to_remember_is_computed_once_for_a_fit_and_once_for_deviations(curve, monkeypatch, options):
    x, y, x_test, _ = curve
    monkeypatch.setattr(kernel_cache, "limit_bytes", 0)
    monkeypatch.setattr(solver_module, "_CHUNK", 7)
    own, cross = 40 * 41 // 2, 20 * 40
    model = NTKRegressor(NET, **options).fit(x, y)
    assert kernel_cache.computed_pairs == own
    model.predict(x_test, return_std=True)
    # The mean needs the cross kernel, and so do the deviations, which also need the NNGP kernel and its cross part.
    assert kernel_cache.computed_pairs == own + cross + own + 2 * cross
