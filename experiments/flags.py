"""What command lines of several experiments share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_type_hints

import tyro

from dms_jax import baselines, budgets
from dms_jax.errors import UserError
from dms_jax.method.limits import Limits
from dms_jax.method.strategy import Strategy
from dms_jax.training import processes
from dms_jax.training.sizes import Sizes
from dms_jax.training.trial import check_sizes

if TYPE_CHECKING:
    StrategyName: TypeAlias = str
    ImportanceName: TypeAlias = str
    ResourceName: TypeAlias = str
else:  # whatever files `dms_jax.baselines` has
    StrategyName = tyro.extras.literal_type_from_choices(tuple(baselines.strategies()))
    ImportanceName = tyro.extras.literal_type_from_choices(tuple(baselines.importances()))
    ResourceName = tyro.extras.literal_type_from_choices(tuple(budgets.makers()))


def default(what: str) -> Any:
    """Help of a flag that is None unless given."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {what})")


_ALWAYS = ("macs", "params")
"""Names that jobs had from when there were these two alone; of others they say nothing."""


@dataclass(frozen=True)
class Asked:
    """Budgets on a command line: a flag for every file of `dms_jax.budgets`, and one for each of its options."""

    sizes: tuple[float, ...] = ()
    """Several sizes from one search, nested in one set of weights: --sizes 0.5 0.25 0.1, fractions of the full network.
    dms_jax.load(workdir, size=0.25) loads one."""
    sizes_of: ResourceName = "macs"
    """Resource that the sizes are fractions of; other budgets hold for every size."""
    sizes_apart: bool = False
    """Finetune every size separately, with weights of its own."""

    @property
    def amounts(self) -> dict[str, float | str]:
        """Those that are given, as `dms_jax.Search` takes them; of several sizes the smallest.

        Raises:
          UserError: sizes that are not possible.
        """
        asked = {name: getattr(self, name) for name in budgets.makers()}
        found = {name: value for name, value in asked.items() if value is not None}
        return found | ({self.sizes_of: min(self._several(found))} if self.sizes else {})

    def _several(self, budget: Mapping[str, Any]) -> tuple[float, ...]:
        if len(set(self.sizes)) < max(len(self.sizes), 2) or not all(0 < size <= 1 for size in self.sizes):
            given = " ".join(map(str, self.sizes))
            raise UserError(f"--sizes {given} is not possible; give two or more fractions in (0, 1], each once")
        if self.sizes_of in budget:
            raise UserError(f"--{self.sizes_of} and --sizes are one budget; give one of them")
        return self.sizes

    @property
    def family(self) -> Sizes | None:
        """The sizes, for a `Pipeline`; None: one alone.

        Raises:
          UserError: flags of sizes, and no sizes.
        """
        if not self.sizes:
            if self.sizes_apart or self.sizes_of != "macs":
                raise UserError("--sizes-apart and --sizes-of are of several sizes; give --sizes 0.5 0.25, say")
            return None
        ordered = sorted(self.sizes, reverse=True)
        return Sizes({size: {self.sizes_of: size} for size in ordered}, together=not self.sizes_apart)

    def amounts_of_sizes(self, budget: Mapping[str, Any]) -> Mapping[str, Any]:
        """A budget as `dms_jax.fit` takes it: with all amounts of the sizes, where there are several."""
        return {**budget, self.sizes_of: tuple(sorted(self.sizes, reverse=True))} if self.sizes else budget

    def resources(self, budget: Iterable[str]) -> tuple[Any, ...]:
        """Resources with options other than usual, for `SearchSpace.with_resources`.

        Args:
          budget: names of all that is bounded, here or elsewhere.

        Raises:
          UserError: an option that is not possible, or of what nothing is known until a budget names it and none does;
            or an amount that is none of what takes long to measure.
        """
        budgets.check(self.amounts)
        makers = {name: maker for name, maker in budgets.makers().items() if dataclasses.is_dataclass(maker)}
        found = [
            dataclasses.replace(maker, **{f.name: getattr(self, f"{name}_{f.name}") for f in dataclasses.fields(maker)})
            for name, maker in makers.items()
        ]
        changed = {name: made for name, made in zip(makers, found, strict=True) if made != makers[name]}
        idle = next((name for name in changed if name not in {*budget, *budgets.usual()}), None)
        if idle is not None:
            options = (f.name for f in dataclasses.fields(makers[idle]))
            given = next(o for o in options if getattr(changed[idle], o) != getattr(makers[idle], o))
            raise UserError(f"--{idle}-{given} is of a budget that is not given; give --{idle}, or leave it out")
        return tuple(changed.values())

    def identity(self, budget: dict[str, float | str]) -> dict[str, Any]:
        """What of it makes a job the one it is, with the budgets that hold."""
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        given = {name: value for name, value in dataclasses.asdict(self).items() if value != usual[name]}
        given |= {"sizes": sorted(self.sizes, reverse=True)} if self.sizes else {}
        return {**dict.fromkeys(_ALWAYS), **given, **budget}


def _flags_of_resources() -> list[tuple[str, Any, Any]]:
    """Name, type and default of every flag."""
    found = []
    for name, module in budgets.modules().items():
        what = (module.__doc__ or name).strip().splitlines()[0].rstrip(".")
        text = f"Budget. {what}. A fraction of the full network's, a number above 1, or one with a unit."
        kind = Annotated[float | str | None, tyro.conf.arg(help=text, metavar="FRACTION|NUMBER", help_behavior_hint="")]
        found.append((name, kind, None))
        if dataclasses.is_dataclass(module.resource):
            hints = get_type_hints(type(module.resource))
            for option in dataclasses.fields(module.resource):
                usual = option.metadata.get("default")
                hint = None if usual is None else f"(default: {usual})"
                kind = Annotated[
                    hints[option.name], tyro.conf.arg(help=option.metadata["help"], help_behavior_hint=hint)
                ]
                found.append((f"{name}_{option.name}", kind, getattr(module.resource, option.name)))
    return found


if TYPE_CHECKING:

    class Budgets(Asked):
        def __init__(self, **flags: Any) -> None: ...

else:
    Budgets = dataclasses.make_dataclass("Budgets", _flags_of_resources(), bases=(Asked,), frozen=True)


@dataclass(frozen=True)
class Searching:
    """How a search judges and chooses, and what its result must respect."""

    strategy: StrategyName = "dms"
    """Search strategy: the method (dms), or a baseline."""
    ratio_rate: Annotated[float | None, default("the strategy's")] = None
    """Mean learning rate of the structure parameters, times the search steps after the warm-up."""
    ratio_schedule: Annotated[Literal["cosine", "constant"] | None, default("the strategy's")] = None
    """Schedule of that learning rate: cosine, from twice the mean to 0, or constant, as in the paper."""
    ratio_together: Annotated[float | None, default("the strategy's")] = None
    """Fraction of that learning rate at which width and head ratios move together; 0, as in the paper: each alone."""
    ratio_slack: Annotated[float | None, default("the strategy's")] = None
    """Limit of |log(resources / target)| after the warm-up, narrowing to 0.09; inf, as in the paper: none."""
    ratio_on_target: bool = False
    """Keep resources on the target from both sides: every step solves for a common shift of the ratios."""
    block_effects: bool = False
    """Importance of blocks: the finite effect of their removal instead of the local gradient."""
    block_trial: int = 0
    """Finetuning steps after which the network that was found and the same with a block less are compared; the better
    one goes on. 0: no comparison."""
    importance: ImportanceName = "taylor"
    """Importance of elements; taylor_last: without the moving average."""
    resource_weight: Annotated[float | None, default("balance")] = None
    """Fixed weight of the resource loss, as in the paper, instead of balancing both losses."""
    freeze: tuple[str, ...] = ()
    """Groups to freeze at full size, by glob patterns: --freeze "stage3/*" stem."""
    min_size: dict[str, int] = field(default_factory=dict)
    """Minimum size of the groups that match, in pairs: --min-size "stage3/*" 8."""
    divisible_by: dict[str, int | Literal["auto"]] = field(default_factory=dict)
    """Sizes of the groups that match are multiples of a number, or of what is measured on this device ("auto"), depth
    excepted, in pairs: --divisible-by "*" 8."""

    def check(self, budgets: Asked) -> None:
        """Refuse what no search can be made of.

        Args:
          budgets: of the same command line.

        Raises:
          UserError: sizes that are none, or more than a trial is of; a weight or a rate that is not possible, flags
            that contradict each other, or one without effect.
        """
        check_sizes(self.block_trial, budgets.family)
        if self.resource_weight is not None and not 0 <= self.resource_weight < math.inf:
            raise UserError(
                f"--resource-weight {self.resource_weight} is not possible; give one of at least 0, or leave it out"
            )
        chosen = self.chosen  # which refuses what is no rate, or no share
        if self.importance != Searching.importance and not chosen.uses_importance:
            raise UserError(
                f"--importance {self.importance} is of no use to --strategy {self.strategy}, "
                "which does not look at importance; leave it out"
            )

    @property
    def chosen(self) -> Strategy:
        """The strategy, with what moves its parameters."""
        return baselines.create(
            self.strategy,
            rate=self.ratio_rate,
            schedule=self.ratio_schedule,
            together=self.ratio_together,
            slack=self.ratio_slack,
            on_target=self.ratio_on_target or None,
            effects=self.block_effects or None,
        )

    @property
    def options(self) -> dict[str, Any]:
        """What `dms_jax.Search` takes of it."""
        return {
            "limits": Limits(self.freeze, self.min_size, self.divisible_by),
            "importance": baselines.importances()[self.importance],
            "strategy": self.chosen,
            "resource_weight": self.resource_weight,
        }

    @property
    def identity(self) -> dict[str, Any]:
        """What of it makes a job the one it is, defaults filled in."""
        chosen = self.chosen
        filled = {
            "ratio_rate": chosen.rate,
            "ratio_schedule": chosen.schedule,
            "ratio_together": chosen.together,
        }
        if chosen.limit < math.inf:  # jobs from before have none
            filled["ratio_slack"] = chosen.limit
        given = dataclasses.asdict(self)
        del given["ratio_slack"]
        limits = [given.pop(name) for name in ("freeze", "min_size", "divisible_by")]
        weight = given.pop("resource_weight")  # the first run directories say "weight"
        off = [
            name for name in ("ratio_on_target", "block_effects", "block_trial") if not given[name]
        ]  # of jobs from before them
        kept = {name: value for name, value in given.items() if name not in off}
        return {**kept, **Limits(*limits).identity, "weight": weight, **filled}


@dataclass(frozen=True)
class Hosts:
    """Several processes; TPU slices and SLURM jobs say by themselves who takes part."""

    coordinator: Annotated[str | None, default("none: one process, or as the environment says")] = None
    """Coordinator address (HOST:PORT of process 0)."""
    processes: Annotated[int | None, default("as the environment says")] = None
    """Number of processes."""
    process: Annotated[int | None, default("as the environment says")] = None
    """Index of this process, from 0."""

    def join(self) -> None:
        """Find the others, before anything is computed; a process that is alone goes on alone.

        Raises:
          UserError: as `dms_jax.training.processes.initialize`.
        """
        processes.initialize(self.coordinator, self.processes, self.process)
