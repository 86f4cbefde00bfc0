"""Fit any network to a budget: yours, in a file of yours.

    python -m experiments.fit my_network.py --macs=0.5

where `my_network.py` has a function `task()` that returns `dms_jax.Task(fn, params, loss, batches, evaluate, example)`:
a function of parameters in JAX, or a `SearchSpace` of a Flax, Equinox, Keras or Haiku model. It is pretrained where
that is asked for, searched, shrunk and finetuned, beside two controls: the same keep ratio everywhere, and the full
network. The run directory gets `report.html`, and `dms_jax.load` reads the network from it. Stop it at any time; the
same command goes on.
"""

from __future__ import annotations

import importlib.util
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

import dms_jax
from dms_jax import Task
from dms_jax.command_line import parse_job
from dms_jax.errors import UserError, exit_on_user_error, one_line
from dms_jax.training.sizes import several_of
from experiments import bounds
from experiments.flags import Budgets, Searching, default

COMMAND = "python -m experiments.fit"
T = TypeVar("T")


@dataclass(frozen=True)
class Config:
    """Fit the network of a file to a budget."""

    file: tyro.conf.Positional[Path]
    """A Python file with a function task() that returns a dms_jax.Task."""
    steps: int = 400
    """Search steps."""
    pretrain_steps: Annotated[int | None, default("none")] = None
    """Pretraining steps of the full network, if its parameters are untrained."""
    finetune: bool = True
    """Finetune the small network after the search."""
    finetune_steps: Annotated[int | None, default("as many as the search has")] = None
    """Finetuning steps."""
    warmup_steps: int = 0
    """Warm-up steps of the search, during which the structure is fixed."""
    controls: bool = True
    """Train two baselines as long as search and finetuning: a uniformly thinned network and the full one."""
    average: Annotated[float | None, default("none")] = None
    """Decay of the exponential moving average of the weights after the search."""
    accumulate: int = 1
    """Gradient-accumulation steps."""
    calibrate: int = 0
    """Batches for re-estimating running statistics after training."""
    fsdp: int = 1
    """FSDP sharding degree."""
    seed: int = 0
    """Random seed."""
    workdir: Annotated[Path | None, default("runs/ and the name of the file")] = None
    """Run directory; an unfinished run of the same job resumes."""
    budgets: tyro.conf.OmitArgPrefixes[Budgets] = field(default_factory=Budgets)
    searching: tyro.conf.OmitArgPrefixes[Searching] = field(default_factory=Searching)

    def check(self) -> None:
        """Refuse what no run can be made of, before the file is read."""
        bounds.check(self)
        self.searching.check(self.budgets)
        for name in ("finetune_steps", "average"):
            if not self.finetune and getattr(self, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} is of a finetuning, and --no-finetune leaves it out")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    fit_file(*parse_job(Config, arguments, prog=COMMAND, description=__doc__))


def fit_file(config: Config, command: str) -> None:
    """Run the job, or what is left of it."""
    config.check()
    task = _naming(config.file, lambda: read_task(config.file))
    budget = config.budgets.amounts or task.options.get("budget") or {"macs": 0.5}
    budget = config.budgets.amounts_of_sizes(budget)
    # a flag that nobody gave leaves the task's own option
    given, usual = _given(command), _flags(Config(config.file))
    said = {name for name, x in _flags(config).items() if x != usual[name] or given & set(_SAID_BY.get(name, (name,)))}
    flags = {name: x for name, x in _flags(config).items() if name not in task.options or name in said}
    flags |= {
        "resources": (*task.options.get("resources", ()), *config.budgets.resources(budget)),
        "command": command,
        **({"together": not config.budgets.sizes_apart} if config.budgets.sizes else {}),
    }
    own = {
        "budget": budget,
        "loss": task.loss,
        "batches": task.batches,
        "evaluate": task.evaluate,
        "example": task.example,
    }
    several = isinstance(budget, Mapping) and any(several_of(amounts) is not None for amounts in budget.values())
    idle = {name for name in ("teach", "together") if not several or config.budgets.sizes_apart}
    options = {name: x for name, x in task.options.items() if name not in idle}
    _naming(config.file, lambda: dms_jax.fit(task.fn, task.params, **{**options, **own, **flags}))


_SAID_BY: Mapping[str, tuple[str, ...]] = {
    "pretrain": ("pretrain_steps",),
    "finetune": ("finetune", "finetune_steps"),
    "compare": ("controls",),
    "trial": ("block_trial",),
    "warmup": ("warmup_steps",),
    "limits": ("freeze", "min_size", "divisible_by"),
    "strategy": (
        "strategy", "ratio_rate", "ratio_schedule", "ratio_together", "ratio_slack", "ratio_on_target", "block_effects",
    ),
}  # fmt: skip
"""Argument of `dms_jax.fit` -> the flags that say it, where these are others than its own name."""


def _given(command: str) -> set[str]:
    """The flags of a command, by the names of their fields: one that is given says what it says though it is usual."""
    found = (word.partition("=")[0] for word in shlex.split(command) if word.startswith("--"))
    return {flag.lstrip("-").replace("-", "_").removeprefix("no_") for flag in found}


def _flags(config: Config) -> dict[str, Any]:
    """Arguments of `dms_jax.fit` that flags alone say."""
    return {
        "steps": config.steps,
        "pretrain": config.pretrain_steps or 0,
        "finetune": config.finetune_steps if config.finetune else 0,
        "trial": config.searching.block_trial,
        "compare": config.controls,
        "warmup": config.warmup_steps,
        "average": config.average,
        "accumulate": config.accumulate,
        "calibrate": config.calibrate,
        "fsdp": config.fsdp,
        "seed": config.seed,
        "workdir": config.workdir or Path("runs") / config.file.stem,
        "title": config.file.stem,
        **config.searching.options,
    }


def read_task(path: Path) -> Task:
    """Run a file and call its `task()`.

    Raises:
      UserError: there is no such file, it has no such function, or that returns something else.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; give a Python file with a function task()")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file; give one, its name ending in .py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))  # as Python does for a program: files beside it can be imported
    sys.modules[path.stem] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    make = getattr(module, "task", None)
    if not callable(make):
        raise UserError(f"{path} has no function task(); define one that returns dms_jax.Task(fn, params, loss, ...)")
    found = make()
    if not isinstance(found, Task):
        raise UserError(
            f"task() in {path} returns a {type(found).__name__}; return dms_jax.Task(fn, params, loss, ...)"
        )
    return found


def _naming(path: Path, run: Callable[[], T]) -> T:
    """Run something; what goes wrong in the user's file is said in one line, with the line of that file.

    Raises:
      UserError: so.
    """
    try:
        return run()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}: {(error.text or '').strip()}") from error
    except Exception as error:
        own = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == path.resolve()]
        if not own:
            raise
        last = own[-1]
        what = f"{type(error).__name__}: {one_line(error)[:500]}"
        raise UserError(f"{path}, line {last.lineno}, in {last.name}: {last.line}: {what}") from error


if __name__ == "__main__":
    exit_on_user_error(main)()
