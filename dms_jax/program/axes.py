"""The axis algebra: which axes of a program have equal positions, and how one is made of others.

An axis is an `Atom` (positions nobody has looked into), a `Concat` of axes laid end to end, or a `Product` of axes
in row-major order. `tie` says that two axes have the same positions; atoms are then bound to each other or to what
they turned out to be made of, so sizes and kept positions of composites follow from their parts.

An atom may be *frozen*: some operation gives its positions a meaning (an index, a window, an operation without a
rule), so nothing may be taken out of it. That is harmless until a group of elements turns out to live there.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeAlias


class Atom:
    """`size` positions with no known inner structure. `bound` is what it was tied to, `frozen` why it is fixed.

    Of two atoms that are tied, the older stands for both: what owns it stays valid when more of a program is read.
    """

    __slots__ = ("size", "bound", "frozen", "number")
    _numbers = itertools.count()

    def __init__(self, size: int):
        self.size = int(size)  # numpy's among parameters of operations do not go into files
        self.number = next(Atom._numbers)
        self.bound: Axis | None = None
        self.frozen: Any = None


@dataclass(frozen=True, eq=False)
class Concat:
    """Axes laid end to end; the size is the sum."""

    parts: tuple[Axis, ...]
    size: int = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "size", sum(part.size for part in self.parts))


@dataclass(frozen=True, eq=False)
class Product:
    """Axes merged in row-major order (the last varies fastest); the size is the product."""

    factors: tuple[Axis, ...]
    size: int = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "size", prod(factor.size for factor in self.factors))


Axis: TypeAlias = Atom | Concat | Product

MOST_PERIODS = 32
"""How often a shift may fit into an axis that is tied to itself, shifted; one that is longer is frozen instead."""

UNIT = Atom(1)  # every axis of size 1 of an array: it says nothing about positions, so it is never tied


def concat(parts: Iterable[Axis]) -> Axis:
    """Lay axes end to end: nested concatenations are flattened, empty parts dropped."""
    flat: list[Axis] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Concat) else (part,) if part.size else ())
    return flat[0] if len(flat) == 1 else Concat(tuple(flat))


def product(factors: Iterable[Axis]) -> Axis:
    """Merge axes: nested products are flattened, units dropped, a leading concatenation distributed."""
    flat: list[Axis] = []
    for factor in factors:
        flat.extend(factor.factors if isinstance(factor, Product) else (factor,) if factor is not UNIT else ())
    if not flat:
        return UNIT
    if len(flat) == 1:
        return flat[0]
    head, *rest = flat
    if isinstance(head, Concat):  # (a ++ b) x c == (a x c) ++ (b x c), since the first factor varies slowest
        return concat(product((part, *rest)) for part in head.parts)
    return Product(tuple(flat))


def resolve(axis: Axis) -> Axis:
    """The axis in terms of unbound atoms, in normal form."""
    if isinstance(axis, Atom):
        if axis.bound is None:
            return axis
        axis.bound = resolve(axis.bound)  # path compression
        return axis.bound
    if isinstance(axis, Concat):
        return concat(resolve(part) for part in axis.parts)
    return product(resolve(factor) for factor in axis.factors)


def atoms(axis: Axis) -> Iterator[Atom]:
    """The atoms of an axis as it stands (call `resolve` first for the unbound ones), repeated ones repeatedly."""
    if isinstance(axis, Atom):
        yield axis
    else:
        for part in axis.parts if isinstance(axis, Concat) else axis.factors:
            yield from atoms(part)


class Irregular(Exception):
    """Two composites whose boundaries do not fit into each other."""


def _split(axis: Axis, at: int) -> tuple[Axis, Axis]:
    """Cut a resolved axis after its first `at` positions."""
    if isinstance(axis, Atom):
        first, second = Atom(at), Atom(axis.size - at)
        first.frozen = second.frozen = axis.frozen
        axis.bound = Concat((first, second))
        return first, second
    if isinstance(axis, Concat):
        before: list[Axis] = []
        for i, part in enumerate(axis.parts):
            if at < part.size:
                left, right = _split(part, at) if at else (concat(()), part)
                return concat((*before, left)), concat((right, *axis.parts[i + 1 :]))
            before.append(part)
            at -= part.size
    if isinstance(axis, Product):
        head, rest = axis.factors[0], axis.factors[1:]
        step = prod(factor.size for factor in rest)
        if at % step == 0:
            left, right = _split(head, at // step)
            return product((left, *rest)), product((right, *rest))
    raise Irregular


def _offsets(axis: Concat) -> Iterator[tuple[Axis, int]]:
    """Every part and where it begins."""
    start = 0
    for part in axis.parts:
        yield part, start
        start += part.size


def _take(parts: list[Axis], kind: type[Concat] | type[Product]) -> Axis:
    """Remove the first of `parts`; one that was tied to a composite of the same kind meanwhile is opened first."""
    first = resolve(parts.pop(0))
    if isinstance(first, kind):
        first, *more = first.parts if isinstance(first, Concat) else first.factors
        parts[:0] = more
    return first


class Ties:
    """All ties of one program, with the operations that made them (for `explain`)."""

    def __init__(self):
        self._edges: dict[Atom, list[tuple[Atom, Any]]] = {}

    def tie(self, a: Axis, b: Axis, why: Any) -> None:
        """State that position i of `a` is position i of `b`, because of the operation `why`."""
        if a is b:
            return
        self._note(a, b, why)
        self._unify(a, b, why)

    def freeze(self, axis: Axis, why: Any) -> None:
        """State that nothing may be taken out of `axis`, because of `why`."""
        for atom in atoms(resolve(axis)):
            if atom is not UNIT and atom.frozen is None:
                atom.frozen = why

    def path(self, start: Axis, goal: Axis) -> list[Any]:
        """The operations of a shortest chain of ties between two axes, without repetitions next to each other."""
        goals = set(atoms(goal))
        queue: deque[tuple[Atom, tuple[Any, ...]]] = deque((atom, ()) for atom in atoms(start))
        seen = {atom for atom, _ in queue}
        while queue:
            atom, chain = queue.popleft()
            if atom in goals:
                return [why for i, why in enumerate(chain) if i == 0 or why is not chain[i - 1]]
            for other, why in self._edges.get(atom, ()):
                if other not in seen:
                    seen.add(other)
                    queue.append((other, (*chain, why)))
        return []

    def splits(self, axis: Axis) -> Any:
        """The operation that split an axis into factors."""
        chain = self.path(axis, resolve(axis))
        return chain[-1] if chain else "an operation"

    def _note(self, a: Axis, b: Axis, why: Any) -> None:
        for x in atoms(a):
            for y in atoms(b):
                self._edges.setdefault(x, []).append((y, why))
                self._edges.setdefault(y, []).append((x, why))

    def _unify(self, a: Axis, b: Axis, why: Any) -> None:
        a, b = resolve(a), resolve(b)
        if a is b:
            return
        if a is UNIT or b is UNIT:  # nothing may take an axis of an array away
            self.freeze(a, why)
            self.freeze(b, why)
            return
        if isinstance(a, Atom):
            self._bind(a, b, why)
            return
        if isinstance(b, Atom):
            self._bind(b, a, why)
            return
        try:
            if isinstance(a, Concat):
                self._unify_concats(a, b, why) if isinstance(b, Concat) else self._unify_mixed(a, b, why)
            else:
                self._unify_mixed(b, a, why) if isinstance(b, Concat) else self._unify_products(a, b, why)
        except Irregular:
            self.freeze(a, why)
            self.freeze(b, why)

    def _bind(self, atom: Atom, axis: Axis, why: Any) -> None:
        if any(inner is atom for inner in atoms(axis)):  # tied to a part of itself: only equal sizes can be, so
            self.freeze(axis, why)  # the rest is empty or the program is irregular
            return
        if isinstance(axis, Atom) and axis.number > atom.number:
            atom, axis = axis, atom
        atom.bound = axis
        if not isinstance(axis, Atom):
            self._note(atom, axis, why)
        if atom.frozen is not None:
            self.freeze(axis, atom.frozen)

    def _unify_concats(self, a: Concat, b: Concat, why: Any) -> None:
        at = dict(_offsets(a))
        shifts = ((part.size, abs(at.get(part, start) - start)) for part, start in _offsets(b))
        if any(shift and size > MOST_PERIODS * shift for size, shift in shifts):
            raise Irregular  # position i is position i + k all along (x[1:] beside x[:-1]): hardly a group of elements
        left: list[Axis] = list(a.parts)
        right: list[Axis] = list(b.parts)
        while left:
            p, q = _take(left, Concat), _take(right, Concat)
            if p.size > q.size:
                p, more = _split(p, q.size)
                left.insert(0, more)
            elif q.size > p.size:
                q, more = _split(q, p.size)
                right.insert(0, more)
            self._unify(p, q, why)

    def _unify_products(self, a: Product, b: Product, why: Any) -> None:
        left: list[Axis] = list(a.factors)
        right: list[Axis] = list(b.factors)
        while left and right:
            p, q = _take(left, Product), _take(right, Product)
            if (p.size == 1) != (q.size == 1):  # a single position times the rest: it has no counterpart
                lone, other, side = (p, q, right) if p.size == 1 else (q, p, left)
                self.freeze(lone, why)
                side.insert(0, other)
                continue
            if p.size > q.size:
                p, more = self._factor(p, q.size, why)
                left.insert(0, more)
            elif q.size > p.size:
                q, more = self._factor(q, p.size, why)
                right.insert(0, more)
            self._unify(p, q, why)
        for rest in (*left, *right):  # one position each, with no counterpart
            self.freeze(rest, why)

    def _factor(self, axis: Axis, major: int, why: Any) -> tuple[Axis, Axis]:
        """Write a resolved axis as a product of an axis of size `major` and a rest."""
        if isinstance(axis, Product) or axis.size % major:
            raise Irregular
        first, second = Atom(major), Atom(axis.size // major)
        if isinstance(axis, Concat):  # a x r ++ b x r == (a ++ b) x r: the rest is the same in every part
            self._unify_mixed(axis, Product((first, second)), why)
        else:
            first.frozen = second.frozen = axis.frozen
            axis.bound = Product((first, second))
        return first, second

    def _unify_mixed(self, a: Concat, b: Product, why: Any) -> None:
        """(a ++ b ++ ...) == f x rest: cut f where the parts end; each part is then a piece of f times the rest."""
        head, rest = b.factors[0], b.factors[1:]
        step = prod(factor.size for factor in rest)
        for part in a.parts[:-1]:
            if part.size % step:
                raise Irregular
            piece, head = _split(resolve(head), part.size // step)
            self._unify(part, product((piece, *rest)), why)
        self._unify(a.parts[-1], product((head, *rest)), why)
