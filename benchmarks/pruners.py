"""What the comparison with Torch-Pruning compares: ways from a pretrained network to a structure.

`benchmarks.torch_pruning` says what each of them does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.masked import masked_loss
from benchmarks.methods import OURS
from benchmarks.phases import Phases
from dms_jax import strategies
from dms_jax.errors import Interrupted, UserError
from dms_jax.projection import Limits
from dms_jax.search import Schedule, Search
from dms_jax.shrink import shrink
from dms_jax.structure import Structure
from dms_jax.training import supervised

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


@dataclass(eq=False, kw_only=True)
class Work(Phases):
    """One cell being computed.

    Attributes:
      size: how long everything takes.
      budget: fraction of the MACs.
      difference: the largest one seen between the frameworks.
    """

    size: Size
    budget: float
    difference: float = 0.0

    @property
    def macs(self) -> int:
        """The budget in MACs."""
        return int(self.budget * self.task.space.resources()["macs"])

    @property
    def start(self) -> int:
        """The number of the first batch after pretraining."""
        return self.task.pretrain_steps

    def batch(self, step: int) -> Any:
        """The batch of a step after pretraining."""
        return self.task.batches(self.seed)(self.start + step)

    def proceed(self) -> None:
        """Called now and then where no step of JAX is run.

        Raises:
          Interrupted: the flag is up.
        """
        if self.interrupt.requested:
            raise Interrupted(0, "stopped")


Found = tuple[Structure, Any, int]  # a structure, the full network's variables that it is cut from, steps taken
Method = Callable[[Work, Any], Found]


def dms(work: Work, variables: Any, keep: tuple[str, ...] = ()) -> Found:
    """The search of `experiments.digits_search`."""
    task, steps = work.task, work.size.search
    search = Search(
        task.space, task.loss(task.model), task.optimizer(optax.constant_schedule(task.learning_rate / 5)),
        {"macs": work.budget}, Schedule(steps), Limits(keep=keep),
    )  # fmt: skip
    state = work.run("search", search.step, search.init(variables), steps, work.start)
    return work.timed("search", lambda: search.structure(state)), state.variables, steps


def uniform(work: Work, variables: Any) -> Found:
    """The control: the same keep ratio everywhere, largest magnitudes."""
    space = work.task.space
    return strategies.uniform(space, space.magnitudes(variables["params"]), {"macs": work.macs}), variables, 0


def pruned(work: Work, variables: Any, importance: str) -> Found:
    """Torch-Pruning's progressive loop on the pretrained network."""
    return work.timed("search", lambda: _prune(work, variables, None, work.macs, importance, 0)), variables, 0


def in_rounds(work: Work, variables: Any) -> Found:
    """Pruned and trained in turns, along the targets of DMS; trained masked, which is the same as trained small."""
    task, size, structure = work.task, work.size, None
    each, full = size.search // size.rounds, task.space.resources()["macs"]
    optimizer = task.optimizer(optax.constant_schedule(task.learning_rate / 5))
    state = supervised.init(variables, optimizer)
    for number in range(size.rounds):
        progress = min(1.0, (number + 1) / (0.8 * size.rounds))
        target = max(work.macs, int(full * work.budget**progress))
        structure = work.timed(
            "search", partial(_prune, work, state.variables, structure, target, "taylor", number * each)
        )
        loss = masked_loss(task.space, task.loss(task.model), task.space.masks(structure))
        step = supervised.make_step(loss, optimizer)
        state = work.run("search", step, state, each, work.start + number * each)
    assert structure is not None
    return structure, state.variables, each * size.rounds


def sparse(work: Work, variables: Any) -> Found:
    """Group sparsity training in PyTorch, then pruned: the best setting of Torch-Pruning's CIFAR experiments."""
    from benchmarks import torch_networks as tn

    torch, task = tn.torch, work.task
    model = tn.from_flax(variables)
    _compare(work, model, variables, task.model)
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
        work.timed("search", train)
    trained = jax.tree.map(jnp.asarray, tn.to_flax(model))
    structure = work.timed("search", lambda: _pruned(work, pruner, model, None, work.macs, None, trained))
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
    _compare(work, model, start, network)
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
    _compare(work, model, shrink(space, variables, structure), small)
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


def _compare(work: Work, model: Any, variables: Any, network: Any) -> None:
    """Note the largest difference of logits on the first batch, relative to the largest; too large is an error."""
    from benchmarks import torch_networks as tn

    batch = work.batch(0)
    with tn.torch.no_grad():
        theirs = model.eval()(_tensors(batch)[0]).numpy()
    ours = np.asarray(network.apply(variables, batch["image"], train=False))
    difference = float(np.max(np.abs(ours - theirs)) / np.max(np.abs(ours)))
    if not difference < LARGEST_DIFFERENCE:
        raise UserError(f"the PyTorch network differs from the Flax one by {difference:.2g} of its logits")
    work.difference = max(work.difference, difference)


def _tensors(batch: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
    from benchmarks.torch_networks import torch

    images = np.ascontiguousarray(np.moveaxis(batch["image"], -1, 1))
    return torch.from_numpy(images), torch.from_numpy(batch["label"].astype(np.int64))


METHODS: dict[str, Method] = {
    OURS: dms,
    "DMS, no depth": partial(dms, keep=("*/depth",)),
    "uniform": uniform,
    "TP Taylor": partial(pruned, importance="taylor"),
    "TP magnitude": partial(pruned, importance="magnitude"),
    "TP Taylor, in rounds": in_rounds,
    "TP sparse": sparse,
}
