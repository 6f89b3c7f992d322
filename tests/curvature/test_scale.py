"""A million parameters on a thousand examples, in processes of their own so that their memory is their own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "landscape.py"
JACOBIAN_GIB = 1_000 * 1_009_041 * 8 / 2**30


def measured_in_a_process(part: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--part", part], capture_output=True, text=True, check=True, timeout=900
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
@pytest.mark.claim("liu2020loss/scale")
def test_a_million_parameters_on_a_thousand_examples_take_less_memory_than_their_jacobian(
    measured: Callable[[str], None],
):
    kernel, hessian = measured_in_a_process("kernel"), measured_in_a_process("hessian")
    assert kernel["parameters"] == hessian["parameters"] == 1_009_041
    assert kernel["certified"] == 1.0
    assert kernel["value"] > 1e6 * kernel["error"] > 0
    assert hessian["error"] < 1e-5
    assert kernel["peak GiB"] < JACOBIAN_GIB / 4
    assert hessian["peak GiB"] < JACOBIAN_GIB / 4
    measured(
        f"smallest kernel eigenvalue at least {kernel['value']:.3g} in {kernel['peak GiB']:.2f} GiB; largest Hessian "
        f"eigenvalue {hessian['value']:.4g} to {hessian['error']:.0e} in {hessian['peak GiB']:.2f} GiB; the Jacobian "
        f"alone would take {JACOBIAN_GIB:.1f} GiB"
    )
