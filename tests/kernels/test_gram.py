"""Tiles, budgets and plans of Gram matrices."""

import importlib
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from widescape import arch, kernels
from widescape.core.errors import DtypeError, MemoryBudgetError, ShapeError

gram_module = importlib.import_module("widescape.kernels.gram")
NET = arch.fc(depth=3, width=8, n_out=1, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)


def with_duplicates(rng) -> np.ndarray:
    x = rng.normal(size=(61, 7))
    x[40] = x[3]  # exactly
    x[50] = x[4] * (1 + 1e-9)  # nearly
    x[55] = -x[5]
    x[60] = 0
    return x


@pytest.mark.slow
@pytest.mark.claim("lee2020finite/I15-tile")
@pytest.mark.parametrize("net", [NET, arch.fc(depth=2, width=8, n_out=1, activation=arch.Abs(), w_std=1.2)])
def test_the_result_does_not_depend_on_the_tile_size(net, rng, measured):
    x = with_duplicates(rng)
    whole = net.kernel(x)
    worst = 0.0
    for tile in (1, 7, 16, 60, 61, 500):
        tiled = kernels.gram(net, x, get=("nngp", "ntk"), tile=tile)
        for name in ("nngp", "ntk"):
            expected = getattr(whole, name)
            worst = max(worst, np.max(np.abs(getattr(tiled, name) - expected) / np.abs(expected).max()))
    assert worst < 1e-12
    measured(f"largest relative change {worst:.1e}, with duplicate, near-duplicate and opposite rows")


@pytest.mark.claim("lee2020finite/A4")
def test_rectangular_gram_matrices_equal_the_kernel(rng):
    x1, x2 = rng.normal(size=(23, 5)), rng.normal(size=(9, 5))
    tiled = kernels.gram(NET, x1, x2, get=("nngp", "ntk"), tile=4)
    whole = NET.kernel(x1, x2)
    np.testing.assert_allclose(tiled.nngp, whole.nngp, rtol=1e-13)
    np.testing.assert_allclose(tiled.ntk, whole.ntk, rtol=1e-13)
    np.testing.assert_allclose(tiled.var2, whole.var2, rtol=1e-13)


def test_a_name_gives_an_array_and_names_give_a_kernel(rng):
    x = rng.normal(size=(5, 3))
    one = kernels.gram(NET, x, get="ntk")
    assert isinstance(one, np.ndarray)
    assert one.dtype == np.float64
    many = kernels.gram(NET, x, get=("ntk",))
    assert isinstance(many, arch.Kernel)
    assert many.nngp is None
    np.testing.assert_array_equal(many.ntk, one)
    assert kernels.gram(NET, x, get="nngp", dtype="float32").dtype == np.float32


def test_symmetric_matrices_have_exact_diagonals(rng):
    x = rng.normal(size=(20, 6))
    matrix = kernels.gram(NET, x, get="ntk", tile=8)
    np.testing.assert_array_equal(matrix, matrix.T)
    singles = [NET.kernel(row[None]).ntk[0, 0] for row in x]
    np.testing.assert_allclose(np.diag(matrix), singles, rtol=1e-14)


@pytest.mark.claim("lee2020finite/A4")
def test_a_plan_computes_nothing_and_counts_what_would_be_done(rng, monkeypatch):
    monkeypatch.setattr("widescape.arch.limit.call_in_float64", None)
    plan = kernels.gram(NET, rng.normal(size=(100, 6)), tile=30, plan=True)
    assert (plan.rows, plan.columns, plan.symmetric) == (100, 100, True)
    assert plan.num_tiles == 4 * 5 // 2
    assert plan.pairs == 100 * 101 // 2
    assert plan.output_bytes == 100 * 100 * 8
    assert plan.peak_bytes > plan.output_bytes
    assert len(str(plan).splitlines()) < 20


def test_the_output_counts_against_the_budget():
    x = np.broadcast_to(np.ones((1, 4)), (40_000, 4))
    with pytest.raises(MemoryBudgetError, match=r"11\.9 GiB of it for the result.*budget is 2\.0 GiB"):
        kernels.gram(NET, x, budget_gb=2.0)


@pytest.mark.claim("lee2020finite/A4")
def test_a_smaller_budget_gives_smaller_tiles():
    x = np.ones((1000, 4))
    fixed = 1000 * 1000 * 8 + gram_module._RUNTIME_BYTES
    sides = [kernels.gram(NET, x, budget_gb=(fixed + extra) / 2**30, plan=True).tile for extra in (2e5, 2e6, 2e8)]
    assert sides[0] < sides[1] < sides[2] == gram_module.LARGEST_TILE


def test_bad_requests_are_refused(rng):
    x = rng.normal(size=(5, 3))
    with pytest.raises(ValueError, match="at least 1"):
        kernels.gram(NET, x, tile=0)
    with pytest.raises(ValueError, match="positive"):
        kernels.gram(NET, x, budget_gb=-1.0)
    with pytest.raises(DtypeError):
        kernels.gram(NET, x.astype(int))
    with pytest.raises(ShapeError, match="same features"):
        kernels.gram(NET, x, x[:, :2])
    with pytest.raises(ValueError, match="NaN"):
        kernels.gram(NET, x * np.nan)
    with pytest.raises(ShapeError, match="empty"):
        kernels.gram(NET, x[:0])


MEMORY_SCRIPT = """
import sys
from widescape import arch, data, kernels
images = data.standardize(data.load("mnist").x_train[:5000])[0]
net = arch.fc(depth=3, width=8, n_out=1, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)
def reset():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
def high_water():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
reset()
before = high_water()
kernels.gram(net, images, get="ntk", budget_gb=float(sys.argv[1]), progress=False)
print(high_water() - before)
"""


@pytest.mark.slow
@pytest.mark.claim("speed/memory")
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc to measure peak memory")
@pytest.mark.parametrize("budget_gb", [0.4, 1.0])
def test_peak_memory_of_a_large_gram_matrix_stays_within_its_budget(mnist, budget_gb, measured):
    script = textwrap.dedent(MEMORY_SCRIPT)
    run = subprocess.run(
        [sys.executable, "-c", script, str(budget_gb)], capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr
    used = int(run.stdout) / 2**30
    assert 5000 * 5000 * 8 / 2**30 < used < budget_gb
    measured(f"{used:.2f} of {budget_gb} GiB, 0.19 of it the matrix")
