"""The quick form of the campaign: a few drawn cases of every kind, none of them wrong."""

import pytest

from tests.faults.directories import damaged, roles, templates
from tests.faults.moments import full_disk, killed, raced
from tests.faults.outside import commanded, lied_to
from tests.faults.tally import table

QUICK = {damaged: 40, lied_to: 400, commanded: 60, raced: 200, full_disk: 6, killed: 3}
SEED = 1


@pytest.mark.parametrize("kind", QUICK, ids=lambda kind: kind.__name__)
def test_no_case_is_wrong(kind, capsys):
    tally = kind(SEED, QUICK[kind])
    with capsys.disabled():
        print(f"\n{table([tally])}")
    assert tally.tried == QUICK[kind] == tally.right + tally.refused + len(tally.wrong)
    assert tally.wrong == []


def test_a_case_is_the_same_whenever_it_is_drawn():
    from tests.faults.tally import draws

    first, again = ([draw.integers(10**9) for _, draw in draws("a", 3, 5)] for _ in range(2))
    assert first == again != [draw.integers(10**9) for _, draw in draws("b", 3, 5)]


def test_a_case_damages_the_same_role_whenever_it_is_drawn():
    first, again = (list(roles(made / "run-0-2")) for made in (templates(), templates.__wrapped__()))
    assert first == again and any("*" in role for role in first)


def test_a_wrong_case_is_counted():
    from tests.faults.tally import Tally

    tally = Tally("made up")
    for error in (AssertionError("other weights"), KeyError("x"), RecursionError()):
        with tally.case("it"):
            raise error
    assert len(tally.wrong) == 3 and "other weights" in tally.wrong[0] and tally.right == tally.refused == 0
