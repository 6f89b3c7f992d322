"""Augmented images are windows of the padded image or of its mirror image, each as likely as the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from widescape import data
from widescape.core.errors import DtypeError, ShapeError

MODES = {"reflect": "reflect", "zero": "constant"}


def images(n=200, height=6, width=5, channels=2, dtype=np.float64):
    """Images of which no two windows agree."""
    rng = np.random.default_rng(3)
    return rng.permutation(n * height * width * channels).reshape(n, height, width, channels).astype(dtype) + 1


def windows(image, crop, padding):
    """All windows of the padded image, by shift."""
    padded = np.pad(image, ((crop, crop), (crop, crop), (0, 0)), mode=MODES[padding])
    height, width = image.shape[:2]
    shifts = range(2 * crop + 1)
    return {(i, j): padded[i : i + height, j : j + width] for i in shifts for j in shifts}


def shift_of(augmented, image, crop, padding):
    found = [shift for shift, window in windows(image, crop, padding).items() if np.array_equal(window, augmented)]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("crop", [1, 2, 3])
@pytest.mark.parametrize("padding", MODES)
def test_a_crop_is_one_window_of_the_padded_image_and_all_windows_occur_equally_often(crop, padding, key):
    x = images(1200)
    out = data.augment(flip=False, crop=crop, padding=padding)(key, x)
    assert out.shape == x.shape
    shifts = [shift_of(a, b, crop, padding) for a, b in zip(out, x, strict=True)]
    counts = np.zeros((2 * crop + 1,) * 2)
    np.add.at(counts, tuple(np.array(shifts).T), 1)
    assert counts.min() > 0
    assert stats.chisquare(counts.ravel()).pvalue > 1e-4


def test_each_image_is_mirrored_left_to_right_or_not_with_probability_one_half(key):
    x = images(4000, 3, 3, 1)
    out = data.augment()(key, x)
    same = (out == x).all(axis=(1, 2, 3))
    mirrored = (out == x[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert stats.binomtest(int(mirrored.sum()), len(x), 0.5).pvalue > 1e-4
    pairs = 2 * mirrored[::2] + mirrored[1::2]  # neighbors are independent
    assert stats.chisquare(np.bincount(pairs, minlength=4)).pvalue > 1e-4


def test_mirroring_and_shifting_are_independent(key):
    x = images(2000, 4, 4, 1)
    crop = 1
    out = data.augment(crop=crop, padding="zero")(key, x)
    counts = np.zeros((2, 9))
    for a, b in zip(out, x, strict=True):
        for flipped, image in enumerate((b, b[:, ::-1])):
            for place, window in enumerate(windows(image, crop, "zero").values()):
                counts[flipped, place] += np.array_equal(a, window)
    assert counts.sum() == len(x)
    assert stats.chisquare(counts.ravel()).pvalue > 1e-4


def test_without_mirroring_and_shifting_images_stay_as_they_are(key):
    x = images(5)
    assert np.array_equal(data.augment(flip=False)(key, x), x)


@pytest.mark.parametrize("options", [{"crop": 0}, {"crop": 2}, {"crop": 2, "padding": "zero", "flip": False}], ids=str)
def test_the_same_key_gives_the_same_images_in_both_precisions_and_other_keys_others(options):
    x = images(50)
    augmented = data.augment(**options)
    results = []
    for x64 in (False, True, False):
        with jax.enable_x64(x64):
            results.append(augmented(jax.random.key(7), x))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    others = {augmented(jax.random.key(seed), x).tobytes() for seed in range(20)}
    assert len(others) == 20


def test_the_draws_of_a_key_are_these_on_every_platform():
    x = images(16, 3, 3, 1)
    flips = (data.augment()(jax.random.key(0), x) != x).any(axis=(1, 2, 3)).astype(int)
    out = data.augment(flip=False, crop=1, padding="zero")(jax.random.key(0), x[:6])
    shifts = [shift_of(a, b, 1, "zero") for a, b in zip(out, x, strict=False)]
    assert "".join(map(str, flips)) == "1111010001001010"
    assert shifts == [(0, 0), (2, 2), (1, 2), (2, 2), (1, 2), (2, 2)]


def test_the_images_that_go_in_are_not_changed(key):
    x = images(20)
    before = x.copy()
    out = data.augment(crop=2)(key, x)
    out[...] = -1
    assert np.array_equal(x, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"crop": 1}, {"crop": 1, "padding": "zero", "flip": False}], ids=str)
def test_the_dtype_stays(dtype, options, key):
    for x in (images(4, dtype=dtype), jnp.asarray(images(4, dtype=dtype))):
        out = data.augment(**options)(key, x)
        assert isinstance(out, np.ndarray)
        assert out.dtype == x.dtype


@pytest.mark.parametrize("crop", [5, 6, 20])
@pytest.mark.parametrize("padding", MODES)
def test_a_crop_as_large_as_the_image_is_refused(crop, padding, key):
    with pytest.raises(ValueError, match=rf"`crop` is {crop}, but images have 6 by 5"):
        data.augment(crop=crop, padding=padding)(key, images(2))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"crop": -1}, ValueError, "`crop` is -1"),
        ({"crop": 1.5}, TypeError, "`crop` is 1.5"),
        ({"crop": True}, TypeError, "`crop`"),
        ({"padding": "wrap"}, ValueError, "`padding` is 'wrap'.*'reflect', 'zero'"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(options, error, match):
    with pytest.raises(error, match=match):
        data.augment(**options)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 5), (2, 3, 4, 5, 1)])
def test_what_is_no_batch_of_images_is_refused(shape, key):
    with pytest.raises(ShapeError, match=r"images \(N, H, W, C\)"):
        data.augment()(key, np.zeros(shape))


def test_images_of_bytes_are_refused_with_what_to_do(key):
    with pytest.raises(DtypeError, match=r"uint8.*255"):
        data.augment()(key, np.zeros((2, 4, 4, 1), np.uint8))
