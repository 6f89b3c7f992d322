"""Convolutional kernels on scikit-learn's digits: entries, accuracies, condition numbers and rounding."""

from typing import NamedTuple

import numpy as np
import pytest
from sklearn.datasets import load_digits

from widescape import arch, kernels, predict

pytestmark = pytest.mark.slow
TRAIN, TEST = 300, 200
W, B = 2**0.5, 0.1
READOUT = arch.Dense(1)
CONVOLUTIONS = [arch.Conv(8, (3, 3), w_std=W, b_std=B), arch.Relu()] * 2
NETWORKS = {
    "FC-2": arch.fc(2, 8, 1, activation=arch.Relu(), w_std=W, b_std=B),
    "VEC-2": arch.Sequential(*CONVOLUTIONS, arch.Flatten(), READOUT),
    "GAP-2": arch.Sequential(*CONVOLUTIONS, arch.GlobalAvgPool(), READOUT),
}
ENTRIES = {
    "VEC-2": (0.3818803572, 0.6117416417),
    "GAP-2": (0.3342006965, 0.5063469745),
    "FC-2": (1.0415405975, 1.6809576054),
}


class Digits(NamedTuple):
    """Standardized images and centered targets, as in the specification of E3."""

    x: np.ndarray
    y: np.ndarray
    labels: np.ndarray


@pytest.fixture(scope="module")
def digits() -> Digits:
    bundle = load_digits()
    images = bundle.images[: TRAIN + TEST, :, :, None] / 16
    train = images[:TRAIN]
    labels = bundle.target[: TRAIN + TEST]
    return Digits((images - train.mean()) / train.std(), np.eye(10)[labels] - 0.1, labels)


@pytest.fixture(scope="module")
def grams(digits) -> dict[str, tuple[arch.Kernel, arch.Kernel]]:
    """Kernels among the training images, and of test with training images."""
    x, both = digits.x, ("nngp", "ntk")
    return {
        name: (kernels.gram(net, x[:TRAIN], get=both), kernels.gram(net, x[TRAIN:], x[:TRAIN], get=both))
        for name, net in NETWORKS.items()
    }


@pytest.mark.claim("lee2020finite/E3")
@pytest.mark.parametrize("name", ENTRIES)
def test_kernel_entries_of_the_first_two_digits(name, grams, measured):
    train, _ = grams[name]
    assert train.nngp[0, 1] == pytest.approx(ENTRIES[name][0], abs=1e-9)
    assert train.ntk[0, 1] == pytest.approx(ENTRIES[name][1], abs=1e-9)
    measured(f"{name}: entries agree to ten digits")


def accuracy(grams, digits, name: str, kind: str, reg: float) -> float:
    train, cross = (getattr(kernel, kind) for kernel in grams[name])
    mean = predict.GP(train, digits.y[:TRAIN], reg=reg).mean(cross)
    return 100 * float(np.mean(mean.argmax(axis=1) == digits.labels[TRAIN:]))


@pytest.mark.claim("lee2020finite/E3")
@pytest.mark.parametrize(
    ("name", "kind", "regs", "expected"),
    [
        ("VEC-2", "nngp", (1e-6, 1e-4, 1e-2), 89.0),
        ("VEC-2", "ntk", (1e-6, 1e-4, 1e-2), 89.0),
        ("GAP-2", "nngp", (1e-5,), 90.5),
        ("GAP-2", "nngp", (1e-1,), 80.0),
        ("FC-2", "nngp", (1e-6, 1e-4, 1e-2), 90.0),
        ("FC-2", "ntk", (1e-6, 1e-4, 1e-2), 89.0),
    ],
)
def test_accuracies_on_digits_are_those_published(name, kind, regs, expected, grams, digits, measured):
    found = [accuracy(grams, digits, name, kind, reg) for reg in regs]
    assert found == pytest.approx([expected] * len(regs), abs=0.5 + 1e-9)
    measured(f"{name} {kind}: {', '.join(f'{value:.1f}%' for value in found)}")


@pytest.mark.claim("lee2020finite/E4")
def test_pooling_multiplies_the_condition_number(grams, measured):
    found = {}
    for name in ("VEC-2", "GAP-2"):
        for kind in ("nngp", "ntk"):
            eigenvalues = np.linalg.eigvalsh(getattr(grams[name][0], kind))
            found[name, kind] = eigenvalues[-1] / eigenvalues[0]
    assert found["VEC-2", "nngp"] == pytest.approx(4.88e4, rel=0.01)
    assert found["GAP-2", "nngp"] == pytest.approx(3.68e6, rel=0.01)
    assert found["VEC-2", "ntk"] == pytest.approx(2.67e3, rel=0.01)
    assert found["GAP-2", "ntk"] == pytest.approx(9.61e4, rel=0.01)
    assert all(found["GAP-2", kind] >= 30 * found["VEC-2", kind] for kind in ("nngp", "ntk"))
    measured("condition numbers " + ", ".join(f"{name} {kind} {v:.3g}" for (name, kind), v in found.items()))


@pytest.mark.claim("lee2020finite/E4")
def test_pooling_multiplies_the_rounding_noise_of_float32(grams, digits, measured):
    found = {}
    for name in ("VEC-2", "GAP-2"):
        exact = grams[name][0].nngp
        low = kernels.gram(NETWORKS[name], digits.x[:TRAIN].astype(np.float32), get="nngp", dtype="float32")
        noise = np.linalg.norm(low.astype(np.float64) - exact, 2)
        found[name] = noise / np.linalg.eigvalsh(exact)[0]
    assert found["GAP-2"] >= 20 * found["VEC-2"]
    measured(f"noise over the smallest eigenvalue: VEC {found['VEC-2']:.2g}, GAP {found['GAP-2']:.2g}")
