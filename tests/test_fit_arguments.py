"""What `fit` refuses before it claims a run directory: every argument by itself, with values that it cannot have."""

import jax
import pytest

from dms_jax import fit_arguments
from dms_jax.errors import UserError
from tests.test_fit import fit

IMPOSSIBLE = {
    "workdir": ["", 3, None],
    "evaluate": [3, lambda fn: 1.0],
    "pretrain": [-1, 1.5, True, None],
    "finetune": [-1, 1.5, "3"],
    "compare": ["no", 1],
    "retrain": ["new", None],
    "fresh": [3, lambda structure: None],
    "resources": [3, (3,), "macs"],
    "calibrate": [-1, 0.5],
    "average": [1.0, -0.1, "x", float("nan")],
    "seed": [-1, 1.5, "x", 2**32],
    "devices": [[], "cpu", jax.devices()[0], [0]],
    "title": [3],
    "data": [None, 3],
    "command": [3, ["python"]],
    "latency_batches": [3, (0,), (1.5,)],
    "identity": [3, {"rate": object()}, {1: 2}],
}


@pytest.mark.parametrize("name", sorted(fit_arguments.POSSIBLE))
def test_an_impossible_argument_is_named_before_anything_is_written(tmp_path, name):
    for value in IMPOSSIBLE[name]:
        with pytest.raises(UserError, match=f"^{name} "):
            fit(**{"directory": tmp_path / "run", name: value})
        assert not list(tmp_path.iterdir())
