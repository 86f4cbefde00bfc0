"""What the comparison with Torch-Pruning compares: ways from a pretrained network to a structure.

`experiments.benchmarks.torch_pruning` says what each of them does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dms_jax import baselines
from dms_jax.errors import Interrupted, UserError
from dms_jax.method.dms import DMS
from dms_jax.method.limits import Limits
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.shrink import shrink
from dms_jax.structure import Structure
from dms_jax.training import supervised
from experiments.benchmarks.masked import masked_loss
from experiments.benchmarks.methods import OURS
from experiments.benchmarks.tasks import Phases

LARGEST_DIFFERENCE = 1e-3
"""Of logits, relative to their size, between Flax and PyTorch: float32 sums in another order, through 20 layers."""


@dataclass(frozen=True)
class Size:
    """Steps after pretraining, and how Torch-Pruning prunes.

    Attributes:
      steps: of search and finetuning together.
      search: of them, where a method searches.
      rounds: of pruning and training in turns.
      prune_steps: Torch-Pruning's `iterative_steps`.
      max_pruning_ratio: Torch-Pruning's. At 1 a global ranking leaves single channels where all that is known must
        pass: one feature before the classifier, and errors of 40 % (in rounds, all labels, 10 % of the MACs).
      gradient_batches: batches of every Taylor ranking.
    """

    steps: int = 1000
    search: int = 400
    rounds: int = 10
    prune_steps: int = 200
    max_pruning_ratio: float = 0.9
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
        return self.task.options.pretrain_steps

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
Importance = Literal["taylor", "magnitude", "sparse"]


def dms(work: Work, variables: Any, keep: tuple[str, ...] = ()) -> Found:
    """The search of `experiments.digits_search`, without the slack that it has had since the cells were made."""
    task, steps = work.task, work.size.search
    search = Search(
        task.space, task.loss(task.model), task.optimizer(optax.constant_schedule(task.options.learning_rate / 5)),
        {"macs": work.budget}, Schedule(steps), Limits(freeze=keep),
        strategy=DMS(slack=math.inf),
    )  # fmt: skip
    state = work.run("search", search.step, search.init(variables), steps, work.start)
    return work.timed("search", lambda: search.structure(state)), state.params, steps


def uniform(work: Work, variables: Any) -> Found:
    """The control: the same keep ratio everywhere, largest magnitudes."""
    space = work.task.space
    return baselines.uniform(space, space.magnitudes(variables), {"macs": work.macs}), variables, 0


def pruned(work: Work, variables: Any, importance: Importance) -> Found:
    """Torch-Pruning's progressive loop on the pretrained network."""
    twin = _Twin(work, variables, importance)
    return work.timed("search", lambda: twin.prune(work.macs, variables, 0)), variables, 0


def in_rounds(work: Work, variables: Any) -> Found:
    """Pruned and trained in turns, along the targets of DMS; trained masked, which is the same as trained small."""
    task, size = work.task, work.size
    each, full = size.search // size.rounds, task.space.resources()["macs"]
    optimizer = task.optimizer(optax.constant_schedule(task.options.learning_rate / 5))
    twin, structure, state = _Twin(work, variables, "taylor"), None, supervised.init(variables, optimizer)

    def step(state: Any, batch: Any, key: Any) -> Any:
        """One step; the masks are a part of the state, so that all rounds share a program."""
        training, masks = state
        train = supervised.make_step(masked_loss(task.space, task.loss(task.model), masks), optimizer)
        training, metrics = train(training, batch, key)
        return (training, masks), metrics

    for number in range(size.rounds):
        progress = min(1.0, (number + 1) / (0.8 * size.rounds))
        target, first = max(work.macs, int(full * work.budget**progress)), number * each
        structure = work.timed("search", partial(twin.prune, target, state.params, first))
        state, _ = work.run("search", step, (state, task.space.masks(structure)), each, work.start + first)
    assert structure is not None
    return structure, state.params, each * size.rounds


def sparse(work: Work, variables: Any) -> Found:
    """Group sparsity training in PyTorch, then pruned: the best setting of Torch-Pruning's CIFAR experiments."""
    from experiments.benchmarks import torch_networks as tn

    torch, task, twin = tn.torch, work.task, _Twin(work, variables, "sparse")
    model, pruner = twin.model, twin.pruner
    optimizer = torch.optim.SGD(model.parameters(), lr=task.options.learning_rate / 5, momentum=0.9)

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
    structure = work.timed("search", lambda: twin.prune(work.macs, trained, 0))
    return structure, trained, work.size.search


class _Twin:
    """A PyTorch twin of the network, and a pruner of Torch-Pruning that makes it smaller and smaller.

    Args:
      work: whose task and size.
      variables: of the full network.
      importance: how channels are ranked; "sparse" is a magnitude that training has made group-sparse.
    """

    def __init__(self, work: Work, variables: Any, importance: Importance):
        from experiments.benchmarks import torch_networks as tn

        self._work, self._tn = work, tn
        self.model = tn.from_flax(variables)
        _compare(work, self.model, variables, work.task.model)
        example, kinds, options = tn.torch.zeros(1, 3, 8, 8), tn.torch_pruning.importance, {}
        match importance:
            case "taylor":
                scores = kinds.GroupTaylorImportance()
            case "magnitude":
                scores = kinds.GroupMagnitudeImportance()
            case "sparse":
                scores = kinds.GroupMagnitudeImportance(p=2, normalizer="max")
                options = {"make": tn.torch_pruning.pruner.GroupNormPruner, "reg": 5e-4}
        self._reads_gradients = importance == "taylor"
        self.pruner = tn.pruner(
            self.model, example, scores, work.size.prune_steps, max_pruning_ratio=work.size.max_pruning_ratio, **options
        )
        self._count, self._tracked = tn.Counter(self.model, example), tn.Tracked(self.model)
        self._structure: Structure | None = None

    def prune(self, macs: int, variables: Any, first: int) -> Structure:
        """Go on to at most so many MACs; which channels are left, after a check that both frameworks agree.

        Args:
          macs: where to stop.
          variables: of the full network; the twin has those of them that are left.
          first: the first step whose batches gradients are read from.
        """
        work, space = self._work, self._work.task.space
        self._tn.load(self.model, shrink(space, variables, space.structure(space.kept(self._structure))))
        batches = (work.batch(first + i) for i in itertools.count())

        def gradients(model: Any) -> None:
            """Of batches to come, new ones before every step."""
            model.zero_grad()
            for images, labels in (_tensors(next(batches)) for _ in range(work.size.gradient_batches)):
                self._tn.functional.cross_entropy(model(images), labels).backward()

        def watch() -> None:
            work.proceed()
            self._tracked()

        self._tn.prune_below(self.pruner, self._count, macs, gradients if self._reads_gradients else None, watch)
        kept = dict(space.kept(None))
        for path, left in self._tracked.kept.items():
            if (name := _group(path)) is not None:
                kept[name] = tuple(int(i) for i in left)
        self._structure = structure = space.structure(kept)
        if self._count() != space.resources(structure):
            raise UserError(f"we count {space.resources(structure)}, PyTorch's network has {self._count()}")
        _compare(work, self.model, shrink(space, variables, structure), work.task.model.clone(structure=structure))
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
    from experiments.benchmarks import torch_networks as tn

    batch = work.batch(0)
    with tn.torch.no_grad():
        theirs = model.eval()(_tensors(batch)[0]).numpy()
    ours = np.asarray(network.apply(variables, batch["image"], train=False))
    difference = float(np.max(np.abs(ours - theirs)) / np.max(np.abs(ours)))
    if not difference < LARGEST_DIFFERENCE:
        raise UserError(f"the PyTorch network differs from the Flax one by {difference:.2g} of its logits")
    work.difference = max(work.difference, difference)


def _tensors(batch: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
    from experiments.benchmarks.torch_networks import torch

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
