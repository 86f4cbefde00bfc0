"""The main job in this process, with a network that compiles in a second: what its tests share."""

import pytest

from dms_jax import models
from dms_jax.errors import exit_on_user_error
from dms_jax.training import latency
from experiments import digits_search
from tests import tiny

FOUND = "found by DMS"
SHORT = ["--model=tiny", "--steps=6", "--pretrain-steps=3", "--finetune-steps=3", "--batch=16"]


def make_quick(patch):
    """A tiny model beside the zoo's, and no time for latency, which has tests of its own."""
    patch.setitem(models.MODELS, "tiny", tiny.make)
    patch.setattr(latency, "rows", lambda networks, *_: {name: {"1": 1.0, "64": 2.0} for name in networks})


def refused(capsys, *flags):
    """Run main as a program does, and return the one line of its end."""
    with pytest.raises(SystemExit) as end:
        exit_on_user_error(digits_search.main)([*flags])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == ""
    line = err.splitlines()[-1]
    assert line.startswith("error: ") and "Traceback" not in err
    return line, err.splitlines()[:-1]
