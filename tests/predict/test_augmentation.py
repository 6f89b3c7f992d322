"""Augmentation ensembles: the mean over members, their spread, resumption, and what they gain on images."""

import jax
import numpy as np
import pytest

from widescape import arch, data, kernels, predict
from widescape.core.errors import CheckpointError
from widescape.core.random import named_key

NET = arch.fc(2, 16, 1, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)


@pytest.fixture
def problem(rng):
    x, x_test = rng.normal(size=(30, 6, 6, 2)), rng.normal(size=(7, 6, 6, 2))
    return x, predict.one_hot(np.arange(30) % 3, 3), x_test


def ensemble(problem, key, n=5, **options):
    options.setdefault("augment", data.augment(flip=True, crop=1))
    return predict.augmentation_ensemble(NET, *problem, n_members=n, key=key, **options)


@pytest.mark.claim("lee2020finite/1.9")
@pytest.mark.claim("lee2020finite/P13")
@pytest.mark.parametrize("get", ["nngp", "ntk"])
def test_the_ensemble_is_the_mean_over_members_of_regression_on_augmented_copies(problem, key, get):
    x, y, x_test = problem
    members = []
    for e in range(5):
        copy = data.augment(flip=True, crop=1)(named_key(key, "member", e), x)
        k = NET.kernel(np.concatenate([copy, x_test]), get=get)
        matrix = np.array(getattr(k, get))
        train = matrix[:30, :30] + 0.1 * np.trace(matrix[:30, :30]) / 30 * np.eye(30)
        members.append(matrix[30:, :30] @ np.linalg.solve(train, y))
    found = ensemble(problem, key, get=get)
    mean, spread = found
    assert np.allclose(mean, np.mean(members, axis=0), rtol=0, atol=1e-12)
    assert np.allclose(spread, np.std(members, axis=0, ddof=1), rtol=0, atol=1e-12)
    assert np.allclose(found.stderr, spread / 5**0.5, rtol=0, atol=1e-15)
    assert found.num_members == 5


def test_the_mean_of_labels_would_be_another_answer(problem, key):
    # One-hot votes of the members take values in fifths; means of outputs do not.
    mean, _ = ensemble(problem, key)
    assert not np.allclose(5 * mean, np.round(5 * mean), atol=1e-3)


def test_without_augmentation_every_member_is_plain_regression_and_nothing_spreads(problem, key):
    x, y, x_test = problem
    mean, spread = ensemble(problem, key, n=3, augment=lambda key, x: x)
    gp = predict.GP(kernels.gram(NET, x, get="nngp"), y, reg=0.1)
    assert np.allclose(mean, gp.mean(kernels.gram(NET, x_test, x, get="nngp")), rtol=0, atol=1e-13)
    assert np.abs(spread).max() < 1e-13


def test_a_single_member_has_an_infinite_standard_error(problem, key):
    found = ensemble(problem, key, n=1)
    assert np.isinf(found.stderr).all()
    assert np.isinf(found.member_std).all()


@pytest.mark.claim("lee2020finite/A8")
def test_a_run_that_was_killed_ends_with_the_same_bits(problem, key, tmp_path, monkeypatch):
    whole = ensemble(problem, key)
    calls = []

    def failing(key, x):
        calls.append(1)
        if len(calls) == 4:  # the fingerprint's copy, and those of two members, come before
            raise KeyboardInterrupt
        return data.augment(flip=True, crop=1)(key, x)

    file = tmp_path / "members.npz"
    with pytest.raises(KeyboardInterrupt):
        ensemble(problem, key, augment=failing, checkpoint=file)
    with np.load(file) as saved:
        assert int(saved["count"]) == 2
    resumed = ensemble(problem, key, checkpoint=file)
    for name in ("mean", "stderr", "member_std"):
        assert np.array_equal(getattr(resumed, name), getattr(whole, name))
    more = ensemble(problem, key, n=7, checkpoint=file)
    assert np.array_equal(more.mean, ensemble(problem, key, n=7).mean)
    with pytest.raises(CheckpointError, match="7 members already"):
        ensemble(problem, key, n=6, checkpoint=file)


def test_a_checkpoint_of_another_run_is_refused(problem, key, tmp_path):
    file = tmp_path / "members.npz"
    ensemble(problem, key, n=1, checkpoint=file)
    others = ({"reg": 0.2}, {"get": "ntk"}, {"augment": data.augment(flip=True, crop=2)})
    for options in others:
        with pytest.raises(CheckpointError, match="another run"):
            ensemble(problem, key, checkpoint=file, **options)
    with pytest.raises(CheckpointError, match="another run"):
        ensemble(problem, jax.random.key(1), checkpoint=file)
    file.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        ensemble(problem, key, checkpoint=file)


# What they gain on CIFAR-10 (the kernel of the specification: three ReLU layers, weights 2, biases 0.01).

DEEP = arch.fc(3, 64, 1, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)


def cifar(cifar10, n_train, n_test):
    part = cifar10.subset(n_train, n_test)
    assert np.bincount(part.y_train).tolist() == [n_train // 10] * 10
    x, x_test = data.standardize(part.x_train, part.x_test, per="channel")
    return part, x, x_test, (np.arange(10) == part.y_train[:, None]) - 0.1


def plain(part, x, y, x_test, get):
    gp = predict.GP(kernels.gram(DEEP, x, get=get), y, reg=0.1)
    return predict.classification_score(gp.mean(kernels.gram(DEEP, x_test, x, get=get)), part.y_test)


@pytest.mark.slow
@pytest.mark.claim("lee2020finite/E5")
@pytest.mark.claim("lee2020finite/F13")
def test_sixteen_flipped_members_beat_a_single_kernel_on_a_subset_of_cifar10(cifar10, measured):
    part, x, x_test, y = cifar(cifar10, 2000, 1000)
    base = {get: plain(part, x, y, x_test, get) for get in ("nngp", "ntk")}
    assert abs(base["nngp"].accuracy - 0.407) <= 1e-3
    assert abs(base["nngp"].mse - 0.07755) <= 2e-5
    assert abs(base["ntk"].accuracy - 0.410) <= 1e-3
    assert abs(base["ntk"].mse - 0.07646) <= 2e-5

    def scored(augment, members, seed=0):
        mean, _ = predict.augmentation_ensemble(
            DEEP, x, y, x_test, augment=augment, n_members=members, key=jax.random.key(seed), progress=False
        )
        return predict.classification_score(mean, part.y_test)

    flips = scored(data.augment(flip=True), 16)
    assert flips.accuracy >= 0.425
    assert flips.mse <= 0.0753
    crops = data.augment(flip=True, crop=4)
    one, many = scored(crops, 1), scored(crops, 16)
    assert one.accuracy < base["nngp"].accuracy
    assert many.accuracy >= 0.42
    assert many.mse <= 0.0753
    measured(
        f"NNGP {100 * base['nngp'].accuracy:.1f}%, 16 flips {100 * flips.accuracy:.1f}%, "
        f"one flipped crop {100 * one.accuracy:.1f}%, 16 of them {100 * many.accuracy:.1f}%"
    )


@pytest.mark.slow
@pytest.mark.claim("lee2020finite/E8")
def test_five_thousand_images_of_cifar10(cifar10, measured):
    part, x, x_test, y = cifar(cifar10, 5000, 2000)
    found = {get: plain(part, x, y, x_test, get).accuracy for get in ("nngp", "ntk")}
    assert abs(found["nngp"] - 0.458) <= 0.01
    assert abs(found["ntk"] - 0.4615) <= 0.01
    measured(f"NNGP {100 * found['nngp']:.2f}%, NTK {100 * found['ntk']:.2f}%")
