"""Kernel regression on MNIST against the measured numbers of the specification."""

import numpy as np
import pytest

from widescape import arch, data, kernels, predict

REGS = (1e-4, 1e-2, 1e-1)
ENTRIES = {"nngp": (1.61533639, 2.10210285), "ntk": (3.69642082, 8.34841139)}
ACCURACY = {"nngp": (91.95, 91.90, 91.20), "ntk": (91.70, 91.65, 91.40)}
LOSS = {"nngp": (0.021031, 0.021291, 0.023529), "ntk": (0.022166, 0.022298, 0.023416)}


@pytest.fixture(scope="module")
def problem(mnist):
    part = mnist.subset(2000, 2000)
    x_train, x_test = data.standardize(part.x_train, part.x_test)
    assert part.x_train.mean() == pytest.approx(0.1301781838, abs=1e-10)
    assert part.x_train.std() == pytest.approx(0.3076977187, abs=1e-10)
    return x_train, predict.one_hot(part.y_train, 10), x_test, part.y_test


def fitted(problem, activation, name, reg):
    x_train, targets, x_test, labels = problem
    net = arch.fc(depth=3, width=8, n_out=10, activation=activation, w_std=2**0.5, b_std=0.1)
    gp = predict.GP(kernels.gram(net, x_train, get=name), targets, reg=reg)
    return predict.classification_score(gp.mean(kernels.gram(net, x_test, x_train, get=name)), labels)


@pytest.mark.slow
@pytest.mark.claim("lee2020finite/E1")
@pytest.mark.parametrize("name", ["nngp", "ntk"])
def test_relu_regression_on_mnist_meets_its_entries_accuracies_and_losses(problem, name, measured):
    x_train, targets, x_test, labels = problem
    net = arch.fc(depth=3, width=8, n_out=10, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)
    gram = kernels.gram(net, x_train, get=name)
    np.testing.assert_allclose((gram[0, 1], gram[0, 0]), ENTRIES[name], rtol=1e-7)
    cross = kernels.gram(net, x_test, x_train, get=name)
    scores = [predict.classification_score(predict.GP(gram, targets, reg=r).mean(cross), labels) for r in REGS]
    np.testing.assert_allclose([100 * s.accuracy for s in scores], ACCURACY[name], atol=0.1)
    np.testing.assert_allclose([s.mse for s in scores], LOSS[name], atol=2e-5)
    figures = "/".join(f"{100 * s.accuracy:.2f}" for s in scores)
    measured(f"ReLU {name.upper()} accuracy {figures} %, loss {scores[0].mse:.6f} at 1e-4")


@pytest.mark.slow
@pytest.mark.claim("lee2020finite/E1")
@pytest.mark.parametrize(
    ("activation", "name", "accuracy", "loss"),
    [(arch.Erf(), "nngp", 91.70, 0.021399), (arch.Gelu(), "ntk", 92.20, 0.020739)],
    ids=["erf", "gelu"],
)
def test_smooth_regression_on_mnist_meets_its_accuracy_and_loss(problem, activation, name, accuracy, loss, measured):
    score = fitted(problem, activation, name, 1e-4)
    assert 100 * score.accuracy == pytest.approx(accuracy, abs=0.1)
    assert score.mse == pytest.approx(loss, abs=2e-5)
    measured(f"{type(activation).__name__} {name.upper()} {100 * score.accuracy:.2f} %, {score.mse:.6f}")
