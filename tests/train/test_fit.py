"""The training loop against descent by hand, and its history, stopping and resumption."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from widescape import arch, kernels, predict, train
from widescape.core.errors import CheckpointError
from widescape.curvature import System
from widescape.train.loop import record_steps

NET = arch.fc(1, 12, 2, activation=arch.Gelu(), w_std=1.4, b_std=0.2)


def system(dtype: str = "float64", **options: Any) -> System:
    r = np.random.default_rng(0)
    x, y = r.normal(size=(10, 3)).astype(dtype), r.normal(size=(10, 2)).astype(dtype)
    return System(NET.apply, NET.init(jax.random.key(0), (3,), dtype=dtype), x, y, **{"reduction": "mean", **options})


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_full_batch_descent_takes_the_steps_of_a_plain_loop(reduction: Any) -> None:
    own = system(reduction=reduction)
    w = own.flat
    for _ in range(9):
        w = w - 0.02 * own.grad(w)
    run = train.fit(own, 0.02, 9)
    np.testing.assert_allclose(run.w, w, rtol=1e-12)
    assert run.loss[-1] == pytest.approx(own.value(w))
    assert run.gradient_norm[-1] == pytest.approx(np.linalg.norm(own.grad(w)))
    assert run.distance[-1] == pytest.approx(np.linalg.norm(w - own.flat) / np.linalg.norm(own.flat))
    assert run.status is train.TrainingStatus.OK
    assert run.steps.tolist() == [0, 1, 2, 3, 4, 6, 7, 9]
    np.testing.assert_array_equal(own.unravel(run.w)[1]["w"], run.params[1]["w"])


def test_mini_batches_go_through_all_examples_once_in_each_epoch() -> None:
    seen: list[list[int]] = []

    def f(w: Any, x: Any) -> Any:
        if w.ndim == 1:
            jax.debug.callback(lambda ids: seen.append([int(i) for i in ids]), x, ordered=False)
        return w[0] * x[:, None] * 0

    x, y = np.arange(7.0), np.zeros((7, 1))
    train.fit(System(f, np.ones(1), x, y), optax.sgd(0.1), 6, 3)
    jax.effects_barrier()
    batches = [ids for ids in seen if len(ids) == 3]
    assert len(batches) == 6
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        assert len({*first, *second}) == 6
    assert len({tuple(sorted(a + b)) for a, b in zip(batches[::2], batches[1::2], strict=True)}) > 1


def _linear(w: Any, x: Any) -> Any:
    return x @ w


def test_the_gradient_of_a_batch_is_unbiased() -> None:
    x, y = np.arange(1.0, 5.0)[:, None], np.zeros(4)
    moves = []
    for reduction in ("sum", "mean"):
        own = System(_linear, np.ones(1), x, y, reduction=reduction)
        steps = [own.flat - train.fit(own, 1.0, 1, 2, key=jax.random.key(i)).w for i in range(60)]
        stderr = np.std(steps) / 60**0.5
        assert abs(np.mean(steps) - own.grad()[0]) < 4.5 * stderr
        moves.append(np.mean(steps))
    assert moves[0] == pytest.approx(4 * moves[1])


def test_linearized_training_is_the_prediction_from_its_kernel() -> None:
    own = system()
    K = kernels.empirical_ntk(NET.apply, own.params, own.x, outputs="full")
    flat = K.transpose(0, 2, 1, 3).reshape(20, 20)
    expected = predict.discrete_gd(flat, own.y.reshape(-1), 0.5, 25, f0_train=own.F().reshape(-1))
    # discrete_gd averages over 20 entries, the system over 10 examples.
    run = train.fit(own, 0.25, 25, linearize=True)
    line = train.linearize(NET.apply, own.params)
    with jax.enable_x64(True):
        np.testing.assert_allclose(np.asarray(line(run.params, own.x)).reshape(-1), expected, rtol=1e-9)
    centered = train.fit(own, 0.25, 25, linearize=True, center=True)
    expected = predict.discrete_gd(flat, own.y.reshape(-1), 0.5, 25)
    with jax.enable_x64(True):
        outputs = np.asarray(train.center(line, own.params)(centered.params, own.x)).reshape(-1)
    np.testing.assert_allclose(outputs, expected, rtol=1e-9, atol=1e-12)


def test_the_best_parameters_on_held_out_data_are_kept_and_patience_stops() -> None:
    own = system()
    r = np.random.default_rng(1)
    held_out = (r.normal(size=(30, 3)), r.normal(size=(30, 2)))  # noise: the held-out loss rises soon
    run = train.fit(own, optax.adam(0.05), 3000, validation=held_out, patience=6)
    assert run.status is train.TrainingStatus.STOPPED_EARLY
    assert run.num_steps < 3000
    best = int(np.argmin(run.validation_loss))
    assert run.best_step == run.steps[best]
    other = System(NET.apply, own.params, *held_out, reduction="mean")
    assert other.value(run.w) == pytest.approx(run.validation_loss[best])
    assert len(run.steps) - 1 - best == 6
    whole = train.fit(own, optax.adam(0.05), 300, validation=held_out)
    assert whole.num_steps == 300
    assert whole.best_step == whole.steps[np.argmin(whole.validation_loss)]


def test_divergence_is_a_status_and_the_last_finite_parameters_are_kept() -> None:
    run = train.fit(system(), 1e3, 200)
    assert run.status is train.TrainingStatus.DIVERGED
    assert np.isfinite(run.w).all()
    assert not np.isfinite(run.loss[-1])
    assert run.num_steps < 200


def test_the_drift_of_the_kernel_is_recorded() -> None:
    own = system()
    run = train.fit(own, 0.3, 30, drift_examples=4)
    first, last = (kernels.empirical_ntk(NET.apply, p, own.x[:4]) for p in (own.params, run.params))
    assert run.drift[0] == 0
    assert run.drift[-1] == pytest.approx(np.linalg.norm(last - first) / np.linalg.norm(first))
    assert np.isnan(train.fit(own, 0.3, 3).drift).all()
    assert (train.fit(own, 0.3, 3, linearize=True, drift_examples=4).drift == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_precision_is_that_of_the_system(dtype: str) -> None:
    assert train.fit(system(dtype), optax.adam(0.1), 3, 4).w.dtype == dtype


def test_other_losses_train() -> None:
    r = np.random.default_rng(2)
    x = r.normal(size=(20, 3))
    labels = (x[:, 0] > 0).astype(int)
    net = System(NET.apply, NET.init(jax.random.key(1), (3,), dtype="float64"), x, labels, loss="cross_entropy")
    run = train.fit(net, optax.adam(0.05), 200)
    assert (net.F(run.w).argmax(1) == labels).all()


def test_pieces_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    own = system()
    whole = train.fit(own, optax.adam(0.02), 57, 3)
    monkeypatch.setattr("widescape.train.run._SECONDS_PER_PIECE", 0.0)  # one step at a time
    assert train.fit(own, optax.adam(0.02), 57, 3) == whole


def test_a_finished_run_loads_and_more_steps_continue_it(tmp_path: Path) -> None:
    own, path = system(), tmp_path / "run.safetensors"
    short = train.fit(own, optax.adam(0.02), 30, 3, checkpoint=path)
    assert train.fit(own, optax.adam(0.02), 30, 3, checkpoint=path) == short
    longer = train.fit(own, optax.adam(0.02), 57, 3, checkpoint=path)
    assert longer == train.fit(own, optax.adam(0.02), 57, 3)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    own, path = system(), tmp_path / "run.safetensors"
    train.fit(own, optax.adam(0.02), 5, checkpoint=path)
    for other in (
        lambda: train.fit(own, optax.adam(0.03), 5, checkpoint=path),
        lambda: train.fit(own, optax.adam(0.02), 5, 2, checkpoint=path),
        lambda: train.fit(own, optax.adam(0.02), 5, key=jax.random.key(7), checkpoint=path),
        lambda: train.fit(own, optax.adam(0.02), 5, penalty=train.Penalty(0.1), checkpoint=path),
        lambda: train.fit(system("float32"), optax.adam(0.02), 5, checkpoint=path),
        lambda: train.fit(own, optax.adam(0.02), 5, linearize=True, checkpoint=path),
        lambda: train.fit(own, optax.adam(0.02), 5, drift_examples=2, checkpoint=path),
    ):
        with pytest.raises(CheckpointError, match="another run"):
            other()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="not a readable"):
        train.fit(own, optax.adam(0.02), 5, checkpoint=path)


def test_a_checkpoint_knows_what_functions_and_optimizers_close_over(tmp_path: Path) -> None:
    x, y = np.eye(3), np.ones(3)

    def scaled(by: list[float]) -> System:
        held = np.array(by)
        return System(lambda w, x: (x * jnp.asarray(held)[None]) @ w, np.zeros(3), x, y)

    train.fit(scaled([1.0, 2.0, 3.0]), 0.01, 5, checkpoint=tmp_path / "f")
    with pytest.raises(CheckpointError, match="another run"):
        train.fit(scaled([1.0, 2.0, 4.0]), 0.01, 9, checkpoint=tmp_path / "f")
    injected = optax.inject_hyperparams(optax.sgd)
    train.fit(scaled([1.0, 2.0, 3.0]), injected(learning_rate=0.01), 5, checkpoint=tmp_path / "o")
    with pytest.raises(CheckpointError, match="another run"):
        train.fit(scaled([1.0, 2.0, 3.0]), injected(learning_rate=0.02), 9, checkpoint=tmp_path / "o")


def test_optimizers_with_random_keys_resume(tmp_path: Path) -> None:
    own, path = system(), tmp_path / "deep" / "run.safetensors"
    noisy = optax.chain(optax.add_noise(0.01, 0.5, key=jax.random.key(1)), optax.sgd(0.01))
    train.fit(own, noisy, 5, checkpoint=path)
    assert train.fit(own, noisy, 12, checkpoint=path) == train.fit(own, noisy, 12)


def test_fewer_steps_than_taken_are_refused(tmp_path: Path) -> None:
    own, path = system(), tmp_path / "run"
    train.fit(own, 0.1, 9, checkpoint=path)
    with pytest.raises(CheckpointError, match="more than the 4"):
        train.fit(own, 0.1, 4, checkpoint=path)


def test_callables_without_a_hash_train_and_compile_once() -> None:
    class Net:
        traces = 0

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

        def __call__(self, w: Any, x: Any) -> Any:
            type(self).traces += 1
            return x @ w

    own = System(Net(), np.zeros(3), np.eye(3), np.ones(3))
    run = train.fit(own, 0.5, 9)
    before = Net.traces
    assert train.fit(own, 0.5, 9) == run
    assert Net.traces == before


@pytest.mark.parametrize("rate", [np.float32(0.01), jnp.float32(0.01), np.array(0.01)])
def test_a_learning_rate_may_be_any_number(rate: Any) -> None:
    np.testing.assert_allclose(train.fit(system(), rate, 2).w, train.fit(system(), 0.01, 2).w, rtol=1e-7)


SCRIPT = """
import sys
import jax, numpy as np, optax
from widescape import arch, train
from widescape.curvature import System
import widescape.train.run as loop
loop._SECONDS_PER_PIECE, loop._SECONDS_PER_CHECKPOINT = 0.02, 0.01
net = arch.fc(2, 48, 2, activation=arch.Gelu(), w_std=1.4, b_std=0.2)
r = np.random.default_rng(0)
x, y = r.normal(size=(64, 5)), r.normal(size=(64, 2))
system = System(net.apply, net.init(jax.random.key(0), (5,), dtype="float64"), x, y, reduction="mean")
path = None if sys.argv[1] == "-" else sys.argv[1]
run = train.fit(system, optax.adam(1e-2), 20000, 16, validation=(x + 0.1, y), drift_examples=8, checkpoint=path)
run.save(sys.argv[2])
"""


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    arguments = [sys.executable, "-c", SCRIPT, str(path), str(tmp_path / "resumed.zip")]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert path.exists()
    subprocess.run(arguments, check=True, timeout=300)
    subprocess.run([*arguments[:3], "-", str(tmp_path / "whole.zip")], check=True, timeout=300)
    resumed, whole = (train.TrainingRun.load(tmp_path / name) for name in ("resumed.zip", "whole.zip"))
    assert whole == resumed
    assert not (tmp_path / "resumed.zip").with_suffix(".part").exists()


def test_an_interrupt_leaves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, path = system(), tmp_path / "run.safetensors"
    whole = train.fit(own, optax.adam(0.02), 40)
    real, calls = jax.block_until_ready, []

    def interrupted(value: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(value)

    monkeypatch.setattr("widescape.train.run.jax.block_until_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.fit(own, optax.adam(0.02), 40, checkpoint=path)
    monkeypatch.undo()
    assert path.exists()
    assert train.fit(own, optax.adam(0.02), 40, checkpoint=path) == whole


def test_the_result_saves_and_draws(tmp_path: Path) -> None:
    run = train.fit(system(), 0.1, 12)
    loaded = train.TrainingRun.load(run.save(tmp_path / "run.zip"))
    assert loaded == run
    with pytest.raises(ValueError, match="unravel"):
        _ = loaded.params
    assert run.charts()[0].series[0].label == "training"


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"optimizer": "adam"}, TypeError, "optimizer"),
        ({"optimizer": -0.1}, ValueError, "optimizer"),
        ({"steps": -1}, ValueError, "steps"),
        ({"batch_size": 11}, ValueError, "batch_size"),
        ({"patience": 3}, ValueError, "held-out"),
        ({"validation": 3}, ValueError, "pair"),
        ({"system": 3}, TypeError, "System"),
        ({"system": System(NET.apply, NET.init(jax.random.key(0), (3,)), np.ones((2, 3)))}, ValueError, "targets"),
        ({"penalty": train.Penalty(1.0, weights={"a": 1.0})}, ValueError, "weights"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], error: type[Exception], match: str) -> None:
    arguments = {"system": system(), "optimizer": 0.1, "steps": 2, **change}
    with pytest.raises(error, match=match):
        train.fit(**arguments)
    with pytest.raises(ValueError, match="strength"):
        train.Penalty(-1.0)


def test_steps_are_recorded_at_equal_ratios() -> None:
    assert record_steps(0) == [0]
    assert record_steps(10)[:4] == [0, 1, 2, 3]
    steps = np.array(record_steps(10**6))
    assert steps[-1] == 10**6
    assert (np.diff(np.log(steps[20:])) < 0.3).all()


def test_environment_is_not_touched() -> None:
    before = dict(os.environ)
    train.fit(system(), 0.1, 2)
    assert dict(os.environ) == before
    assert jnp.zeros(()).dtype == (jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32)


def test_kept_snapshots_are_the_parameters_of_runs_that_end_there_and_survive_resumption(tmp_path):
    x = np.linspace(-1, 1, 12).reshape(6, 2)
    system = System(lambda w, x: jnp.tanh(x @ w), np.array([0.3, -0.2]), x, np.sin(x.sum(1)))
    run = train.fit(system, 0.1, 25, batch_size=2, keep_every=7)
    assert run.snapshot_steps.tolist() == [0, 7, 14, 21, 25]
    for step, w in zip(run.snapshot_steps, run.snapshots, strict=True):
        np.testing.assert_array_equal(w, train.fit(system, 0.1, int(step), batch_size=2).w)
    path = tmp_path / "run.safetensors"
    train.fit(system, 0.1, 16, batch_size=2, keep_every=7, checkpoint=path)
    resumed = train.fit(system, 0.1, 25, batch_size=2, keep_every=7, checkpoint=path)
    np.testing.assert_array_equal(resumed.snapshots, run.snapshots)
    np.testing.assert_array_equal(resumed.snapshot_steps, run.snapshot_steps)
    assert train.fit(system, 0.1, 3).snapshots is None
    with pytest.raises(ValueError, match="keep_every"):
        train.fit(system, 0.1, 3, keep_every=0)
