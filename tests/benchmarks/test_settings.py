"""A number in RESULTS is one that the defaults give: settings stored with cells against what a search is today."""

import dataclasses
import json
from pathlib import Path

import pytest

import experiments.benchmarks
from dms_jax import Schedule, baselines
from dms_jax.method.dms import DMS
from experiments.benchmarks import methods
from experiments.benchmarks.settings import Settings
from experiments.flags import Searching

RESULTS = Path(experiments.benchmarks.__file__).parent / "results"
# The rows that RESULTS calls ours at these budgets; what they searched is judged by DMS at its defaults.
TABLES = {"text": (0.5, 0.2, 0.1), "digits": (0.1, 0.04, 0.02)}
MOVED = ("ratio_schedule", "ratio_together", "on_target", "effects")
KEPT = ("importance", "importance_decay", "decay", "refine", "weight", "sharpness", "start_open")


def stored(task, budget):
    """Settings of the finished cells of ours at a budget."""
    rows = [json.loads(line) for line in (RESULTS / f"{task}.jsonl").read_text().splitlines()]
    finished = {row["cell"] for row in rows if row.get("seed") in (0, 1, 2)}
    found = [row for row in rows if row.get("settings") in finished and row["strategy"] == "dms"]
    return [s for s in found if s["budget"] == budget and s["retrain"] == "sliced" and s.get("pretrained", True)]


def value(settings, name):
    return settings.get(name, {f.name: f.default for f in dataclasses.fields(Settings)}[name])


@pytest.mark.parametrize("task, budget", [(task, budget) for task, budgets in TABLES.items() for budget in budgets])
def test_the_tables_have_cells_of_the_defaults_as_they_are(task, budget):
    """Another default makes these tables those of an earlier method: compute them again, or say so in their lines."""
    usual = dataclasses.asdict(Settings("dms", budget, 0, **methods.own("dms")))
    usual |= {"on_target": DMS().on_target, "effects": DMS().effects}
    moved = {name: usual[name] for name in MOVED}
    same = [s for s in stored(task, budget) if all(value(s, name) == usual[name] for name in (*MOVED, *KEPT))]
    assert same, f"no cell of {task} at {budget} was searched as a search is today: {moved}"


def test_benchmarks_search_as_everybody_does():
    """What `Settings` leaves unsaid is what `Search`, its schedule and the command line do."""
    settings, schedule, strategy = Settings("dms", 0.5, 0), Schedule(100), baselines.create("dms")
    assert (settings.decay, settings.refine) == (schedule.decay, schedule.refine)
    assert settings.importance == Searching().importance
    assert settings.importance_decay == baselines.importances()["taylor"].decay
    assert settings.weight is Searching().resource_weight is None
    assert (settings.on_target, settings.effects) == (strategy.on_target, strategy.effects)
    chosen = Searching().chosen
    assert chosen == strategy == DMS()
