"""The axis algebra against an oracle that knows every single position: an explicit union-find."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from dms_jax.program.axes import UNIT, Atom, Axis, Concat, Product, Ties, atoms, concat, product, resolve


class Positions:
    """Union-find over (atom, position): what the algebra says in one stroke, said position by position."""

    def __init__(self, sources: list[Atom]):
        self.parent: dict[tuple[int, int], tuple[int, int]] = {}
        self.number = {atom: i for i, atom in enumerate(sources)}

    def find(self, x: tuple[int, int]) -> tuple[int, int]:
        while self.parent.get(x, x) != x:
            x = self.parent[x]
        return x

    def union(self, x: tuple[int, int], y: tuple[int, int]) -> None:
        self.parent[self.find(x)] = self.find(y)


class Term:
    """An axis beside the set of source positions that each of its positions depends on."""

    def __init__(self, axis: Axis, positions: list[frozenset[tuple[int, int]]]):
        self.axis, self.positions = axis, positions
        assert axis.size == len(positions)


def _concat(terms: list[Term]) -> Term:
    return Term(concat(t.axis for t in terms), [p for t in terms for p in t.positions])


def _product(terms: list[Term]) -> Term:
    total = [frozenset()]
    for term in terms:
        total = [a | b for a in total for b in term.positions]
    return Term(product(t.axis for t in terms), total)


def kept_positions(axis: Axis, gone: set[tuple[Atom, int]]) -> np.ndarray:
    """`[size]` bool: which positions stay when single positions of unbound atoms go."""
    axis = resolve(axis)
    if isinstance(axis, Atom):
        return np.array([(axis, i) not in gone for i in range(axis.size)], bool)
    if isinstance(axis, Concat):
        return np.concatenate([kept_positions(part, gone) for part in axis.parts])
    total = np.ones(1, bool)
    for factor in axis.factors:
        total = np.logical_and.outer(total, kept_positions(factor, gone)).reshape(-1)
    return total


@st.composite
def concatenations(draw):
    """Atoms, two ways to lay some of them end to end with equal sizes, several times over: pure concatenations."""
    n = draw(st.integers(4, 24))
    sources: list[Atom] = []
    pairs = []
    for _ in range(draw(st.integers(1, 4))):
        sides = []
        for _ in range(2):
            left, parts = n, []
            while left:
                old = [a for a in sources if a.size <= left]
                if old and draw(st.booleans()):
                    atom = draw(st.sampled_from(old))
                else:
                    atom = Atom(draw(st.integers(1, left)))
                    sources.append(atom)
                parts.append(atom)
                left -= atom.size
            sides.append(parts)
        pairs.append(sides)
    return sources, pairs


@hypothesis.settings(max_examples=200)
@hypothesis.given(concatenations())
def test_ties_of_concatenations_are_those_of_their_positions(program):
    """Any two concatenations of equal size can be tied exactly: nothing is irregular, nothing is frozen."""
    sources, pairs = program
    ties, oracle = Ties(), Positions(sources)
    number = {atom: i for i, atom in enumerate(sources)}
    for left, right in pairs:
        ties.tie(concat(left), concat(right), "test")
        flat = [[(number[a], i) for a in side for i in range(a.size)] for side in (left, right)]
        for x, y in zip(*flat, strict=True):
            oracle.union(x, y)
    where: dict[tuple[Atom, int], tuple[int, int]] = {}
    for i, source in enumerate(sources):
        position = 0
        for atom in atoms(resolve(source)):
            assert atom.frozen is None
            for j in range(atom.size):
                here = oracle.find((i, position))
                assert where.setdefault((atom, j), here) == here, "tied without a reason"
                position += 1
        assert position == source.size
    assert len(set(where.values())) == len(where), "a tie was lost"


@st.composite
def programs(draw):
    """Ties between composites of any kind. Every term is built from sources, sides have equal sizes."""
    sources = [Atom(n) for n in draw(st.lists(st.integers(1, 6), min_size=2, max_size=6))]
    known = [Term(a, [frozenset({(i, j)}) for j in range(a.size)]) for i, a in enumerate(sources)]
    for _ in range(draw(st.integers(2, 10))):
        parts = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
        made = _concat(parts) if draw(st.booleans()) else _product(parts)
        if made.axis.size <= 72:
            known.append(made)
    pairs = []
    for _ in range(draw(st.integers(1, 5))):
        a = draw(st.sampled_from(known))
        alike = [t for t in known if t.axis.size == a.axis.size and t is not a]
        if alike:
            pairs.append((a, draw(st.sampled_from(alike))))
        else:  # a new array, as a reshape makes it: split in a random way
            shape = draw(st.sampled_from(_factorings(a.axis.size)))
            fresh = [Atom(n) for n in shape]
            start = len(sources)
            sources.extend(fresh)
            terms = [Term(f, [frozenset({(start + k, j)}) for j in range(f.size)]) for k, f in enumerate(fresh)]
            pairs.append((a, _product(terms)))
            known.extend(terms)
    return sources, known, pairs


def _factorings(n: int) -> list[tuple[int, ...]]:
    return [(n,)] + [(d, n // d) for d in range(2, n) if n % d == 0]


@hypothesis.settings(max_examples=400)
@hypothesis.given(programs(), st.randoms(use_true_random=False))
def test_what_is_kept_agrees_on_both_sides_of_every_tie(program, random):
    """Take any position of any unfrozen unbound atom away: tied axes must lose the very same positions."""
    sources, known, pairs = program
    ties = Ties()
    for a, b in pairs:
        ties.tie(a.axis, b.axis, "test")
    for term in known:
        assert resolve(term.axis).size == len(term.positions)
    roots = {atom for source in sources for atom in atoms(resolve(source)) if atom is not UNIT}
    assert all(atom.bound is None for atom in roots)
    free = sorted(((atom, i) for atom in roots if atom.frozen is None for i in range(atom.size)), key=str)
    for _ in range(8):
        gone = {x for x in free if random.random() < 0.3}
        for a, b in pairs:
            np.testing.assert_array_equal(kept_positions(a.axis, gone), kept_positions(b.axis, gone))


@hypothesis.settings(max_examples=200)
@hypothesis.given(programs(), st.randoms(use_true_random=False))
def test_composites_keep_what_their_parts_keep(program, random):
    """A composite loses a position exactly when one of the source positions that it depends on goes."""
    sources, known, pairs = program
    ties = Ties()
    for a, b in pairs:
        ties.tie(a.axis, b.axis, "test")
    free = [a for s in sources for a in atoms(resolve(s)) if a.frozen is None and a is not UNIT]
    gone = {(a, i) for a in free for i in range(a.size) if random.random() < 0.3}
    alive = [kept_positions(source, gone) for source in sources]
    for term in known:
        expected = [all(alive[i][j] for i, j in needs) for needs in term.positions]
        np.testing.assert_array_equal(kept_positions(term.axis, gone), expected)


def test_freezing_reaches_through_ties_in_any_order():
    for freeze_first in (True, False):
        ties, a, b, c = Ties(), Atom(4), Atom(6), Atom(10)
        if freeze_first:
            ties.freeze(c, "sort")
        ties.tie(concat((a, b)), c, "concatenate")
        if not freeze_first:
            ties.freeze(c, "sort")
        assert [atom.frozen for atom in atoms(resolve(a))] == ["sort"]
        assert [atom.frozen for atom in atoms(resolve(b))] == ["sort"]


def test_irregular_ties_freeze_both_sides():
    ties, a, b, c, d = Ties(), Atom(4), Atom(3), Atom(6), Atom(2)
    left, right = product((a, b)), product((c, d))  # 4 x 3 == 6 x 2: neither fits into the other
    ties.tie(left, right, "reshape")
    assert all(atom.frozen == "reshape" for x in (left, right) for atom in atoms(resolve(x)))


def test_a_shift_by_one_ties_everything_together():
    ties, a, b, c = Ties(), Atom(1), Atom(5), Atom(1)
    ties.tie(concat((a, b)), concat((b, c)), "roll")
    assert len({id(atom) for x in (a, b, c) for atom in atoms(resolve(x))}) == 1


def test_a_part_of_size_one_is_an_axis_of_its_own():
    """(4 ++ 4) == (5 ++ 3): the fifth position is the first of one and the last of the other."""
    ties, a, b, c, d = Ties(), Atom(4), Atom(4), Atom(5), Atom(3)
    ties.tie(concat((a, b)), concat((c, d)), "concatenate")
    (*_, last), (first, *_) = atoms(resolve(c)), atoms(resolve(b))
    assert last is first and last.size == 1


def test_broadcasting_axes_are_never_tied():
    ties, one = Ties(), Atom(1)
    ties.tie(UNIT, one, "add")
    assert UNIT.bound is None and UNIT.frozen is None
    assert one.bound is None and one.frozen == "add"  # what an array has as an axis cannot go


def test_normal_forms():
    a, b, c = Atom(2), Atom(3), Atom(5)
    assert concat((a,)) is a and product((a, UNIT)) is a and product(()) is UNIT
    nested = concat((concat((a, b)), Atom(0), c))
    assert isinstance(nested, Concat) and nested.parts == (a, b, c) and nested.size == 10
    spread = product((concat((a, b)), c))
    assert isinstance(spread, Concat) and [p.size for p in spread.parts] == [10, 15]
    merged = product((product((a, b)), c))
    assert isinstance(merged, Product) and merged.factors == (a, b, c) and merged.size == 30


def test_path_names_the_operations_between_two_axes():
    ties, a, b, c = Ties(), Atom(4), Atom(4), Atom(4)
    ties.tie(a, b, "mul")
    ties.tie(b, c, "dot_general")
    assert ties.path(a, c) == ["mul", "dot_general"]
    assert ties.path(a, a) == []
    assert ties.path(a, Atom(4)) == []


@pytest.mark.parametrize("n", [1000])
def test_long_chains_resolve(n):
    ties, first = Ties(), Atom(8)
    last = first
    for _ in range(n):
        nxt = Atom(8)
        ties.tie(nxt, last, "add")
        last = nxt
    assert resolve(last) is resolve(first)


def test_a_long_axis_tied_to_itself_shifted_is_frozen():
    """What every language model's loss does with its tokens: x[:, :-1] beside x[:, 1:]."""
    ties, a, b, c = Ties(), Atom(1), Atom(4096), Atom(1)
    ties.tie(concat((a, b)), concat((b, c)), "a loss")
    assert resolve(b) is b and b.frozen == "a loss"
