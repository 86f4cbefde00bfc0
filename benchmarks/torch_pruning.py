"""DMS beside Torch-Pruning: same network, weights, data and finetuning, one MAC counter.

    python -m benchmarks.torch_pruning [--quick]

A ResNet-20 on scikit-learn's digits, with all labels and with 200, brought to 10, 4 and 2 % of its MACs; five seeds;
about 2 hours of one core; stopped, it goes on where it was. Every method starts from the same pretrained network, takes
1,000 steps after that on the same batches with the same optimiser, and is finetuned in JAX as a really smaller network.
Torch-Pruning prunes a PyTorch twin with the same weights; its kept channels become a `Structure`. In every cell the
twin's outputs are compared before and after pruning, and both counters, and a difference is an error.

- DMS: 400 steps of search, 600 of finetuning, as `experiments.digits_search`. "no depth" leaves every block in.
- TP Taylor, TP magnitude: its progressive loop on the pretrained network (global ranking, 200 small steps until under
  the budget), then 1,000 steps. Taylor (`GroupTaylorImportance`) reads gradients of 4 batches, new before every step.
- TP Taylor, in rounds: ten times pruned along DMS's own schedule of targets and trained for 40 steps, then 600 steps.
- TP sparse: its group sparsity training (`GroupNormPruner`, the setting of its CIFAR experiments) for 400 steps in
  PyTorch, pruned, then 600 steps.
- same ratio everywhere: the control.

Seconds are of CPU, with OMP_NUM_THREADS=1, compilation left out. What it shows: which of them finds better channels at
equal MACs here. What it does not: anything about large networks; and digits are easy: many differences are noise.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from benchmarks import digits_task
from benchmarks.cells import Cell, Cells, Spread, paired
from benchmarks.command import Options, table, write_section
from benchmarks.digits_task import DigitsOptions
from benchmarks.rivals import absent
from benchmarks.task import Task
from dms_jax import strategies
from dms_jax.errors import Interrupted, UserError, exit_on_user_error
from dms_jax.projection import Limits
from dms_jax.search import Schedule, Search
from dms_jax.shrink import shrink
from dms_jax.structure import Structure
from dms_jax.training import supervised
from dms_jax.training.interrupt import InterruptFlag
from dms_jax.training.loop import run_phase
from experiments.conduct import warm_cosine

LARGEST_DIFFERENCE = 1e-3
"""Of logits, relative to their size, between Flax and PyTorch: float32 sums in another order, through 20 layers."""


@dataclass(frozen=True)
class Size:
    """Steps after pretraining, and how finely Torch-Pruning prunes."""

    steps: int = 1000
    search: int = 400
    rounds: int = 10
    prune_steps: int = 200
    gradient_batches: int = 4


QUICK = Size(steps=6, search=4, rounds=2, prune_steps=20, gradient_batches=1)
TASKS = {"all labels": DigitsOptions(), "200 labels": DigitsOptions(labels=200)}
QUICK_TASKS = {"all labels": digits_task.QUICK}
BUDGETS, QUICK_BUDGETS = (0.1, 0.04, 0.02), (0.4,)
SEEDS = 5


@dataclass(eq=False)
class Work:
    """One cell being computed."""

    task: Task
    size: Size
    budget: float
    seed: int
    interrupt: InterruptFlag
    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)
    difference: float = 0.0

    @property
    def macs(self) -> int:
        """The budget in MACs."""
        return int(self.budget * self.task.space.resources()["macs"])

    def batch(self, step: int) -> Any:
        """The batch of a step after pretraining."""
        return self.task.batches(self.seed)(self.task.pretrain_steps + step)

    def run(self, name: str, step: Any, state: Any, steps: int, start: int, *further: Any) -> Any:
        """Run steps `start` to `start + steps`; their CPU seconds and those of compilation are kept apart."""
        state, key, began = jax.tree.map(jnp.copy, state), jax.random.key(self.seed), time.process_time()
        compiled = jax.jit(step, donate_argnums=0).lower(state, self.batch(start), key, *further).compile()
        self._add("compile", began)
        began = time.process_time()
        state = run_phase(
            name, lambda s, b, k: compiled(s, b, k, *further), state, lambda i: self.batch(start + i), key, steps=steps,
            on_log=lambda done, values, _: self.say(f"{name} {start + done}"), interrupt=self.interrupt,
        )  # fmt: skip
        self._add(name, began)
        return state

    def proceed(self) -> None:
        """Called now and then where no step of JAX is run.

        Raises:
          Interrupted: the flag is up.
        """
        if self.interrupt.requested:
            raise Interrupted(0, "stopped")

    def timed(self, function: Callable[[], Any]) -> Any:
        """Call a part of a search."""
        began = time.process_time()
        result = function()
        self._add("search", began)
        return result

    def _add(self, name: str, began: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - began


Found = tuple[Structure, Any, int]  # a structure, the full network's variables that it is cut from, steps taken
Method = Callable[[Work, Any], Found]


def dms(work: Work, variables: Any, keep: tuple[str, ...] = ()) -> Found:
    """The search of `experiments.digits_search`."""
    task, steps = work.task, work.size.search
    search = Search(
        task.space, task.loss(task.model), task.optimizer(optax.constant_schedule(task.learning_rate / 5)),
        {"macs": work.budget}, Schedule(steps), Limits(keep=keep),
    )  # fmt: skip
    state = work.run("search", search.step, search.init(variables), steps, 0)
    return work.timed(lambda: search.structure(state)), state.variables, steps


def uniform(work: Work, variables: Any) -> Found:
    """The control: the same keep ratio everywhere, largest magnitudes."""
    space = work.task.space
    return strategies.uniform(space, space.magnitudes(variables["params"]), {"macs": work.macs}), variables, 0


def pruned(work: Work, variables: Any, importance: str) -> Found:
    """Torch-Pruning's progressive loop on the pretrained network."""
    return work.timed(lambda: _prune(work, variables, None, work.macs, importance, 0)), variables, 0


def in_rounds(work: Work, variables: Any) -> Found:
    """Pruned and trained in turns, along the targets of DMS; trained masked, which is the same as trained small."""
    task, size, structure = work.task, work.size, None
    each, full = size.search // size.rounds, task.space.resources()["macs"]
    optimizer = task.optimizer(optax.constant_schedule(task.learning_rate / 5))
    state = supervised.init(variables, optimizer)
    step = _masked_step(task, optimizer)
    for number in range(size.rounds):
        progress = min(1.0, (number + 1) / (0.8 * size.rounds))
        target = max(work.macs, int(full * work.budget**progress))
        structure = work.timed(partial(_prune, work, state.variables, structure, target, "taylor", number * each))
        masks = task.space.flat(_zero_one(task, structure))
        state = work.run("search", step, state, each, number * each, masks)
    assert structure is not None
    return structure, state.variables, each * size.rounds


def sparse(work: Work, variables: Any) -> Found:
    """Group sparsity training in PyTorch, then pruned: the best setting of Torch-Pruning's CIFAR experiments."""
    from benchmarks import torch_networks as tn

    torch, task = tn.torch, work.task
    model = tn.from_flax(variables)
    work.difference = max(work.difference, _difference(work, model, variables, task.model))
    importance = tn.torch_pruning.importance.GroupMagnitudeImportance(p=2, normalizer="max")
    made = tn.torch_pruning.pruner.GroupNormPruner
    pruner = tn.pruner(model, torch.zeros(1, 3, 8, 8), importance, work.size.prune_steps, make=made, reg=5e-4)
    optimizer = torch.optim.SGD(model.parameters(), lr=task.learning_rate / 5, momentum=0.9)

    def train() -> None:
        for i in range(work.size.search):
            model.train()
            if i % max(1, work.size.search // 20) == 0:  # about once an epoch
                pruner.update_regularizer()
            images, labels = _tensors(work.batch(i))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            pruner.regularize(model)
            optimizer.step()
            work.say(f"sparse training {i}")
            work.proceed()
        model.eval()

    with tn.quiet():
        work.timed(train)
    trained = jax.tree.map(jnp.asarray, tn.to_flax(model))
    structure = work.timed(lambda: _pruned(work, pruner, model, None, work.macs, None, trained))
    return structure, trained, work.size.search


def _prune(
    work: Work, variables: Any, structure: Structure | None, macs: int, importance: str, first: int
) -> Structure:
    """Torch-Pruning from a structure to a smaller one."""
    from benchmarks import torch_networks as tn

    task = work.task
    start = variables if structure is None else shrink(task.space, variables, structure)
    network = task.model if structure is None else task.model.clone(structure=structure)
    model = tn.from_flax(start)
    work.difference = max(work.difference, _difference(work, model, start, network))
    kinds = tn.torch_pruning.importance
    scores = {"taylor": kinds.GroupTaylorImportance, "magnitude": kinds.GroupMagnitudeImportance}[importance]()
    pruner = tn.pruner(model, tn.torch.zeros(1, 3, 8, 8), scores, work.size.prune_steps)
    batches = (work.batch(first + i) for i in itertools.count())  # of the steps to come

    def gradients(model: Any) -> None:
        model.zero_grad()
        for images, labels in (_tensors(next(batches)) for _ in range(work.size.gradient_batches)):
            tn.functional.cross_entropy(model(images), labels).backward()

    return _pruned(work, pruner, model, structure, macs, gradients if importance == "taylor" else None, variables)


def _pruned(
    work: Work, pruner: Any, model: Any, before: Structure | None, macs: int, gradients: Any, variables: Any
) -> Structure:
    """Run the loop, read which channels are left, and check that both frameworks still agree."""
    from benchmarks import torch_networks as tn

    space = work.task.space
    count = tn.Counter(model, tn.torch.zeros(1, 3, 8, 8))
    tracked = tn.Tracked(model)

    def watch() -> None:
        work.proceed()
        tracked()

    tn.prune_below(pruner, count, macs, gradients, watch)
    kept = {name: np.asarray(indices) for name, indices in space.kept(before).items()}
    for path, left in tracked.kept.items():
        if (name := _group(path)) is not None:
            kept[name] = kept[name][left.numpy()]
    structure = space.structure({name: tuple(int(i) for i in indices) for name, indices in kept.items()})
    if count() != space.resources(structure):
        raise UserError(f"we count {space.resources(structure)}, PyTorch's network has {count()}")
    small = work.task.model.clone(structure=structure)
    work.difference = max(work.difference, _difference(work, model, shrink(space, variables, structure), small))
    return structure


def _group(path: tuple[str, ...]) -> str | None:
    """The group whose channels a BatchNorm layer normalises; None where another layer tells it already."""
    match path:
        case ("norm",):
            return "stem"
        case (stage, "shortcut_norm"):
            return f"{stage}/out"
        case (stage, block, "norm1"):
            return f"{stage}/{block}/mid"
    return None


def _difference(work: Work, model: Any, variables: Any, network: Any) -> float:
    """The largest difference of logits on the first batch, relative to the largest logit; too large is an error."""
    from benchmarks import torch_networks as tn

    batch = work.batch(0)
    with tn.torch.no_grad():
        theirs = model.eval()(_tensors(batch)[0]).numpy()
    ours = np.asarray(network.apply(variables, batch["image"], train=False))
    difference = float(np.max(np.abs(ours - theirs)) / np.max(np.abs(ours)))
    if not difference < LARGEST_DIFFERENCE:
        raise UserError(f"the PyTorch network differs from the Flax one by {difference:.2g} of its logits")
    return difference


def _tensors(batch: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
    from benchmarks.torch_networks import torch

    images = np.ascontiguousarray(np.moveaxis(batch["image"], -1, 1))
    return torch.from_numpy(images), torch.from_numpy(batch["label"].astype(np.int64))


def _zero_one(task: Task, structure: Structure) -> dict[str, jax.Array]:
    kept = task.space.kept(structure)
    return {n: jnp.zeros(g.size).at[jnp.array(kept[n], int)].set(1.0) for n, g in task.space.groups.items()}


def _masked_step(task: Task, optimizer: Any) -> Any:
    """A plain training step of the full network under 0/1 masks `[elements]`."""
    loss = task.loss(task.model)

    def step(state: Any, batch: Any, key: jax.Array, masks: jax.Array) -> Any:
        def masked(variables: dict[str, Any], batch: Any, key: jax.Array) -> Any:
            params, left = task.space.fold(variables["params"], task.space.collection(masks))
            return loss({**variables, "params": params, "masks": left}, batch, key)

        return supervised.make_step(masked, optimizer)(state, batch, key)

    return step


OURS = "DMS"
METHODS: dict[str, Method] = {
    OURS: dms,
    "DMS, no depth": partial(dms, keep=("*/depth",)),
    "same ratio everywhere": uniform,
    "TP Taylor": partial(pruned, importance="taylor"),
    "TP magnitude": partial(pruned, importance="magnitude"),
    "TP Taylor, in rounds": in_rounds,
    "TP sparse": sparse,
}
QUICK_METHODS = (OURS, "same ratio everywhere", "TP Taylor, in rounds", "TP sparse")


def compute(work: Work, method: str) -> dict[str, Any]:
    """Search, shrink, finetune, measure."""
    task, space = work.task, work.task.space
    variables = task.pretrained(work.seed)
    structure, variables, done = METHODS[method](work, variables)
    small, left = task.model.clone(structure=structure), work.size.steps - done
    optimizer = task.optimizer(warm_cosine(task.learning_rate, left))
    step = supervised.make_step(task.loss(small), optimizer)
    state = work.run("finetune", step, supervised.init(shrink(space, variables, structure), optimizer), left, done)
    kept = space.kept(structure)
    return {
        **task.scores(small, state.variables, work.seed),
        **space.resources(structure),
        "blocks": sum(len(kept[name]) for name, group in space.groups.items() if group.kind == "depth"),
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
        label = "".join(c if c.isalnum() else "_" for c in f"{method}-{self.title}-{100 * budget:g}")
        return Cell("torch_pruning", label, settings, settings, seed)

    def fill(self) -> None:
        """Compute what is missing, a seed after the other."""
        asked = [(m, b, s) for s in self.seeds for b in self.budgets for m in self.methods]
        work = {self.cell(*ask).path: ask for ask in asked}

        def one(cell: Cell, flag: InterruptFlag, say: Callable[[str], None]) -> dict[str, Any]:
            method, budget, seed = work[cell.path]
            return compute(Work(self.task, self.size, budget, seed, flag, say), method)

        for seed in dict.fromkeys(s for m, b, s in asked if self.cells.get(self.cell(m, b, s)) is None):
            self.task.pretrained(seed)
        self.cells.fill([self.cell(*ask) for ask in asked], one, f"torch_pruning, {self.title}", self.task.data)

    def results(self, method: str, budget: float) -> dict[int, dict[str, Any]]:
        """{seed: result} of the cells that are there."""
        found = {seed: self.cells.get(self.cell(method, budget, seed)) for seed in self.seeds}
        return {seed: result for seed, result in found.items() if result}

    def report(self) -> str:
        """A table a budget."""
        parts = []
        for budget in self.budgets:
            ours = {seed: 100 * r["test"] for seed, r in self.results(OURS, budget).items()}
            rows = []
            for method in METHODS:
                if not (found := self.results(method, budget)):
                    continue
                errors, full = {s: 100 * r["test"] for s, r in found.items()}, self.task.space.resources()["macs"]
                rows.append([
                    method,
                    Spread.of(errors.values()).text(2),
                    "" if method == OURS else paired(ours, errors).text(2, sign=True),
                    f"{Spread.of(100 * r['macs'] / full for r in found.values()).mean:.2f}",
                    f"{Spread.of(r['params'] for r in found.values()).mean:,.0f}",
                    f"{Spread.of(r['blocks'] for r in found.values()).mean:.1f}",
                    f"{Spread.of(r['seconds'].get('search', 0.0) for r in found.values()).mean:.1f}",
                    str(len(found)),
                ])  # fmt: skip
            if not rows:
                continue
            header = ["method", "test error, %", f"minus {OURS}", "MACs, %", "parameters", "removable blocks kept",
                      "search, CPU s", "seeds"]  # fmt: skip
            parts.append(f"**{self.title}, {100 * budget:g} % of the MACs**\n\n{table(header, rows)}")
        worst = max(
            (r["difference"] for m in METHODS for b in self.budgets for r in self.results(m, b).values()), default=0
        )
        parts.append(f"Largest difference of logits between the frameworks, relative: {worst:.1g}.")
        return "\n\n".join(parts)


@dataclass(frozen=True)
class Command(Options):
    """Options of this benchmark.

    Attributes:
      seeds: how many, from 0 on.
      tasks: which of the tasks to fill; all are reported.
    """

    seeds: int = SEEDS
    tasks: tuple[str, ...] = tuple(TASKS)


@exit_on_user_error
def main(command: Command) -> None:
    """Fill the cells and write the tables."""
    quick = command.quick
    reason = absent("torch", "torch_pruning")
    able = [m for m in (QUICK_METHODS if quick else METHODS) if not (m.startswith("TP") and reason)]
    if not reason:
        from benchmarks.torch_networks import torch

        torch.set_num_threads(1)
    benchmarks = [
        Benchmark(title, digits_task.digits_task(options), QUICK if quick else Size(), command.cells, able,
                  QUICK_BUDGETS if quick else BUDGETS, range(1 if quick else command.seeds))
        for title, options in (QUICK_TASKS if quick else TASKS).items()
    ]  # fmt: skip
    try:
        for benchmark in benchmarks:
            if not command.tables and benchmark.title in command.tasks:
                benchmark.fill()
    finally:
        text = "\n\n".join(benchmark.report() for benchmark in benchmarks)
        lacking = "TP" not in text
        text += f"\n\nTorch-Pruning is {reason}." if reason and lacking else ""
        write_section("torch_pruning", "DMS beside Torch-Pruning", text, quick=quick)


if __name__ == "__main__":
    main(tyro.cli(Command, description=__doc__))
