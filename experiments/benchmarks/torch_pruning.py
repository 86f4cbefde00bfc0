"""Differentiable Model Scaling (DMS) beside Torch-Pruning: same network, weights, data and finetuning, one MAC counter.

    python -m experiments.benchmarks.torch_pruning [--quick | --tables]

A ResNet-20 on scikit-learn's digits, with all labels brought to 10 and 2 % of its MACs, with 200 to 10 %; three seeds,
a bit more than an hour of one core; stopped, it goes on where it was. Every method starts from the same pretrained
network, takes 1,000 steps after that on the same batches with the same optimizer, and is finetuned in JAX as a really
smaller network.
Torch-Pruning prunes a PyTorch twin with the same weights; its kept channels become a `Structure`. In every cell the
twin's outputs are compared before and after pruning, and both counters, and a difference is an error.

- DMS: 400 steps of search, 600 of finetuning, as `experiments.digits_search`. "no depth" leaves every block in.
- TP Taylor, TP magnitude: its progressive loop on the pretrained network (global ranking, 200 small steps until under
  the budget), then 1,000 steps. Taylor (`GroupTaylorImportance`) reads gradients of 4 batches, new before every step.
- TP Taylor, in rounds: ten times pruned along DMS's own schedule of targets and trained for 40 steps, then 600 steps.
  One pruner all along, as its documentation has it; none of its methods takes more than 90 % of a layer's channels.
- TP sparse: its group sparsity training (`GroupNormPruner`, the setting of its CIFAR experiments) for 400 steps in
  PyTorch, pruned, then 600 steps.
- uniform: the control, the same keep ratio everywhere.

Seconds are of CPU, with OMP_NUM_THREADS=1, compilation left out. What it shows: which of them finds better channels at
equal MACs here. What it does not: anything about large networks; and digits are easy: many differences are noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from dms_jax.shrink import shrink
from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks import digits_task, pictures
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.digits_task import DigitsOptions
from experiments.benchmarks.methods import OURS
from experiments.benchmarks.protocol import Contest
from experiments.benchmarks.pruners import METHODS, QUICK, Size, Work
from experiments.benchmarks.rivals import absent
from experiments.benchmarks.settings import Made
from experiments.benchmarks.store import Cell, Say, file_label
from experiments.benchmarks.tables import INTERVALS, Spread, differences, percent, table
from experiments.benchmarks.tasks import Task

TASKS = {"all labels": (DigitsOptions(), (0.1, 0.02)), "200 labels": (DigitsOptions(labels=200), (0.1,))}
QUICK_TASKS = {"all labels": (digits_task.QUICK, (0.4,))}
"""Title -> options and fractions of the MACs."""
SEEDS = range(3)
QUICK_METHODS = (OURS, "uniform", "TP Taylor, in rounds", "TP sparse")
COUNTED = ("macs", "params", "blocks")
HEADER = f"method | test error, % | minus {OURS} | MACs, % | parameters | removable blocks kept | search, CPU s | seeds"


@dataclass(frozen=True)
class Pruning(Made):
    """A method under a budget, a fraction of the MACs.

    Attributes:
      method: of `METHODS`.
      title: of the task.
      size: how long everything takes.
    """

    method: str
    budget: float
    title: str
    size: Size

    @property
    def small(self) -> Pruning:
        """Quick runs have a size of their own."""
        return replace(self, size=QUICK)

    def cell(self, task: Task, seed: int) -> Cell:
        """The cell of a seed."""
        settings = {**asdict(self.size), "method": self.method, "budget": self.budget, "task": asdict(task.options)}
        label = file_label(f"{self.method}-{self.title}-{100 * self.budget:g}")
        return Cell("torch_pruning", label, settings, settings, seed)


def compute(task: Task, settings: Pruning, seed: int, interrupt: InterruptFlag, say: Say) -> dict[str, Any]:
    """Search, shrink, finetune, measure."""
    work = Work(task, seed, interrupt, say, size=settings.size, budget=settings.budget)
    structure, variables, done = METHODS[settings.method](work, task.pretrained(seed))
    space, small = task.space, task.model.clone(structure=structure)
    variables = shrink(space, variables, structure)
    variables = work.finetune(small, variables, settings.size.steps - done, work.start + done).params
    kept = space.kept(structure)
    return {
        **task.scores(small, variables, seed),
        **space.resources(structure),
        "blocks": sum(len(kept[name]) for name, group in space.groups.items() if group.rules.gates),
        "difference": work.difference,
        "seconds": {name: round(value, 2) for name, value in work.seconds.items()},
    }


@dataclass(frozen=True, eq=False)
class Benchmark:
    """The cells of one task."""

    title: str
    contest: Contest
    budgets: Sequence[float]
    seeds: Sequence[int]

    def at(self, method: str, budget: float) -> Pruning:
        """A row of the table of a budget."""
        return Pruning(method, budget, self.title, Size())

    def fill(self, methods: Sequence[str], seed: int) -> None:
        """Compute what is missing of a seed."""
        asked = [(self.at(method, budget), seed) for budget in self.budgets for method in methods]
        self.contest.fill(f"torch_pruning, {self.title}, seed {seed}", asked)

    def results(self, method: str, budget: float) -> dict[int, dict[str, Any]]:
        """{seed: result} of the cells that are there."""
        return self.contest.finished(self.at(method, budget), self.seeds)

    def errors(self, method: str, budget: float) -> list[float]:
        """Test errors in per cent."""
        return [100 * result["test"] for result in self.results(method, budget).values()]

    def report(self) -> str:
        """A table a budget, how far the frameworks are apart, and whose machine it was."""
        tables = [self._table(budget) for budget in self.budgets]
        rows = list(itertools.product(METHODS, self.budgets))
        differences = [result["difference"] for row in rows for result in self.results(*row).values()]
        last = f"Largest difference of logits between the frameworks, relative: {max(differences, default=0):.1g}."
        cells = (self.contest.cell(self.at(*row), seed) for row in rows for seed in self.seeds)
        return "\n\n".join(filter(None, [*tables, last, self.contest.cells.machines(cells)]))

    def panel(self) -> pictures.Panel:
        """Test errors over budgets."""
        lines = {method: {b: Spread.of(self.errors(method, b)) for b in self.budgets} for method in METHODS}
        return pictures.Panel(lines, self.contest.task.unit.name, self.title)

    def _table(self, budget: float) -> str:
        """Empty where no cell is there."""
        rows, full = [], self.contest.task.space.resources()["macs"]
        errors = {method: self.errors(method, budget) for method in METHODS}
        _, texts = differences({m: errors[m] for m in METHODS if m != OURS}, lambda _: errors[OURS], 2)
        for method in METHODS:
            if found := list(self.results(method, budget).values()):
                macs, params, blocks = (np.mean([result[name] for result in found]) for name in COUNTED)
                search = np.mean([result["seconds"].get("search", 0.0) for result in found])
                rows.append([
                    method, Spread.of(errors[method]).text(2), texts.get(method, ""), f"{100 * macs / full:.2f}",
                    f"{params:,.0f}", f"{blocks:.1f}", f"{search:.1f}", str(len(found)),
                ])  # fmt: skip
        return f"**{self.title}, {percent(budget)} of the MACs**\n\n{table(HEADER.split(' | '), rows)}" if rows else ""


def main(options: Options) -> None:
    """Fill the cells and write the tables."""
    quick = options.quick
    reason = absent("torch", "torch_pruning")
    able = [m for m in (QUICK_METHODS if quick else METHODS) if not (m.startswith("TP") and reason)]
    if not reason:
        from experiments.benchmarks.torch_networks import torch

        torch.set_num_threads(1)
    seeds = SEEDS[:1] if quick else SEEDS
    benchmarks = [
        Benchmark(title, Contest(digits_task.digits_task(task), options, compute), budgets, seeds)
        for title, (task, budgets) in (QUICK_TASKS if quick else TASKS).items()
    ]
    try:
        for seed, benchmark in itertools.product(seeds, benchmarks):
            benchmark.fill(able, seed)
    finally:
        figure = pictures.scores_over_macs([benchmark.panel() for benchmark in benchmarks])
        opening = (
            "`python -m experiments.benchmarks.torch_pruning`: lower is better, means ± standard "
            f"errors over seeds; a positive difference means that {OURS} is better. {INTERVALS}"
        )
        drawn = options.drawn("torch_pruning", "Test errors beside Torch-Pruning's", figure)
        parts = [opening, drawn, *(benchmark.report() for benchmark in benchmarks)]
        if reason and not any("| TP" in part for part in parts):
            parts.append(f"Torch-Pruning is {reason}.")
        columns = [(b, budget) for b in benchmarks for budget in b.budgets]
        first = [[m, *(Spread.of(b.errors(m, budget)).text(2) for b, budget in columns)] for m in METHODS]
        asked = [f"{b.title}, {percent(budget)} of the MACs" for b, budget in columns]
        headline = table(["test error, %", *asked], first)
        options.publish("torch_pruning", "DMS beside Torch-Pruning", parts, headline=headline)


if __name__ == "__main__":
    start(main, __doc__)
