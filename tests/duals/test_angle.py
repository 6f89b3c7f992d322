"""The functions under every angle, against arithmetic with 40 digits."""

import jax
import mpmath as mp
import numpy as np
import pytest

from widescape.duals.angle import angle_and_lune, cosine, repeated_arc


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 4e-15), ("float32", 4e-7)])
def test_angle_and_lune_have_full_relative_accuracy_down_to_zero(dtype, rtol):
    mp.mp.dps = 40
    t = np.concatenate([np.logspace(-18, 0, 60), np.linspace(0.01, 1, 60)]).astype(dtype)
    with jax.enable_x64(True):
        angle, lune = map(np.asarray, angle_and_lune(jax.numpy.asarray(t)))
    assert angle.dtype == lune.dtype == np.dtype(dtype)
    exact = [mp.acos(1 - mp.mpf(float(v))) for v in t]
    np.testing.assert_allclose(angle, [float(a) for a in exact], rtol=rtol)
    np.testing.assert_allclose(lune, [float(mp.sin(a) - a * mp.cos(a)) for a in exact], rtol=rtol)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 4e-15), ("float32", 1e-6)])
def test_repeated_arcs_have_full_relative_accuracy_down_to_zero(dtype, rtol, degree):
    mp.mp.dps = 160  # the closed forms lose up to seven digits for each digit of the angle
    t = np.concatenate([np.logspace(-4, 0, 40), np.linspace(0.01, 1, 40)]).astype(dtype)
    with jax.enable_x64(True):
        found = np.asarray(repeated_arc(jax.numpy.asarray(t), degree))
    assert found.dtype == np.dtype(dtype)

    def closed(a):
        s, c = mp.sin(a), mp.cos(a)
        forms = (a, s - a * c, a * (1 + 2 * c**2) - 3 * s * c, 4 * s + 11 * s * c**2 - a * (9 * c + 6 * c**3))
        return float(forms[degree])

    np.testing.assert_allclose(found, [closed(mp.acos(1 - mp.mpf(float(v)))) for v in t], rtol=rtol)


def test_the_fast_cosine_is_the_cosine_to_absolute_rounding():
    x = np.linspace(-2 * np.pi, 2 * np.pi, 10_001)
    with jax.enable_x64(True):
        np.testing.assert_allclose(cosine(jax.numpy.asarray(x)), np.cos(x), rtol=0, atol=2e-15)
