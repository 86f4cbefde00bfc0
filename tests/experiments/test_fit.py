"""`python -m experiments.fit FILE`: a user's file becomes a smaller network; what is wrong in it is one line."""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import dms_jax
from dms_jax import Importance, Limits, baselines
from dms_jax.errors import UserError
from dms_jax.method.dms import DMS
from experiments import fit
from experiments.flags import Searching
from tests.helpers import FLOAT32_LOGITS

PLAIN = Path(__file__).parents[2] / "docs" / "examples" / "plain.py"
SHORT = ["--steps=8", "--finetune-steps=4", "--pretrain-steps=4"]


def test_the_network_of_a_file(tmp_path, capsys):
    file = tmp_path / "mine.py"
    shutil.copy(PLAIN, file)
    arguments = [str(file), "--macs=0.4", *SHORT, f"--workdir={tmp_path / 'run'}", "--divisible-by", "*", "4"]
    fit.main(arguments)
    shown = capsys.readouterr().out
    assert "40 % of the MACs" in shown and "accuracy" in shown and "report.html" in shown
    task = fit.read_task(file)
    fn, params = dms_jax.load(tmp_path / "run")
    small, own = dms_jax.load(tmp_path / "run", fn=task.fn)
    images = np.random.default_rng(0).random((5, 64)).astype(np.float32)
    np.testing.assert_allclose(fn(params, images), jax.jit(small)(own, images), atol=FLOAT32_LOGITS)
    assert all(w.shape[1] % 4 == 0 for w, _ in own["hidden"])
    assert fn.structure.resources["after"]["macs"] <= 0.4 * fn.structure.resources["before"]["macs"]
    fit.main(arguments)
    assert "finished already" in capsys.readouterr().out


HEAD = """
import jax, jax.numpy as jnp, numpy as np
import dms_jax
def network(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]
def loss(params, batch, key):
    return jnp.mean(network(params, batch) ** 2)
draw = np.random.default_rng(0)
a, b, x = (draw.normal(size=s).astype(np.float32) for s in ((4, 8), (8, 2), (8, 4)))
params = {"a": jnp.asarray(a), "b": jnp.asarray(b)}
"""


@pytest.mark.parametrize("text, message", [
    (None, "there is no file .*mine.py"),
    ("a = 1\n", "mine.py has no function task"),
    ("def task():\n    return 3\n", "task.. in .*mine.py returns a int"),
    ("def task(:\n", r"mine.py, line 1: .*def task\(:"),
    ("import nowhere_at_all\n", "mine.py, line 1, in <module>: import nowhere_at_all: ModuleNotFoundError"),
    ("def task():\n    return 1 / 0\n", r"mine.py, line 2, in task: return 1 / 0: ZeroDivisionError: division by zero"),
    (HEAD + "task = lambda: dms_jax.Task(network, params, lambda params, batch: 0.0, [x], None, x[:1])\n",
     r"the loss takes \(params, batch\); it is called as loss\(params, batch, key\)"),
    (HEAD + "def wrong(params, batch, key):\n    return network(params, batch)\n"
     "task = lambda: dms_jax.Task(network, params, wrong, [x], None, x[:1])\n", r"the loss returns float32\[8, 2\]"),
    (HEAD + "def broken(params, batch, key):\n    return network(params, batch['x'])\n"
     "task = lambda: dms_jax.Task(network, params, broken, [x], None, x[:1])\n",
     r"mine.py, line 12, in broken: return network\(params, batch\['x'\]\): "),
    (HEAD + "task = lambda: dms_jax.Task(network, params, loss, [x])\n", "needs its parameters and an example"),
    (HEAD + "task = lambda: dms_jax.Task(network, params, loss, iter([x]), None, x[:1])\n", "is gone through once"),
])  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line(text, message, tmp_path):
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        fit.main([str(file), "--steps=2", f"--workdir={tmp_path / 'run'}"])
    assert "\n" not in str(error.value)


def test_an_evaluation_that_fails_names_its_line(tmp_path):
    file = tmp_path / "mine.py"
    body = "def score(fn, params):\n    return missing(fn)\n"
    file.write_text(HEAD + body + "task = lambda: dms_jax.Task(network, params, loss, [x], score, x[:1])\n")
    arguments = [str(file), "--steps=4", "--no-controls", f"--workdir={tmp_path / 'run'}"]
    with pytest.raises(UserError, match="in score: return missing.fn.: NameError"):
        fit.main(arguments)
    file.write_text(file.read_text().replace("missing(fn)", "0.5, 0.1"))
    fit.main(arguments)  # what was trained is kept
    assert (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize(
    "flags", [["--sizes", "0.9", "0.6"], ["--sizes", "0.9", "0.6", "--sizes-apart"], ["--macs=0.8"]]
)
def test_a_task_that_teaches_does_so_where_there_is_somebody_to_teach(flags, tmp_path):
    file = tmp_path / "mine.py"
    options = "{'teach': network, 'together': True}"
    file.write_text(HEAD + f"task = lambda: dms_jax.Task(network, params, loss, [x], None, x[:1], {options})\n")
    fit.main([str(file), "--steps=4", "--finetune-steps=2", "--no-controls", f"--workdir={tmp_path / 'run'}", *flags])
    for size in (0.9, 0.6) if "--sizes" in flags else (None,):
        assert dms_jax.load(tmp_path / "run", size=size)[1]["a"].shape[0] == 4


OPTIONS = {
    "steps": (7, "--steps=9", 9),
    "pretrain": (3, "--pretrain-steps=2", 2),
    "finetune": (5, "--finetune-steps=6", 6),
    "warmup": (2, "--warmup-steps=1", 1),
    "compare": (False, None, None),
    "average": (0.5, "--average=0.25", 0.25),
    "accumulate": (2, "--accumulate=4", 4),
    "calibrate": (2, "--calibrate=1", 1),
    "seed": (3, "--seed=4", 4),
    "fsdp": (1, None, None),
    "title": ("ours", None, None),
    "workdir": ("elsewhere", "--workdir=there", Path("there")),
    "resource_weight": (2.0, "--resource-weight=3", 3.0),
    "strategy": (DMS(rate=3.0), "--ratio-rate=2", DMS(rate=2.0)),
    "limits": (Limits(min_size={"*": 2}), ("--min-size", "*", "3"), Limits(min_size={"*": 3})),
    "importance": (Importance(decay=0.5), "--importance=fisher", None),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_of_the_task_holds_unless_a_flag_says_otherwise(name, tmp_path, monkeypatch):
    option, flag, expected = OPTIONS[name]
    file, called = tmp_path / "mine.py", []
    file.write_text(HEAD + "task = lambda: None\n")
    task = dms_jax.Task(lambda params, x: x, None, lambda params, batch, key: 0.0, [0], options={name: option})
    monkeypatch.setattr(fit, "read_task", lambda path: task)
    monkeypatch.setattr(dms_jax, "fit", lambda *args, **given: called.append(given))
    fit.main([str(file)])
    assert called[-1][name] == option
    if flag is not None:
        fit.main([str(file), *([flag] if isinstance(flag, str) else flag)])
        assert called[-1][name] == expected if expected is not None else called[-1][name] != option


USUAL = {
    "steps": (7, ["--steps=400"], 400),
    "accumulate": (2, ["--accumulate", "1"], 1),
    "calibrate": (2, ["--calibrate=0"], 0),
    "seed": (3, ["--seed=0"], 0),
    "warmup": (2, ["--warmup_steps=0"], 0),
    "trial": (5, ["--block-trial=0"], 0),
    "compare": (False, ["--controls"], True),
    "finetune": (0, ["--finetune"], None),
    "strategy": (DMS(rate=3.0), ["--strategy=dms"], DMS()),
    "importance": (Importance(decay=0.5), ["--importance=taylor"], baselines.importances()["taylor"]),
}


@pytest.mark.parametrize("name", USUAL)
def test_a_flag_that_says_what_is_usual_says_it(name, tmp_path, monkeypatch):
    """Who writes it down wants it, whatever the task has."""
    option, flags, expected = USUAL[name]
    called = []
    task = dms_jax.Task(lambda params, x: x, None, lambda params, batch, key: 0.0, [0], options={name: option})
    monkeypatch.setattr(fit, "read_task", lambda path: task)
    monkeypatch.setattr(dms_jax, "fit", lambda *args, **given: called.append(given))
    fit.main([str(tmp_path / "mine.py"), *flags])
    assert called[-1][name] == expected


def test_every_flag_says_an_argument():
    """What the table of flags names are flags, and every flag of the search is named by one of the arguments."""
    fields = {f.name for config in (fit.Config, Searching) for f in dataclasses.fields(config)}
    arguments = fit._flags(fit.Config(Path("mine.py")))
    named = {flag for name in arguments for flag in fit._SAID_BY.get(name, (name,))}
    assert named - {"title"} <= fields and fields - named == {"file", "budgets", "searching"}


@pytest.mark.parametrize("flag", ["--finetune-steps=3", "--average=0.9"])
def test_flags_of_a_finetuning_that_is_left_out(flag, tmp_path):
    with pytest.raises(UserError, match=f"{flag.split('=')[0]} is of a finetuning, and --no-finetune leaves it out"):
        fit.main([str(tmp_path / "mine.py"), "--no-finetune", flag])


def test_numbers_that_no_run_has(tmp_path):
    for flag in ("--steps=0", "--seed=-1", "--average=1", "--warmup-steps=-1"):
        with pytest.raises(UserError, match=flag.split("=")[0]):
            fit.main([str(tmp_path / "mine.py"), flag])
