"""Whitening equals a dense and obvious implementation of its definition, and warns where it harms."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from widescape import data
from widescape.core.errors import DtypeError, ShapeError, WhiteningWarning


def steps(train, image_norm):
    """A function that standardizes channels and normalizes images, with the statistics of `train`."""
    channels = train.shape[-1]
    mean = [np.mean(train[..., c]) for c in range(channels)]
    std = [np.std(train[..., c]) for c in range(channels)]

    def rows(x):
        x = np.stack([(x[..., c] - mean[c]) / (std[c] if std[c] > 1e-12 else 1.0) for c in range(channels)], axis=-1)
        flat = x.reshape(len(x), -1)
        if not image_norm:
            return flat
        centered = [row - np.mean(row) for row in flat]
        return np.array([row / np.sqrt(np.sum(row**2)) for row in centered])

    return rows


def dense(train, *others, reg, image_norm, rescale):
    """Regularized ZCA from its definition, with d x d matrices: the whitened arrays and W."""
    rows = steps(train, image_norm)
    X = rows(train)
    m, d = X.shape
    sigma = X.T @ X / m
    values, U = np.linalg.eigh(sigma)
    multipliers = 1 / np.sqrt(np.maximum(values, 0) + reg * np.trace(sigma) / d)
    if m < d:
        multipliers[: d - np.linalg.matrix_rank(X)] = 1.0  # eigenvalues rise
    W = U @ np.diag(multipliers) @ U.T
    if rescale:
        W = W / np.sqrt(np.mean((X @ W) ** 2))
    return [(rows(x) @ W).reshape(x.shape) for x in (train, *others)], W


def draw(m, shape=(4, 3, 2), seed=0):
    """Correlated images away from zero."""
    rng = np.random.default_rng(seed)
    d = int(np.prod(shape))
    mix = rng.standard_normal((d, d)) * np.linspace(0.2, 2, d)
    return (3 + rng.standard_normal((m, d)) @ mix).reshape(m, *shape)


def fitted(x, **options):
    """Fit, with the warning where it is due and no other."""
    zca = data.ZCA(**options)
    if len(x) >= x[0].size:
        return zca.fit(x)
    with pytest.warns(WhiteningWarning):
        return zca.fit(x)


@pytest.mark.claim("lee2020finite/1.8")
@pytest.mark.parametrize("m", [300, 25, 24, 20, 9, 2])
@pytest.mark.parametrize("reg", [1e-5, 0.1, 3.0])
@pytest.mark.parametrize("image_norm", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
def test_whitened_images_equal_the_dense_definition(m, reg, image_norm, rescale):
    train, test = draw(m), draw(7, seed=1)
    zca = fitted(train, reg=reg, image_norm=image_norm, rescale=rescale)
    expected, _ = dense(train, test, reg=reg, image_norm=image_norm, rescale=rescale)
    for x, own in zip((train, test), expected, strict=True):
        white = zca.transform(x)
        assert (white.shape, white.dtype) == (x.shape, np.float64)
        assert np.abs(white - own).max() < 1e-10 * np.abs(own).max()


@pytest.mark.parametrize("m", [200, 5])
def test_tables_have_a_channel_for_each_feature(m):
    train, test = draw(m, (6,)), draw(4, (6,), seed=1)
    expected, _ = dense(train, test, reg=0.01, image_norm=False, rescale=True)
    zca = fitted(train, reg=0.01, image_norm=False)
    assert np.allclose(zca.transform(test), expected[1], rtol=0, atol=1e-10)
    assert np.allclose(zca.mean, train.mean(axis=0), rtol=1e-12)


@given(st.integers(1, 60), st.integers(0, 2**32), st.booleans(), st.sampled_from([1e-4, 0.1, 1.0]))
@settings(deadline=None, max_examples=60)
def test_any_number_of_images_agrees_with_the_dense_definition(m, seed, image_norm, reg):
    train = draw(m, (3, 2, 2), seed)
    test = draw(3, (3, 2, 2), seed + 1)
    singular = np.linalg.svd(steps(train, image_norm)(train), compute_uv=False)
    reached = singular[singular > 1e-12 * singular[0]]
    assume(reached[-1] > 1e-3 * reached[0])  # which directions are reached is clear
    zca = fitted(train, reg=reg, image_norm=image_norm)
    expected, _ = dense(train, test, reg=reg, image_norm=image_norm, rescale=True)
    assert np.abs(zca.transform(test) - expected[1]).max() < 1e-9 * np.abs(expected[1]).max()


@pytest.mark.parametrize("m", [50, 8])
def test_directions_and_multipliers_give_the_matrix_of_the_definition_which_is_symmetric(m):
    train = draw(m, (4, 3, 1))
    zca = fitted(train, reg=0.2, image_norm=False)
    V, d = zca.vectors, 12
    assert np.allclose(V.T @ V, np.eye(V.shape[1]), rtol=0, atol=1e-12)
    assert (np.diff(zca.eigenvalues) >= 0).all()
    outside = zca.outside * (np.eye(d) - V @ V.T) if m < d else np.zeros((d, d))
    W = outside + V @ np.diag(zca.multipliers) @ V.T
    _, expected = dense(train, reg=0.2, image_norm=False, rescale=True)
    assert np.abs(W - expected).max() < 1e-10
    # What `transform` does to unit vectors is W as well.
    units = (np.eye(d).reshape(d, 4, 3, 1)) * zca.std + zca.mean
    applied = zca.transform(units).reshape(d, d)
    assert np.abs(applied - applied.T).max() < 1e-10
    assert np.abs(applied - W).max() < 1e-10


def test_without_rescaling_directions_that_no_training_image_reaches_keep_the_factor_one():
    train = draw(5, (4, 3, 1))
    zca = fitted(train, image_norm=False, rescale=False)
    rows = steps(train, False)(train)
    away = np.linalg.svd(rows)[2][-1]  # orthogonal to all training images
    x = (away.reshape(1, 4, 3, 1)) * zca.std + zca.mean
    assert np.allclose(zca.transform(x).ravel(), away, rtol=0, atol=1e-12)


@pytest.mark.parametrize("m", [400, 10])
@pytest.mark.parametrize("image_norm", [True, False])
@pytest.mark.parametrize("reg", [1e-3, 10.0])
def test_rescaling_gives_whitened_training_entries_mean_square_one_by_a_single_factor(m, image_norm, reg):
    train, test = draw(m), draw(6, seed=1)
    scaled = fitted(train, reg=reg, image_norm=image_norm)
    plain = fitted(train, reg=reg, image_norm=image_norm, rescale=False)
    assert abs(np.mean(scaled.transform(train) ** 2) - 1) < 1e-12
    ratio = scaled.transform(test) / plain.transform(test)
    assert np.ptp(ratio) < 1e-9 * ratio.max()


@pytest.mark.parametrize(("reg", "tolerance"), [(1e-3, 0.5), (1e-7, 1e-4), (1e-11, 1e-8)])
def test_second_moments_tend_to_the_identity_as_the_regularizer_vanishes(reg, tolerance):
    x = draw(500, (4, 2, 1))
    white = data.ZCA(reg=reg, image_norm=False).fit(x).transform(x).reshape(500, 8)
    distance = np.abs(white.T @ white / 500 - np.eye(8)).max()
    assert distance < tolerance
    if reg == 1e-3:
        assert distance > 1e-4  # the regularizer has an effect at all


def test_a_large_regularizer_leaves_images_as_they_are_up_to_one_factor():
    x = draw(100)
    white = data.ZCA(reg=1e10, image_norm=False).fit(x).transform(x).reshape(100, -1)
    ratio = white / steps(x, False)(x)
    assert np.ptp(ratio) < 1e-6 * ratio.max()


def test_the_regularizer_is_relative_to_the_mean_eigenvalue_so_that_units_cancel():
    train, test = draw(100), draw(5, seed=1)
    a = data.ZCA(reg=0.3).fit(train).transform(test)
    b = data.ZCA(reg=0.3).fit(1e4 * train + 7).transform(1e4 * test + 7)
    assert np.allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.claim("lee2020finite/P10")
@pytest.mark.parametrize("m", [23, 24, 25])
def test_fewer_images_than_entries_warn_and_as_many_do_not(m, measured):
    x = draw(m)  # 24 entries
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        data.ZCA().fit(x)
    assert [w.category for w in seen] == ([WhiteningWarning] if m < 24 else [])
    if m < 24:
        assert f"24 entries with {m} examples" in str(seen[0].message)
        assert seen[0].filename == __file__
        measured("23 images of 24 entries warn, 24 and 25 do not")


def test_without_enough_images_the_whitened_training_images_are_nearly_orthogonal():
    x = draw(10, (8, 8, 1))
    white = fitted(x, reg=1e-8).transform(x).reshape(10, -1)
    gram = white @ white.T
    assert np.abs(gram / gram[0, 0] - np.eye(10)).max() < 1e-4


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("image_norm", [True, False])
def test_a_constant_channel_is_as_good_as_none_and_everything_stays_finite(value, image_norm):
    varying = draw(60, (3, 3, 1))
    x = np.concatenate([varying, np.full_like(varying, value)], axis=-1)
    zca = data.ZCA(image_norm=image_norm).fit(x)
    assert zca.std[1] == 1
    expected, _ = dense(x, reg=0.1, image_norm=image_norm, rescale=True)
    white = zca.transform(x)
    assert np.isfinite(white).all()
    assert np.abs(white - expected[0]).max() < 1e-8
    if not image_norm:
        assert np.abs(white[..., 1]).max() < 1e-8


@given(st.floats(-10, 10), st.integers(2, 9), st.integers(0, 99), st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_constant_image_becomes_zero_and_not_enlarged_rounding(value, side, place, image_norm):
    x = draw(100, (side, side, 1))
    x[place] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WhiteningWarning)
        zca = data.ZCA(image_norm=image_norm).fit(x)
    if image_norm:
        assert np.abs(zca.transform(x)[place]).max() < 1e-9
        assert np.abs(zca.transform(np.full((1, side, side, 1), 3 * value))).max() < 1e-9
    else:
        assert np.isfinite(zca.transform(x)).all()


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.sampled_from([2, 7, 50, 123]), st.booleans())
@settings(deadline=None, max_examples=60)
def test_constant_training_images_are_refused(red, green, m, image_norm):
    x = np.stack([np.full((m, 3, 3), red), np.full((m, 3, 3), green)], axis=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WhiteningWarning)
        with pytest.raises(ValueError, match="constant"):
            data.ZCA(image_norm=image_norm).fit(x)


def test_transform_before_fit_and_after_a_fit_that_failed_is_refused():
    zca = data.ZCA()
    with pytest.raises(ShapeError, match="`fit`"):
        zca.transform(draw(3))
    zca.fit(draw(30))
    with pytest.raises(ValueError, match="constant"):
        zca.fit(np.ones((30, 4, 3, 2)))
    with pytest.raises(ShapeError, match="`fit`"):
        zca.transform(draw(3))


@pytest.mark.parametrize("shape", [(4, 3, 1), (3, 4, 2), (24,), (4, 3, 2, 1), (4, 6)])
def test_images_of_another_shape_are_refused_with_both_shapes(shape):
    zca = data.ZCA().fit(draw(30))
    with pytest.raises(ShapeError) as caught:
        zca.transform(np.zeros((2, *shape)))
    assert str(shape) in str(caught.value)
    assert "(4, 3, 2)" in str(caught.value)


def test_fitting_again_forgets_what_was_fitted_before():
    a, b, test = draw(40), draw(50, (4, 3, 2), seed=5) ** 2, draw(3, seed=9)
    zca = data.ZCA()
    first = zca.fit(a).transform(test)
    assert not np.allclose(zca.fit(b).transform(test), first)
    assert np.array_equal(zca.fit(a).transform(test), first)
    assert np.array_equal(zca.fit(a).fit(a).transform(test), first)


def test_fit_and_transform_leave_their_input_alone_and_take_single_precision():
    x = draw(40)
    before = x.copy()
    out = data.ZCA().fit(x).transform(x)
    out[...] = 0
    assert np.array_equal(x, before)
    single = data.ZCA().fit(x.astype(np.float32)).transform(x.astype(np.float32))
    assert single.dtype == np.float64
    assert np.allclose(single, data.ZCA().fit(x).transform(x), atol=1e-4)


@pytest.mark.parametrize("reg", [0.0, -0.1, np.inf, np.nan])
def test_a_regularizer_that_is_not_positive_and_finite_is_refused(reg):
    with pytest.raises(ValueError, match="reg"):
        data.ZCA(reg=reg)


def test_what_is_no_batch_of_finite_numbers_is_refused():
    with pytest.raises(DtypeError, match="uint8"):
        data.ZCA().fit(np.zeros((3, 2, 2, 1), np.uint8))
    with pytest.raises(ShapeError):
        data.ZCA().fit(np.zeros(3))
    broken = draw(30)
    broken[3, 1, 1, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        data.ZCA().fit(broken)
    with pytest.raises(ValueError, match="NaN"):
        data.ZCA().fit(draw(30)).transform(broken)
