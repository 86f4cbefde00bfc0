"""Networks that are timed on an accelerator, with their search spaces, smaller structures and compiled programs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from glob import escape
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dms_jax import Schedule, Search, SearchSpace, baselines
from dms_jax.method.limits import Limits
from dms_jax.training import supervised
from dms_jax.training.language import language_loss
from experiments.benchmarks.networks import Network, new

BUDGET = 0.5
ALONE = "p-"


@dataclass(frozen=True, eq=False)
class Case(Network):
    """One network and what it is fed.

    Attributes:
      batch: of a training step.
      forward: batches of the forward passes.
      multiple: of the widths of the smaller network.
      alone: steps of pipeline p-; 0 leaves it out.
      keep: groups of which the smaller network has all elements.
    """

    batch: int
    forward: tuple[int, ...]
    multiple: int
    alone: int = 0
    keep: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        return "tokens" if self.language else "images"

    def samples(self, batch: int) -> int:
        """Images or tokens of a batch."""
        return batch * self.shape[0] if self.language else batch


LLAMA_1B = {
    "vocabulary": 128_256, "width": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "head_dim": 64, "hidden": 8192,
    "rope_theta": 500_000.0, "tied": True, "remat": True, "dtype": "bfloat16",
}  # fmt: skip
"""The shape of Llama-3.2-1B."""
IMAGE, FORWARD_IMAGES = (224, 224, 3), (1, 128)
CASES = {
    "llama_1b": Case("Llama-3.2-1B's shape", "llama", LLAMA_1B, (2048,), 4, (1,), 128, keep=("*/queries",)),
    "resnet50": Case("resnet50", "resnet50", {"dtype": "bfloat16"}, IMAGE, 256, FORWARD_IMAGES, 8, 800),
    "efficientnet_b4": Case(
        "efficientnet_b4", "efficientnet_b4", {"dtype": "bfloat16"}, IMAGE, 128, FORWARD_IMAGES, 8, 800
    ),
}
SMALL = {"vocabulary": 64, "width": 16, "layers": 2, "heads": 2, "hidden": 32, "dtype": "bfloat16"}
QUICK_CASES = {
    "llama_1b": Case("a tiny llama", "llama", SMALL, (16,), 2, (1,), 8),
    "resnet50": Case("resnet20", "resnet20", {"dtype": "bfloat16", "num_classes": 10}, (8, 8, 3), 4, (1, 2), 8, 8),
}


@dataclass(frozen=True, eq=False)
class Bench:
    """A case with its search space, the smaller structure, and whatever the programs share."""

    case: Case
    space: SearchSpace
    small: Any
    optimizer: optax.GradientTransformation
    key: jax.Array = field(default_factory=lambda: jax.random.key(1))

    @staticmethod
    def of(case: Case) -> Bench:
        space = case.space()
        wide = [g.name for g in space.groups.values() if g.kind == "width" and g.size >= 2 * case.multiple]
        structure = baselines.uniform(
            space,
            {name: np.arange(group.size) for name, group in space.groups.items()},
            {"macs": int(BUDGET * space.resources()["macs"])},
            Limits(freeze=case.keep, divisible_by={escape(name): case.multiple for name in wide}),
        )
        optimizer = optax.adamw(1e-4) if case.language else optax.sgd(0.01, momentum=0.9, nesterov=True)
        return Bench(case, space, space.model.clone(structure=structure), optimizer)

    @property
    def full(self) -> Any:
        return self.space.model

    def macs(self, model: Any) -> int:
        """Of one sample: an image, or a whole sequence."""
        return self.space.resources(None if model is self.full else self.space.kept(model.structure))["macs"]

    def shapes(self, model: Any) -> dict[str, Any]:
        """Of the variables."""
        return jax.eval_shape(lambda: new(model, self.case.example, seed=1))

    def variables(self, model: Any) -> dict[str, Any]:
        """Of the right shapes and a sensible scale, from the host: to compile a draw of every shape takes longer."""
        drawn = 0.02 * np.random.default_rng(1).standard_normal(1 << 20, np.float32)  # over and over: as good to time

        def draw(path: Any, x: Any) -> jax.Array:
            ones = path[-1].key in ("scale", "var")
            return jnp.asarray(np.ones(x.shape) if ones else np.resize(drawn, x.shape), x.dtype)

        return jax.tree_util.tree_map_with_path(draw, self.shapes(model))

    def batch(self) -> dict[str, jax.Array]:
        """Random inputs on the device."""
        case = self.case
        if case.language:
            shape = (case.batch, case.shape[0] + 1)
            return {"tokens": jax.random.randint(self.key, shape, 0, case.arguments["vocabulary"], jnp.int32)}
        labels = jnp.arange(case.batch) % case.arguments.get("num_classes", 1000)
        return {"image": jax.random.normal(self.key, (case.batch, *case.shape)), "label": labels}

    def loss(self, model: Any) -> Any:
        return language_loss(model) if self.case.language else supervised.classification_loss(model)

    def search(self, optimizer: optax.GradientTransformation | None, steps: int) -> Search:
        return Search(self.space, self.loss(self.full), optimizer, {"macs": BUDGET}, Schedule(steps))

    @cached_property
    def steps(self) -> dict[str, tuple[Any, Any, Any]]:
        """{name: (model, step, from variables to the first state)}."""

        def training(model: Any) -> tuple[Any, Any, Any]:
            return model, supervised.make_step(self.loss(model), self.optimizer), self._begin

        search = self.search(self.optimizer, 10_000)
        return {
            "training": training(self.full),
            "search": (self.full, search.step, search.init),
            "training, half the MACs": training(self.small),
        }

    @cached_property
    def alone(self) -> Search:
        """Of the ratios alone."""
        return self.search(None, self.case.alone)

    def _begin(self, variables: Any) -> Any:
        return supervised.init(variables, self.optimizer)

    def inputs(self, size: int) -> jax.Array:
        """Of a forward pass."""
        shape = (size, *self.case.shape)
        return jnp.ones(shape, jnp.int32) if self.case.language else jax.random.normal(self.key, shape)

    def compiled(self) -> dict[Any, Any]:
        """{the name of a step, or (batch, model) of a forward pass: program}.

        The first one is compiled alone, the others side by side: XLA tries a convolution's algorithms on the device and
        keeps the best, and programs that begin together would all try those of the convolutions they share.
        """
        batch, lowered = jax.eval_shape(self.batch), {}
        alone = {ALONE: (self.full, self.alone.step, self.alone.init)} if self.case.alone else {}
        for name, (model, step, begin) in (self.steps | alone).items():
            state = jax.eval_shape(begin, self.shapes(model))
            lowered[name] = jax.jit(step, donate_argnums=0).lower(state, batch, self.key)
        for size in self.case.forward:
            for model in (self.full, self.small):
                variables = jax.eval_shape(half, self.shapes(model))
                inputs = jax.eval_shape(partial(self.inputs, size))
                lowered[size, model] = jax.jit(model.apply).lower(variables, inputs)
        first, *others = lowered.items()
        programs = {first[0]: first[1].compile()}
        with ThreadPoolExecutor() as pool:
            compiled = pool.map(lambda one: one[1].compile(), others)
            return programs | dict(zip((name for name, _ in others), compiled, strict=True))


def half(variables: Any) -> Any:
    """As one deploys them."""
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)
