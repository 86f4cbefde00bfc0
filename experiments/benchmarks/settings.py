"""What a method of a contest does: the names that tell its cells apart."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, Self

from experiments.benchmarks.store import Cell
from experiments.benchmarks.tasks import Task

CONTROL = "unpruned"
"""The full network, trained on for as many steps."""


class Made(ABC):
    """What a cell of a task is made from."""

    pretrained: bool = True
    """It starts from the supernet of its seed."""

    @property
    def small(self) -> Self:
        """The same for quick runs."""
        return self

    @abstractmethod
    def cell(self, task: Task, seed: int) -> Cell:
        """Where its numbers are."""


@dataclass(frozen=True)
class Settings(Made):
    """What a method does. The fields up to `pretrained` always tell cells apart, the others where they are not default.

    Attributes:
      strategy: a name of `dms_jax.baselines`, or of `experiments.benchmarks.baselines`, or "unpruned".
      budget: fraction of the full network's MACs.
      steps: after pretraining, search included; of retraining alone where it starts from new weights.
      search_steps: of them, for strategies that search.
      rate: Adam's mean learning rate on the ratios times the steps after the warm-up.
      retrain: "sliced" goes on with the search's weights, "scratch" with new ones, "none" not at all.
      pretrained: the search starts from the pretrained supernet, not from random weights.
      warmup: first steps of the search in which the ratios stay open.
      importance, importance_decay: how elements are judged.
      decay, refine: of `Schedule`.
      weight: None balances, a number is the paper's plain loss.
      sharpness, start_open: of `VariedDMS`.
      schedule: "joint", one over search and finetuning, or "restart": half the peak all through the search, then a
        new optimizer with a schedule over what remains. The search for a structure to be trained from new weights has
        that constant rate, too.
      ratio_schedule, ratio_together: of the strategy.
      residual: the residual width may shrink, too, on a task that leaves it alone.
      blocks: share of blocks that a rule keeps which thins evenly; None: as many as fit.
      slack, on_target, effects: of the strategy; None is no limit. What was computed before there was one had none.
      draw: of the ratios that the rule "drawn" draws.
      searches: from the same supernet on other batches, whose ratios and importances are averaged; the first one's
        weights go on. Their steps come on top.
      horizon: steps of finetuning after which a search's network is compared, on validation data, with another one; the
        better one goes on. 0: there is no other. The other's steps come on top.
      beside: which other: that of another search, which leaves depth alone ("all blocks"), or what the same search
        gives where its weakest block goes, too ("one block less").
    """

    strategy: str
    budget: float
    steps: int
    search_steps: int = 0
    rate: float = 0.0
    retrain: str = "sliced"
    pretrained: bool = True
    warmup: int = 0
    importance: str = "taylor"
    importance_decay: float = 0.99
    decay: float = 0.8
    refine: float = 0.2
    weight: float | None = None
    sharpness: float = 1.0
    start_open: bool = True
    schedule: str = "joint"
    ratio_schedule: Literal["cosine", "constant"] = "constant"
    ratio_together: float = 0.0
    residual: bool = False
    blocks: float | None = None
    slack: float | None = None
    on_target: bool = False
    effects: bool = False
    draw: int = 0
    searches: int = 1
    horizon: int = 0
    beside: Literal["all blocks", "one block less"] = "all blocks"

    def cell(self, task: Task, seed: int) -> Cell:
        """The cell of these settings; options of the task tell cells apart where they are not the usual ones."""
        fields = {f.name: (f.default, getattr(self, f.name)) for f in dataclasses.fields(self)}
        base = list(fields)[: list(fields).index("pretrained") + 1]
        identity = {name: value for name, (default, value) in fields.items() if name in base or value != default}
        settings = dataclasses.asdict(self) | {"task": dataclasses.asdict(task.options)}
        label = f"{self.strategy}-{100 * self.budget:g}"
        return Cell(task.name, label, {**identity, "task": task.changed}, settings, seed)

    @property
    def joint(self) -> bool:
        """Whether search and finetuning share an optimizer."""
        return self.schedule == "joint" and self.retrain == "sliced"

    @property
    def small(self) -> Settings:
        """The same in a few steps, at a budget that tiny networks can have."""
        few = {name: min(getattr(self, name), most) for name, most in QUICK.items()}
        return replace(self, budget=max(self.budget, 0.5), **few)


QUICK = {"steps": 8, "search_steps": 2, "warmup": 1, "horizon": 2}
