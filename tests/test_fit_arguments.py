"""What `fit` refuses before it claims a run directory: every argument by itself, with values that it cannot have."""

import json
from fractions import Fraction
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax import Importance, Limits, fit_arguments
from dms_jax.errors import UserError
from tests.test_fit import batch_of, fit

IMPOSSIBLE = {
    "workdir": ["", 3, None],
    "evaluate": [3, lambda fn: 1.0],
    "pretrain": [-1, 1.5, True, None],
    "finetune": [-1, 1.5, "3"],
    "trial": [-1, 1.5, True, None, "3"],
    "compare": ["no", 1],
    "retrain": ["new", None],
    "fresh": [3, lambda structure: None],
    "resources": [3, (3,), "macs"],
    "calibrate": [-1, 0.5],
    "average": [1.0, -0.1, "x", float("nan")],
    "steps": [0, 1.5, "8", None],
    "warmup": [-1, 0.5, "2"],
    "accumulate": [0, 1.5, "2"],
    "fsdp": [0, 1.5, "2"],
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


def test_numbers_of_other_kinds_are_those_that_python_has(tmp_path, capsys):
    """Whatever they are: the job is the one of Python's numbers, and is written down to its end."""
    given: dict[str, Any] = dict(
        steps=np.int64(3), pretrain=np.int32(1), finetune=jnp.int32(2), warmup=np.uint8(1), accumulate=np.int64(2),
        calibrate=np.int16(1), average=np.float32(0.9), seed=np.int64(5), budget={"macs": Fraction(1, 2)},
        resource_weight=jnp.float32(2), limits=Limits(min_size={"*": cast(int, np.int64(2))}),
        latency_batches=(np.int64(1),),
        importance=Importance(decay=np.float64(0.9)),
    )  # fmt: skip
    plain: dict[str, Any] = dict(
        steps=3, pretrain=1, finetune=2, warmup=1, accumulate=2, calibrate=1, average=0.9, seed=5,
        budget={"macs": 0.5}, resource_weight=2.0, limits=Limits(min_size={"*": 2}), latency_batches=(1,),
        importance=Importance(decay=0.9),
    )  # fmt: skip
    first = fit(tmp_path, **given)
    assert (
        first.results["rows"][0]["steps"] == 1 and json.loads((tmp_path / "config.json").read_text())["average"] == 0.9
    )
    fit(tmp_path, **plain)
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "message"), [
    ({"finetune": 0, "average": 0.9}, "average is of a finetuning, and finetune=0 leaves it out"),
    ({"finetune": 0, "retrain": "scratch", "fresh": lambda structure, key: None}, "which finetune=0 leaves untrained"),
    ({"optimizer": optax.adam}, r"optimizer adam takes a learning_rate, and would be called with a number of steps"),
    ({"optimizer": lambda: optax.adam(0.1)}, r"optimizer takes \(\); it is called as optimizer\(steps\)"),
    ({"optimizer": lambda steps: 3}, "optimizer 3 is not possible; give one of optax"),
    ({"batches": [{**batch_of(0), "name": "cat"}]}, "the batch holds 'cat', which is no array"),
    ({"batches": [{**batch_of(0), "name": np.array(["cat"] * 8)}]}, "the batch holds .*, which is no array"),
])  # fmt: skip
def test_what_no_job_can_be_made_of(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        fit(tmp_path / "run", **options)
    assert not list(tmp_path.iterdir())
