"""What is taken for a number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dms_jax import UserError, checks
from dms_jax.training.checkpoints import Checkpoints


@given(st.text(st.characters(categories=["Nd"]) | st.sampled_from("0123456789 _+-"), max_size=6))
def test_digits_are_those_of_ascii(text):
    assert checks.digits(text) == (bool(text) and all(c in "0123456789" for c in text))


@pytest.mark.parametrize("name", ["\u0663", "\uff17", "1_0", " 7"])
def test_a_folder_in_the_digits_of_another_script_is_no_step(tmp_path, name):
    (tmp_path / name).mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore({"w": 0}) is None
    assert (tmp_path / name).is_dir()  # nor set aside as a damaged one


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_a_flag_is_true_or_false(value):
    with pytest.raises(UserError, match="is not possible; give True or False"):
        checks.flag("effects", value)
    assert checks.flag("effects", True) is True
