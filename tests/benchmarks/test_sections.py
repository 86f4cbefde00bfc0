"""Tables of a comparison, from cells that are put there: scores, differences, costs, failures, the headline."""

import pytest

from experiments.benchmarks import methods
from experiments.benchmarks.command import Options
from experiments.benchmarks.protocol import Contest
from experiments.benchmarks.sections import Comparison, always
from experiments.benchmarks.settings import Settings
from experiments.benchmarks.text_task import QUICK, text_task

BUDGETS, SEEDS = (0.2, 0.5), (0, 1, 2)
ROWS = {**methods.rules(["uniform", "random"], 8), **methods.unpruned(8)}
HERE = {"machine": "one", "platform": "cpu", "data": "text"}


@pytest.fixture
def comparison(tmp_path):
    contest = Contest(text_task(QUICK), Options(tables=True, results=tmp_path))
    return Comparison("bytes", contest, lambda: ROWS, BUDGETS, always(SEEDS), "uniform")


def put(comparison, settings, seed, result, conditions=HERE):
    comparison.contest.cells.put(comparison.contest.cell(settings, seed), result, conditions)


def finished(test, search=1.0):
    return {"test": test, "macs": 10, "seconds": {"search": search}}


def test_tables_are_of_what_is_there(comparison):
    assert comparison.tables() == ["Not computed yet."] and not comparison.begun
    for seed in SEEDS:
        for label, score in (("uniform", 2.0), ("random", 2.5)):
            put(comparison, ROWS[label](0.2), seed, finished(score + 0.1 * seed * (label == "random")))
    put(comparison, Settings("uniform", 0.5, 8), 0, {"failed": "it diverged"})
    put(comparison, ROWS["random"](0.5), 0, finished(1.0, search=9.0), HERE | {"platform": "gpu", "machine": "two"})
    scores, costs, failures, machines = comparison.tables()
    assert "| random | 1.000 | - | 1 | 2.600 ± 0.058 | +0.600 ± 0.160 * | 3 |" in scores  # the larger budget first
    assert "| uniform | - |  | 0 | 2.000 ± 0 |  | 3 |" in scores
    assert "unpruned" not in scores  # a method without cells has no row
    assert "method, 50 %" in costs and "| random |" in costs and "9" not in costs.splitlines()[-1].split("|")[3]
    assert failures == "uniform, 50 %, seed 0: it diverged"
    assert machines == "Cells computed on: one (7); two (1)."
    head = comparison.headline(["random", "unpruned, trained on"]).splitlines()
    assert head[0] == "| bytes: bits per byte | 50 % of the MACs | 20 % of the MACs |"
    assert head[2:] == ["| random | 1.000 | 2.600 ± 0.058 |"]


def test_a_quick_comparison_is_a_small_one(comparison):
    small = comparison.small
    assert list(small.rows()) == ["uniform", "random"] and small.budgets == (0.5,)
    assert [seed for _, seed in small.asked(0.5)] == [99, 99]
    sized = Contest(comparison.contest.task, Options(quick=True)).cell(Settings("dms", 0.1, 800, 200, warmup=100), 99)
    few = {name: sized.settings[name] for name in ("budget", "steps", "search_steps", "warmup")}
    assert few == {"budget": 0.5, "steps": 8, "search_steps": 2, "warmup": 1}
