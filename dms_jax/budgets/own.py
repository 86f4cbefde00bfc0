"""Resources of one's own: any function from counts of kept elements to a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax import checks
from dms_jax.budgets import amounts
from dms_jax.budgets.fitted import Fitted
from dms_jax.budgets.measured import Measured, real
from dms_jax.budgets.resource import Cost, Network, Sized
from dms_jax.errors import UserError, one_line, shortened
from dms_jax.program.axes import atoms, resolve

RESERVED = frozenset(
    "accuracy also importance_skipped latency_ms loss macs name note params phase quality stderr step steps".split()
)
"""What else stands beside resources in results and in metrics.jsonl, and those that reports write sentences of."""
RESERVED_ENDS = (("weight_", ""), ("", "_target"))
"""How the metrics of a budget are called: `weight_macs` and `macs_target` stand beside `macs`."""

_NEAR_ONE = 1e-3
"""How far from 1 a share of the full network may be."""

MOST_KNOWN = 2**16
"""Values that are kept, of the function of one resource."""


@dataclass(frozen=True, eq=False)
class Resource:
    """A number that a function of counts gives, to be bounded like MACs: `space.with_resources(resource)`.

    Args:
      name: as in a budget, {"energy": 0.5}.
      unit: what it is counted in: "mJ". A budget "3 mJ" is absolute.
      exact: from {group: number of elements kept} to a number of at least 0. Elements of a group that went with a
        removed block, or with all layers of a scan, are not there: the group has 0. The depth groups count blocks. The
        projection asks this function alone, so steps in it are used to the last element, and more elements may cost
        less than fewer do.
      fraction: from {group: kept, real, float32 []} to the share of the full network's, by JAX: a number, 1 where all
        elements are kept; what the search follows. None: a smooth function that never falls is fitted to `exact` at
        random counts.
      measure: from the network of a structure (`dms_jax.budgets.Sized`: function, shapes of parameters and inputs, kept
        elements) to what it really has, in the unit. `exact`, scaled to the full network's, is then a prediction: the
        structure that comes out is within its budget as measured. None: `exact` is the truth.

    Raises:
      UserError: a name that is no identifier or stands for something else already, no unit, or what is no function of
        one argument.
    """

    name: str
    unit: str
    exact: Callable[[Mapping[str, int]], float]
    fraction: Callable[[Mapping[str, jax.Array]], jax.Array] | None = None
    measure: Callable[[Sized], float] | None = None

    def __post_init__(self):
        named = isinstance(self.name, str) and self.name.isidentifier() and len(self.name) <= 64
        if not named:
            raise UserError(
                f"resource name {shortened(repr(self.name), 60)} is not possible; give an identifier: energy"
            )
        if self.name in RESERVED or any(self.name.startswith(a) and self.name.endswith(b) for a, b in RESERVED_ENDS):
            raise UserError(f"resource name {self.name} stands for something else in results; give another: energy")
        if not amounts.is_unit(self.unit):
            raise UserError(
                f"unit {shortened(repr(self.unit), 60)} of {self.name} is not possible; give one that begins with a "
                "letter, with no space around it, and that is no prefix such as k: mJ"
            )
        checks.called(f"exact of {self.name}", self.exact, "counts")
        if self.fraction is not None:
            checks.called(f"fraction of {self.name}", self.fraction, "counts")
        if self.measure is not None:
            checks.called(f"measure of {self.name}", self.measure, "sized")

    def __call__(self, network: Network) -> Cost:
        """The resource of one network.

        Raises:
          UserError: the full network's is not above 0.
        """
        counted = Counted(self, Counts(network))
        return counted if self.measure is None else Measured(counted, self.measure, network)


class Counts:
    """From variables of a network to numbers of kept elements of every group."""

    def __init__(self, network: Network):
        variables = network.variables
        self.sizes = variables.sizes
        self.of_group = {name: np.unique(numbers[numbers > 0]) for name, numbers in variables.of_elements.items()}
        of_variable = {int(v): name for name, numbers in self.of_group.items() for v in numbers}
        behind: dict[str, list[frozenset[tuple[str, int]]]] = {name: [] for name in self.of_group}
        together, beside = set(), []
        for value, gates in network.parameters.items():
            found = {
                of_variable[variables.of_atom[a]]
                for x in value.axes
                for a in atoms(resolve(x))
                if a in variables.of_atom
            }
            beside.append(found)
            for name in found:
                behind[name].append(gates)
            together |= {(a, b) for a in found for b in found if a < b}
        self.together = sorted(together)
        self.rows = {name: self._rows(name, beside, network.least) for name in self.of_group}
        self.gates = {
            name: [variables.of_gate[g] for g in sorted(reduce(frozenset.intersection, each)) if g in variables.of_gate]
            if each
            else []
            for name, each in behind.items()
        }

    @staticmethod
    def _rows(name: str, beside: Sequence[set[str]], least: Mapping[str, int]) -> list[str]:
        """Groups of layers in whose rows all parameters of a group lie: without a layer its elements are not there."""
        arrays = [groups for groups in beside if name in groups]
        return sorted(g for g in set.intersection(*arrays) if g != name and least[g] == 0) if arrays else []

    def __call__(self, counts: Any) -> dict[str, Any]:
        """{group: [...]} of counts `[..., variables]`, whole or soft: 0 where its block is removed."""
        totals = {name: counts[..., numbers].sum(axis=-1) for name, numbers in self.of_group.items()}
        kept = {}
        for name, total in totals.items():
            for gate in self.gates[name]:
                total = total * counts[..., gate]
            for row in self.rows[name]:
                total = total * totals[row].clip(0, 1)
            kept[name] = total
        return kept


@dataclass(frozen=True, eq=False)
class Counted:
    """A user's resource of one network."""

    resource: Resource
    counts: Counts

    def __post_init__(self):
        if not self.full > 0:
            raise UserError(f"resource {self.name} is {self.full} for the full network; it must be above 0")
        if self.resource.fraction is not None:
            self._check_fraction(self.resource.fraction)

    def _check_fraction(self, fraction: Callable[[Mapping[str, jax.Array]], jax.Array]) -> None:
        """The share is a number, 1 for the full network, and has a slope: there, and with half of all elements."""
        for share in (1.0, 0.5):
            counts = jnp.asarray(share * self.counts.sizes, jnp.float32).at[0].set(1.0)
            where = "the full network" if share == 1 else "half of the elements"
            try:
                found, slope = jax.jit(jax.value_and_grad(lambda counts: fraction(self.counts(counts))))(counts)
            except Exception as error:
                raise UserError(
                    f"fraction of {self.name} cannot be followed ({type(error).__name__}: {one_line(error, 160)}); "
                    "give a function by JAX from {group: float32 []} to one real number"
                ) from error
            if not (np.isfinite(found) and np.all(np.isfinite(slope))):
                raise UserError(f"fraction of {self.name}, or its slope, is no number for {where} ({found})")
            if share == 1 and not abs(float(found) - 1) <= _NEAR_ONE:
                raise UserError(
                    f"fraction of {self.name} is {float(found):g} for the full network; it is a share of what that "
                    f"has, {self.full:g} {self.unit}: divide by it, say"
                )

    @property
    def name(self) -> str:
        """As in a budget."""
        return self.resource.name

    @property
    def unit(self) -> str:
        """What it is counted in."""
        return self.resource.unit

    @property
    def full(self) -> float:
        """That of the full network."""
        return float(self.exact(self.counts.sizes))

    @property
    def stepped(self) -> bool:
        """A function of one's own may be a table."""
        return True

    @property
    def note(self) -> str:
        """How well the fit is, where there is one."""
        return "" if self.resource.fraction is not None else self._fit.note

    @cached_property
    def _known(self) -> dict[tuple[int, ...], float]:
        return {}

    def exact(self, counts: np.ndarray) -> np.ndarray:
        """Values at integer counts `[..., variables]`, float64."""
        kept = self.counts(np.asarray(counts))
        rows = np.stack([np.asarray(each) for each in kept.values()], axis=-1)
        found = [self._one(tuple(row)) for row in rows.reshape(-1, len(kept)).tolist()]
        return np.array(found, np.float64).reshape(rows.shape[:-1])

    def _one(self, row: tuple[int, ...]) -> float:
        if row not in self._known:
            try:
                value = self.resource.exact(dict(zip(self.counts.of_group, row, strict=True)))
            except Exception as error:
                raise UserError(
                    f"exact of {self.name} fails ({type(error).__name__}: {one_line(error, 160)}); it is called with "
                    f"{{group: number of elements kept}}, of {', '.join(list(self.counts.of_group)[:6])}, ..."
                ) from error
            number = real(value)
            if number is None:
                counts = dict(zip(self.counts.of_group, row, strict=True))
                raise UserError(
                    f"resource {self.name} is {shortened(repr(value), 60)} at {shortened(str(counts), 200)}; its "
                    "function must give a number of at least 0"
                )
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[row] = number
        return self._known[row]

    def fraction(self, counts: jax.Array) -> jax.Array:
        """The share of the full network's at real counts `[variables]`, float32, differentiable."""
        kept = self.counts(counts)
        if self.resource.fraction is None:
            return self._fit(kept)
        return jnp.asarray(self.resource.fraction(kept), jnp.float32)

    @cached_property
    def _fit(self) -> Fitted:
        return Fitted.of(self.counts(self.counts.sizes), self.counts.together, self.samples, self.full)

    def samples(self, draw: Callable[[int], np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Counts of every group and exact values, at shares `[samples, variables]` of what there is."""
        sizes = self.counts.sizes
        drawn = np.rint(draw(len(sizes)) * sizes).astype(np.int64)
        drawn[:, 0] = 1
        return self.counts(drawn), self.exact(drawn)
