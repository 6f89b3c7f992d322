"""Limits on threads belong to the process: scopes may overlap, and the last to close lifts the limit."""

import threadpoolctl

from widescape.core.blas import SERIAL_UP_TO, serial_blas, threads_for


def threads():
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]


def test_overlapping_scopes_restore_the_threads_when_the_last_one_closes():
    before = threads()
    first, second = serial_blas(), serial_blas()
    first.__enter__()
    second.__enter__()
    assert set(threads()) == {1}
    first.__exit__(None, None, None)
    assert set(threads()) == {1}
    second.__exit__(None, None, None)
    assert threads() == before


def test_only_small_matrices_run_on_one_thread():
    before = threads()
    with threads_for(SERIAL_UP_TO + 1):
        assert threads() == before
    with threads_for(SERIAL_UP_TO):
        assert set(threads()) == {1}
    assert threads() == before
