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

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dms_jax.conduct import warm_cosine
from dms_jax.shrink import shrink
from dms_jax.training import supervised
from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks import digits_task, pictures
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.digits_task import DigitsOptions
from experiments.benchmarks.methods import OURS
from experiments.benchmarks.pruners import METHODS, QUICK, Size, Work
from experiments.benchmarks.rivals import absent
from experiments.benchmarks.store import Cell, Cells, Say, file_label
from experiments.benchmarks.tables import INTERVALS, Spread, differences, percent, picture_link, table, write_section
from experiments.benchmarks.tasks import Task

TASKS = {"all labels": (DigitsOptions(), (0.1, 0.02)), "200 labels": (DigitsOptions(labels=200), (0.1,))}
QUICK_TASKS = {"all labels": (digits_task.QUICK, (0.4,))}
"""Title -> options and fractions of the MACs."""
SEEDS = range(3)
QUICK_METHODS = (OURS, "uniform", "TP Taylor, in rounds", "TP sparse")


def compute(work: Work, method: str) -> dict[str, Any]:
    """Search, shrink, finetune, measure."""
    task, space = work.task, work.task.space
    variables = task.pretrained(work.seed)
    structure, variables, done = METHODS[method](work, variables)
    small, left = task.model.clone(structure=structure), work.size.steps - done
    optimizer = task.optimizer(warm_cosine(task.learning_rate, left))
    state = supervised.init(shrink(space, variables, structure), optimizer)
    variables = work.train("finetune", small, state, optimizer, left, work.start + done)
    kept = space.kept(structure)
    return {
        **task.scores(small, variables, work.seed),
        **space.resources(structure),
        "blocks": sum(len(kept[name]) for name, group in space.groups.items() if group.rules.gates),
        "difference": work.difference,
        "seconds": {name: round(value, 2) for name, value in work.seconds.items()},
    }


@dataclass(frozen=True, eq=False)
class Benchmark:
    """The cells of one task."""

    title: str
    task: Task
    size: Size
    cells: Cells
    methods: Sequence[str]
    budgets: Sequence[float]
    seeds: Sequence[int]

    def cell(self, method: str, budget: float, seed: int) -> Cell:
        settings = {
            **dataclasses.asdict(self.size),
            "method": method,
            "budget": budget,
            "task": dict(self.task.options),
        }
        label = file_label(f"{method}-{self.title}-{100 * budget:g}")
        return Cell("torch_pruning", label, settings, settings, seed)

    def fill(self, seed: int) -> None:
        """Compute what is missing of a seed."""
        asked = [(m, b, seed) for b in self.budgets for m in self.methods]
        if any(self.cells.get(self.cell(*ask)) is None for ask in asked):
            self.task.pretrain([seed])
        work = [(self.cell(*ask), partial(self.compute, *ask)) for ask in asked]
        self.cells.fill(work, f"torch_pruning, {self.title}, seed {seed}", self.task.data)

    def compute(self, method: str, budget: float, seed: int, interrupt: InterruptFlag, say: Say) -> dict[str, Any]:
        """One cell."""
        return compute(Work(self.task, seed, interrupt, say, size=self.size, budget=budget), method)

    def results(self, method: str, budget: float) -> dict[int, dict[str, Any]]:
        """{seed: result} of the cells that are there."""
        found = {seed: self.cells.get(self.cell(method, budget, seed)) for seed in self.seeds}
        return {seed: result for seed, result in found.items() if result}

    def errors(self, method: str, budget: float) -> dict[int, float]:
        """{seed: test error in per cent}."""
        return {seed: 100 * r["test"] for seed, r in self.results(method, budget).items()}

    def report(self) -> str:
        """A table a budget, how far the frameworks are apart, and whose machine it was."""
        tables = [self._table(budget) for budget in self.budgets]
        found = [result for m in METHODS for b in self.budgets for result in self.results(m, b).values()]
        worst = max((result["difference"] for result in found), default=0)
        last = f"Largest difference of logits between the frameworks, relative: {worst:.1g}."
        cells = itertools.starmap(self.cell, itertools.product(METHODS, self.budgets, self.seeds))
        return "\n\n".join(filter(None, [*tables, last, self.cells.machines(cells)]))

    def panel(self) -> pictures.Panel:
        """Test errors over budgets."""
        lines = {method: {b: Spread.of(self.errors(method, b).values()) for b in self.budgets} for method in METHODS}
        return pictures.Panel(lines, self.task.unit.name, self.title)

    def _table(self, budget: float) -> str:
        """Empty where no cell is there."""
        rows, full = [], self.task.space.resources()["macs"]
        ours = self.errors(OURS, budget).values()
        _, texts = differences({m: self.errors(m, budget).values() for m in METHODS if m != OURS}, lambda _: ours, 2)
        for method in METHODS:
            if not (found := self.results(method, budget)):
                continue
            rows.append([
                method,
                Spread.of(self.errors(method, budget).values()).text(2),
                texts.get(method, ""),
                f"{np.mean([100 * r['macs'] / full for r in found.values()]):.2f}",
                f"{np.mean([r['params'] for r in found.values()]):,.0f}",
                f"{np.mean([r['blocks'] for r in found.values()]):.1f}",
                f"{np.mean([r['seconds'].get('search', 0.0) for r in found.values()]):.1f}",
                str(len(found)),
            ])  # fmt: skip
        if not rows:
            return ""
        header = ["method", "test error, %", f"minus {OURS}", "MACs, %", "parameters", "removable blocks kept",
                  "search, CPU s", "seeds"]  # fmt: skip
        return f"**{self.title}, {percent(budget)} of the MACs**\n\n{table(header, rows)}"


def main(options: Options) -> None:
    """Fill the cells and write the tables."""
    quick = options.quick
    reason = absent("torch", "torch_pruning")
    able = [m for m in (QUICK_METHODS if quick else METHODS) if not (m.startswith("TP") and reason)]
    if not reason:
        from experiments.benchmarks.torch_networks import torch

        torch.set_num_threads(1)
    benchmarks = [
        Benchmark(title, digits_task.digits_task(task), QUICK if quick else Size(), options.cells, able,
                  budgets, SEEDS[:1] if quick else SEEDS)
        for title, (task, budgets) in (QUICK_TASKS if quick else TASKS).items()
    ]  # fmt: skip
    try:
        for seed, benchmark in itertools.product(benchmarks[0].seeds if not options.tables else (), benchmarks):
            benchmark.fill(seed)
    finally:
        figure = pictures.scores_over_macs([benchmark.panel() for benchmark in benchmarks])
        picture = pictures.save(figure, options.pictures / "torch_pruning.svg")
        opening = (
            "`python -m experiments.benchmarks.torch_pruning`: lower is better, means ± standard "
            f"errors over seeds; a positive difference means that {OURS} is better. {INTERVALS}"
        )
        parts = [
            opening,
            picture_link("Test errors beside Torch-Pruning's", picture, options.pages),
            *(b.report() for b in benchmarks),
        ]
        text = "\n\n".join(parts)
        text += f"\n\nTorch-Pruning is {reason}." if reason and "| TP" not in text else ""
        first = [
            [m, *(Spread.of(b.errors(m, x).values()).text(2) for b in benchmarks for x in b.budgets)] for m in METHODS
        ]
        asked = [f"{b.title}, {percent(x)} of the MACs" for b in benchmarks for x in b.budgets]
        headline = table(["test error, %", *asked], first)
        write_section("torch_pruning", "DMS beside Torch-Pruning", text, folder=options.pages, headline=headline)


if __name__ == "__main__":
    start(main, __doc__)
