"""A grid search over the regularizer on 2,000 MNIST images, beside scikit-learn's own kernel models.

    python benchmarks/estimators.py

Reads MNIST as `widescape.data.load` does. Every model gets the same 2,000 training and 2,000 test images, standardized
by one mean and one deviation, the same five folds, and a grid of seven values of its regularizer.
"""

import time

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

from widescape import data
from widescape.estimators import NNGPClassifier, NTKClassifier, kernel_cache

N, FOLDS = 2000, 5
GRID = [10.0**power for power in range(-6, 1)]


class RidgeClassifier(KernelRidge):
    """scikit-learn's kernel ridge regression on centered one-hot targets."""

    def fit(self, X, y):
        """Regress on one-hot targets."""
        self.classes_, labels = np.unique(y, return_inverse=True)
        targets = (labels[:, None] == np.arange(len(self.classes_))) - 1 / len(self.classes_)
        return super().fit(X, targets)

    def predict(self, X):
        """The class of the largest output."""
        return self.classes_[super().predict(X).argmax(axis=1)]

    def score(self, X, y):
        """Accuracy."""
        return float(np.mean(self.predict(X) == y))


def searched(model, grid, x, y, x_test, y_test):
    """Best setting, its cross-validated and test accuracy, seconds of the search and of predictions."""
    start = time.perf_counter()
    search = GridSearchCV(model, grid, cv=FOLDS, scoring=None).fit(x, y)
    fitted = time.perf_counter()
    accuracy = search.score(x_test, y_test)
    seconds = time.perf_counter() - fitted
    return search.best_params_, search.best_score_, accuracy, fitted - start, seconds


def main() -> None:
    part = data.load("mnist").subset(N, N)
    x, x_test = (a.reshape(len(a), -1) for a in data.standardize(part.x_train, part.x_test))
    y, y_test = part.y_train, part.y_test
    rows = []
    NTKClassifier().fit(x[:600], y[:600])  # compiles; the searches below are warm
    NNGPClassifier().fit(x[:600], y[:600])
    gamma = 1 / (x.shape[1] * x.var())  # scikit-learn's "scale"
    runs = {
        "NTKClassifier": (NTKClassifier(), {"reg": GRID}),
        "NNGPClassifier": (NNGPClassifier(), {"reg": GRID}),
        "KernelRidge, RBF": (RidgeClassifier(kernel="rbf", gamma=gamma), {"alpha": GRID}),
        "SVC, RBF": (SVC(), {"C": [10.0**power for power in range(-2, 5)]}),
    }
    for name, (model, grid) in runs.items():
        kernel_cache.clear()
        rows.append((name, *searched(model, grid, x, y, x_test, y_test)))
    limit, kernel_cache.limit_bytes = kernel_cache.limit_bytes, 0
    rows.append(("NTKClassifier, nothing remembered", *searched(NTKClassifier(), {"reg": GRID}, x, y, x_test, y_test)))
    kernel_cache.limit_bytes = limit
    for name, model in (
        ("NTKClassifier, reg='loo'", NTKClassifier(reg="loo")),
        ("NNGPClassifier, reg='loo'", NNGPClassifier(reg="loo")),
    ):
        kernel_cache.clear()
        rows.append((name, *alone(model, x, y, x_test, y_test)))
    # Its search would take half an hour: one fit, with the same RBF kernel and a variance of 100 (at 1 it is worse).
    process = GaussianProcessClassifier(ConstantKernel(100.0) * RBF(float(gamma * 2) ** -0.5), optimizer=None)
    rows.append(("GaussianProcessClassifier, one fit", *alone(process, x, y, x_test, y_test)))
    table = Table("model", "setting", "cross-validated", "test accuracy", "fit, s", "predict, s")
    for name, best, validated, accuracy, seconds, after in rows:
        setting = ", ".join(f"{key} = {value:.3g}" for key, value in best.items())
        shown = "" if validated is None else f"{100 * validated:.2f}%"
        table.add_row(name, setting, shown, f"{100 * accuracy:.2f}%", f"{seconds:.2f}", f"{after:.2f}")
    Console(width=130).print(table)


def alone(model, x, y, x_test, y_test):
    """A single fit, with what `searched` reports."""
    start = time.perf_counter()
    model.fit(x, y)
    fitted = time.perf_counter()
    accuracy = model.score(x_test, y_test)
    best = {"reg": model.reg_} if hasattr(model, "reg_") else {}
    return best, getattr(model, "loo_accuracy_", None), accuracy, fitted - start, time.perf_counter() - fitted


if __name__ == "__main__":
    main()
