import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_python_examples_of_the_readme_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(blocks[0], "README.md", "exec"), {})
    assert re.match(r"0\.9\d+ \[\[", capsys.readouterr().out)
    exec(compile(blocks[1], "README.md", "exec"), names)
    assert "accuracy" in capsys.readouterr().out
    exec(compile(blocks[2], "README.md", "exec"), names)
    assert "finite_to_limit" in capsys.readouterr().out


def test_the_example_about_minima_runs_and_ends_as_the_readme_says(capsys):
    import jax
    import optax

    from widescape import landscape

    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Is this a minimum?")[1]
    block = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    names: dict[str, object] = {"jax": jax, "optax": optax, "landscape": landscape}
    exec(compile(block, "README.md", "exec"), names)
    assert names["run"].status == "escaping"
    printed = capsys.readouterr().out
    assert "nothing was found" in printed
    assert "0.416667" in printed


def test_the_example_about_representations_runs_and_scores_as_the_readme_says(capsys):
    from widescape.core.errors import RankWarning

    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## What does a representation buy?")[1]
    block = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    with pytest.warns(RankWarning, match="44 of 55"):
        exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    for model, score in (("LinearTaylorRegressor", 0.31), ("QuadraticTaylorRegressor", 0.92)):
        (found,) = re.findall(rf"{model} (\S+)", printed)
        assert float(found) == pytest.approx(score, abs=5e-3)
    assert "min_hess_eig" in printed


def test_links_in_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    missing = [link for link in links if not (ROOT / link).exists()]
    assert missing == []


def test_claims_md_lists_every_claim_of_the_list(request):
    import conftest

    if request.config.getoption("--write-claims"):
        pytest.skip("CLAIMS.md is being written by this run")
    listed = re.findall(r"^\| (\S+/\S+) \|", (ROOT / "CLAIMS.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == list(conftest.read_claims())
