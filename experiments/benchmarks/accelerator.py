"""What a search costs on an accelerator, and what the smaller network is worth there.

    python -m experiments.benchmarks.accelerator [--quick] [--networks resnet50 efficientnet_b4 llama_1b]

Float32 parameters, computation in bfloat16, random weights, one batch of random inputs that lies on the device: no
loader is measured. Three steps take turns: training the full network, a search step of it, and training the network of
half the MACs (the same keep ratio everywhere, widths in multiples that suit matrix units). Shares of the peak are of
the operations of a network's MACs (forward once, backward twice, nothing recomputed) over the rate of a product of two
8192 x 8192 matrices in bfloat16 on the same device. Forward passes have parameters in bfloat16, too. Then 800 steps of
pipeline p-, ratios alone, of the networks that classify. About ten minutes on one GPU of 80 GB, most of it compilation.

What it shows: that the search is a training run in time and memory, and whether fewer MACs are less time. What it does
not: how good the smaller network is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from glob import escape
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dms_jax import Schedule, Search, SearchSpace, baselines, models
from dms_jax.command_line import parse
from dms_jax.errors import UserError, exit_on_user_error
from dms_jax.method.limits import Limits
from dms_jax.training import supervised
from dms_jax.training.language import language_loss
from dms_jax.training.machine import machine
from dms_jax.training.progress import Progress
from experiments.benchmarks.tables import table, write_section
from experiments.benchmarks.timing import going_on, interleaved_seconds, spread

BUDGET = 0.5
BUNDLE = 4
"""Steps that are waited for together, so that a call's own cost is hidden as it is in training."""
ALONE = "p-"
STEP, FORWARD = 3, 1
"""Times the MACs of a forward pass."""


@dataclass(frozen=True)
class Case:
    """One network and what it is fed.

    Attributes:
      title: in the tables.
      model: of `dms_jax.models`, with its arguments.
      shape: of one input, without the batch; a sequence of tokens where it has one axis.
      batch: of a training step.
      forward: batches of the forward passes.
      multiple: of the widths of the smaller network.
      alone: steps of pipeline p-; 0 leaves it out.
      keep: groups of which the smaller network has all elements.
    """

    title: str
    model: str
    arguments: Mapping[str, Any]
    shape: tuple[int, ...]
    batch: int
    forward: tuple[int, ...]
    multiple: int
    alone: int = 0
    keep: tuple[str, ...] = ()

    @property
    def language(self) -> bool:
        return len(self.shape) == 1

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


@dataclass(frozen=True)
class Options:
    """Time searching, training and inference on an accelerator.

    Attributes:
      quick: tiny networks and few calls, to see that the benchmark runs.
      networks: which ones; empty for all.
      rounds: timed bundles of 4 calls.
    """

    quick: bool = False
    networks: tuple[str, ...] = ()
    rounds: int = 10


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
        model = models.create(case.model, **case.arguments)
        dtype = jnp.int32 if case.language else jnp.float32
        space = SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, *case.shape), dtype))
        wide = [g.name for g in space.groups.values() if g.kind == "width" and g.size >= 2 * case.multiple]
        structure = baselines.uniform(
            space,
            {name: np.arange(group.size) for name, group in space.groups.items()},
            {"macs": int(BUDGET * space.resources()["macs"])},
            Limits(freeze=case.keep, divisible_by={escape(name): case.multiple for name in wide}),
        )
        optimizer = optax.adamw(1e-4) if case.language else optax.sgd(0.01, momentum=0.9, nesterov=True)
        return Bench(case, space, model.clone(structure=structure), optimizer)

    @property
    def full(self) -> Any:
        return self.space.model

    def macs(self, model: Any) -> int:
        """Of one sample: an image, or a whole sequence."""
        return self.space.resources(None if model is self.full else self.space.kept(model.structure))["macs"]

    def shapes(self, model: Any) -> dict[str, Any]:
        """Of the variables."""
        example = jnp.zeros((1, *self.case.shape), self.space.example[0].dtype)
        shapes = jax.eval_shape(model.init, self.key, example)
        return {name: tree for name, tree in shapes.items() if name != "masks"}

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
        shape, dtype = (size, *self.case.shape), self.space.example[0].dtype
        return jnp.ones(shape, dtype) if self.case.language else jax.random.normal(self.key, shape, dtype)

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


def main(options: Options) -> None:
    cases = QUICK_CASES if options.quick else CASES
    unknown = set(options.networks) - set(cases)
    if unknown:
        raise UserError(f"--networks {' '.join(sorted(unknown))}: there are {', '.join(cases)}")
    if options.rounds < 1:
        raise UserError(f"--rounds {options.rounds}: give a whole number of at least 1")
    if not options.quick and jax.default_backend() == "cpu":
        raise UserError("JAX sees no accelerator here, and these networks are made for one; --quick runs tiny ones")
    rounds = 2 if options.quick else options.rounds
    peak = product_rate(256 if options.quick else 8192)
    names = options.networks or tuple(cases)
    with Progress("accelerator", 2 * len(names)) as progress:
        for i, name in enumerate(names):
            progress.update(2 * i, f"compiling {cases[name].title}")
            bench = Bench.of(cases[name])
            programs = bench.compiled()
            progress.update(2 * i + 1, f"timing {cases[name].title}")
            text = report(bench, programs, rounds, peak)
            write_section(
                f"accelerator {name}",
                f"On an accelerator: {bench.case.title}",
                text,
                quick=options.quick,
                page="accelerator",
            )
            del bench, programs
            jax.clear_caches()


def report(bench: Bench, programs: Mapping[Any, Any], rounds: int, peak: float) -> str:
    """The tables of one network."""
    columns = ["ms (least to most)", "a second", "times full", "of peak"]
    tables = (
        (["network", "step", *columns, "GB", "times full"], step_rows(bench, programs, rounds, peak)),
        (["network", "forward pass", *columns], forward_rows(bench, programs, rounds, peak)),
        (["network", "pipeline p-", "seconds"], alone_rows(bench, programs)),
    )
    where = f"`python -m experiments.benchmarks.accelerator`: {machine()}; a bfloat16 product runs at "
    where += f"{peak / 1e12:.3g} TFLOP/s."
    measured = [(header, list(rows)) for header, rows in tables]
    return "\n\n".join([where, *(table(header, rows) for header, rows in measured if rows)])


def product_rate(size: int) -> float:
    """FLOP/s of a product of two square matrices in bfloat16."""
    a, b = (jax.random.normal(jax.random.key(i), (size, size), jnp.bfloat16) for i in range(2))
    call = partial(jax.jit(jnp.dot), a, b)
    interleaved_seconds({"product": call}, 3)
    return 2 * size**3 / float(np.median(interleaved_seconds({"product": call}, 20)["product"]))


def step_rows(bench: Bench, programs: Mapping[Any, Any], rounds: int, peak: float) -> Iterator[list[str]]:
    """Rows of the three steps."""
    case, batch = bench.case, bench.batch()
    calls = {
        name: going_on(programs[name], begin(bench.variables(model)), batch, bench.key, times=BUNDLE)
        for name, (model, _, begin) in bench.steps.items()
    }
    interleaved_seconds(calls, 2)  # warm-up
    seconds = {name: x / BUNDLE for name, x in interleaved_seconds(calls, rounds).items()}
    memory = {name: held(programs[name]) for name in calls}
    for name, (model, *_) in bench.steps.items():
        flops = 2 * STEP * case.batch * bench.macs(model)
        yield [
            f"{case.title}, batch {case.batch}", name, *timed(seconds[name], case, case.batch),
            times(seconds, name, "training"), share(flops, seconds[name], peak), f"{memory[name] / 1e9:.2f}",
            f"{memory[name] / memory['training']:.3f}",
        ]  # fmt: skip


def held(program: Any) -> int:
    """Bytes of a program on the device: what it is given, makes and needs in between, donated buffers once."""
    m = program.memory_analysis()
    return m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes - m.alias_size_in_bytes


def forward_rows(bench: Bench, programs: Mapping[Any, Any], rounds: int, peak: float) -> Iterator[list[str]]:
    """Rows of the full network's and the smaller one's forward passes."""
    case, compared = bench.case, {"full": bench.full, "half the MACs": bench.small}
    variables = {name: half(bench.variables(model)) for name, model in compared.items()}
    for size in case.forward:
        inputs = bench.inputs(size)
        calls = {
            name: partial(repeated, programs[size, model], variables[name], inputs) for name, model in compared.items()
        }
        interleaved_seconds(calls, 2)
        seconds = {name: x / BUNDLE for name, x in interleaved_seconds(calls, rounds).items()}
        for name, model in compared.items():
            flops = 2 * FORWARD * size * bench.macs(model)
            yield [
                f"{case.title}, batch {size}", name, *timed(seconds[name], case, size), times(seconds, name, "full"),
                share(flops, seconds[name], peak),
            ]  # fmt: skip


def repeated(program: Callable[..., Any], *arguments: Any) -> Any:
    """Some calls in a row, one result at a time."""
    result = None
    for _ in range(BUNDLE):
        result = program(*arguments)
    return result


def alone_rows(bench: Bench, programs: Mapping[Any, Any]) -> Iterator[list[str]]:
    """The row of a whole search of the ratios alone; compilation is not in it."""
    case = bench.case
    if not case.alone:
        return
    state = jax.block_until_ready(bench.alone.init(bench.variables(bench.full)))
    call = going_on(programs[ALONE], state, bench.batch(), bench.key, times=case.alone)
    seconds = interleaved_seconds({ALONE: call}, 1)[ALONE]
    yield [f"{case.title}, batch {case.batch}", f"{case.alone} steps", f"{seconds[0]:.1f}"]


def timed(seconds: np.ndarray, case: Case, batch: int) -> list[str]:
    """A call's milliseconds, and the samples a second."""
    rate = case.samples(batch) / np.median(seconds)
    return [spread(1e3 * seconds, 2), f"{rate:,.0f} {case.unit}"]


def times(seconds: Mapping[str, np.ndarray], name: str, base: str) -> str:
    """How many times the seconds of `base`."""
    return f"{np.median(seconds[name]) / np.median(seconds[base]):.3f}"


def share(flops: float, seconds: np.ndarray, peak: float) -> str:
    """Of the peak, FLOP/s."""
    return f"{100 * flops / np.median(seconds) / peak:.0f} %"


if __name__ == "__main__":
    exit_on_user_error(lambda: main(parse(Options, description=__doc__)))()
