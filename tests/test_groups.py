"""Kinds of groups, and what is none."""

import pytest

from dms_jax import UserError
from dms_jax.groups import KINDS, Group


def test_groups_are_of_a_kind_that_there_is():
    assert {name: kind.sharpness for name, kind in KINDS.items()} == {
        "width": 1.0, "features": 1.0, "heads": 4.0, "depth": 4.0,
    }  # fmt: skip
    assert Group("x", 6, "heads", 1).sharpness == 24 and Group("x", 1, "depth", 0).sharpness == 8
    for wrong, message in (
        (("x", 6, "zzz", 1), "group 'x' of kind 'zzz' is not possible; there are width, features, heads, depth"),
        (("x", 6, "width", 1.5), "least 1.5 of group 'x' is not possible"),
        (("x", 0, "width", 0), "size 0 of group 'x' is not possible"),
    ):
        with pytest.raises(UserError, match=message):
            Group(*wrong)  # pyright: ignore[reportArgumentType]


def test_what_a_kind_means():
    """As METHOD has it: heads and depth are sharper and settle first; depth moves alone, may go, and is no axis."""
    early = {name for name, kind in KINDS.items() if kind.settles_early}
    alone = {name for name, kind in KINDS.items() if not kind.moves_together}
    assert early == {"heads", "depth"} and alone == {"depth"}
    assert {name for name, kind in KINDS.items() if kind.least == 0} == {"depth"}
    assert {name for name, kind in KINDS.items() if not kind.counts_towards_multiple} == {"depth"}
