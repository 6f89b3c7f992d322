"""Strict settings for all tests, and the bookkeeping of claims."""

import os
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
if "PYTEST_XDIST_WORKER" in os.environ:  # threads of linear algebra in two processes wait for each other on two cores
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Compiled programs are kept between runs, however short their compilation was.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
CLAIMS_FILE = ROOT / "docs" / "claims.toml"
CLAIMS_PAGE = ROOT / "CLAIMS.md"


_MOST_MAPS = (
    20_000  # of about 65,000 that Linux grants a process; XLA needs some for every program, and crashes without
)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Drop compiled programs after a module once there are many, for they are never used again."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(20)


@pytest.fixture(scope="session")
def mnist() -> Any:
    """MNIST, or a skip with the reason where its files are absent."""
    from widescape import data
    from widescape.core.errors import DataError

    try:
        return data.load("mnist", download=False)
    except DataError as error:
        pytest.skip(f"needs MNIST: {error}")


@pytest.fixture(scope="session")
def cifar10() -> Any:
    """CIFAR-10 or a subset of it, or a skip with the reason where its files are absent."""
    from widescape import data
    from widescape.core.errors import DataError

    try:
        return data.load("cifar10", download=False)
    except DataError as error:
        pytest.skip(f"needs CIFAR-10: {error}")


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Record the figure that a claim's test measured, for CLAIMS.md."""
    return lambda text: record_property("measured", text)


# Claims: docs/claims.toml lists them, tests carry @pytest.mark.claim("paper/ID").


@dataclass
class Seen:
    """What happened to the tests of one claim."""

    outcomes: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)


def read_claims() -> dict[str, dict[str, str]]:
    document = tomllib.loads(CLAIMS_FILE.read_text(encoding="utf-8"))
    return {f"{paper}/{name}": claim for paper, claims in document.items() for name, claim in claims.items()}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-claims", action="store_true", help="write CLAIMS.md from this run")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SEEN] = seen = {}
    config.pluginmanager.register(_Bookkeeping(seen))
    if (cache := getattr(config, "cache", None)) and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder = str(cache.mkdir("jax"))
        jax.config.update("jax_compilation_cache_dir", folder)


class _Bookkeeping:
    """Notes what happened to the tests of each claim, in whichever process they ran."""

    def __init__(self, seen: dict[str, Seen]) -> None:
        self.seen = seen

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        for name in (v for k, v in report.user_properties if k == "claim"):
            record = self.seen.setdefault(str(name), Seen())
            record.outcomes.append(report.outcome)
            record.figures += [str(v) for k, v in report.user_properties if k == "measured"]


_SEEN = pytest.StashKey[dict[str, Seen]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    known = {name for name, claim in read_claims().items() if claim["status"] == "now"}
    for item in items:
        for mark in item.iter_markers("claim"):
            if mark.args[0] not in known:
                raise pytest.UsageError(
                    f"{item.nodeid} shows {mark.args[0]!r}, which docs/claims.toml does not list as now"
                )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    report.user_properties += [("claim", mark.args[0]) for mark in item.iter_markers("claim")]
    return report


def _whole_run(config: pytest.Config) -> bool:
    """Whether nothing was left out of the run, so that every claim must have been shown."""
    narrowed = config.getoption("keyword") or config.getoption("deselect") or config.getoption("lf", False)
    marks = config.getoption("markexpr")
    return not narrowed and not marks and config.args_source is not pytest.Config.ArgsSource.ARGS


def _missing(config: pytest.Config) -> list[str]:
    seen = config.stash[_SEEN]
    missing = []
    for name, claim in read_claims().items():
        outcomes = seen.get(name, Seen()).outcomes
        data_absent = "needs" in claim and outcomes and set(outcomes) == {"skipped"}
        if claim["status"] == "now" and "passed" not in outcomes and not data_absent:
            missing.append(name)
    return missing


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    config = session.config
    if config.option.collectonly or not _whole_run(config):
        return
    if exitstatus == pytest.ExitCode.OK and _missing(config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    elif exitstatus == pytest.ExitCode.OK and config.getoption("--write-claims"):
        CLAIMS_PAGE.write_text(claims_page(config.stash[_SEEN]), encoding="utf-8")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.option.collectonly or not _whole_run(config):
        return
    for name in _missing(config):
        terminalreporter.write_line(f"CLAIM WITHOUT A PASSING TEST: {name}", red=True)


def claims_page(seen: dict[str, Seen]) -> str:
    """The table of all claims, as Markdown."""
    lines = [
        "# Claims",
        "",
        "What widescape promises, item by item of the papers it implements. A claim that is `shown` has a passing",
        "test that carries its name; the run fails otherwise. Generated by `make claims` from `docs/claims.toml` and a",
        "whole test run.",
        "",
        "| claim | what it says | state | measured |",
        "| --- | --- | --- | --- |",
    ]
    for name, claim in read_claims().items():
        record = seen.get(name, Seen())
        shown = "shown" if "passed" in record.outcomes else "skipped, data absent"
        state = shown if claim["status"] == "now" else f"later: {claim['when']}"
        figures = "; ".join(dict.fromkeys(record.figures))
        lines.append(f"| {name} | {claim['text']} | {state} | {figures} |")
    return "\n".join(lines) + "\n"
