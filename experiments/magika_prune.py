"""Prune Magika, a published detector of file types, with the files of this machine: any JAX network, pretrained.

    python -m experiments.magika_prune --macs=0.25

brings Magika's wheel with pip (16 MB; neither installed nor run), reads its network into a function in plain JAX, and
takes several thousand files of this machine, whose types their extensions say. The network is searched, shrunk and
finetuned, with the original as its teacher, beside controls: the same keep ratio everywhere, and the full network
trained on. The report has accuracy and agreement with the original, and latency of one file and of 64; `files.json` in
the run directory names the files. Stop it at any time; the same command goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dms_jax
from dms_jax.command_line import parse_job
from dms_jax.conduct import say
from dms_jax.data.batching import batches
from dms_jax.errors import UserError, exit_on_user_error
from dms_jax.training.distillation import TEACHER, Distillation
from dms_jax.training.results import Quality
from experiments import magika_files, magika_network
from experiments.flags import default
from experiments.magika_files import Data
from experiments.magika_network import Original, network
from experiments.taught import Taught, Teacher, in_batches

COMMAND = "python -m experiments.magika_prune"
MANIFEST = "files.json"
AGREEMENT = "agreement with the original"
AT_ONCE = 64
"""Files of a batch that no gradient is taken of."""


@dataclass(frozen=True)
class Config(Taught):
    """Prune Magika, a published detector of file types, with the files of this machine."""

    macs: ClassVar[float] = 0.25

    files: Annotated[tuple[Path, ...], default("this Python, its packages, and the shared folders of the system")] = ()
    """Directories whose files are learned from and tested on."""
    per_type: int = 200
    """Maximum number of files of a type."""
    manifest: Annotated[Path | None, default("none")] = None
    """The files.json of another run, whose files are taken again."""
    wheel: Annotated[Path | None, default("the user's cache, or else pip brings it")] = None
    """Magika's wheel, version 1.0.3 for Linux on x86-64."""
    workdir: Path = Path("runs/magika")
    """Run directory; an unfinished run of the same job resumes."""

    @property
    def choice(self) -> dict[str, Any]:
        """Which files are asked for."""
        given = None if self.manifest is None else str(self.manifest.resolve())
        return {"folders": [str(path.resolve()) for path in self.files], "per_type": self.per_type, "manifest": given}

    @property
    def identity(self) -> dict[str, Any]:
        """What `dms_jax.fit` does not know of that makes the job the one it is."""
        return {**super().identity, **self.choice}

    def check(self) -> None:
        """Refuse what no run can be made of, before anything is brought or read."""
        super().check()
        if self.manifest is not None and self.files:
            raise UserError("--manifest names the files, and --files chooses others; give one of them")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    prune(*parse_job(Config, arguments, prog=COMMAND, description=__doc__))


def prune(config: Config, command: str) -> None:
    """Run the job, or what is left of it."""
    config.check()
    options = config.options
    original = magika_network.load(magika_network.WHEEL.path(config.wheel))
    data = files_of(config, original)
    run = jax.jit(network)
    ask = lambda tokens: np.asarray(run(original.params, tokens.astype(np.int32)))  # noqa: E731
    teacher = Teacher(ask, data.train["tokens"], len(original.types))
    draw = batches({**data.train, "row": np.arange(len(data.train["label"]))}, config.batch, config.seed)

    def batch(step: int) -> dict[str, np.ndarray]:
        drawn = draw(step)
        answers = teacher(drawn.pop("row"))
        return {**drawn, "tokens": drawn["tokens"].astype(np.int32), TEACHER: answers}

    dms_jax.fit(
        network,
        original.params,
        loss=partial(distilled, config.distillation),
        batches=batch,
        workdir=config.workdir,
        example=jax.ShapeDtypeStruct((1, data.train["tokens"].shape[1]), jnp.int32),
        evaluate=_quality(data, original),
        title="Magika 1.0.3 on the files of this machine",
        data=f"{data.words}, labeled by extension, split by directory; {MANIFEST} lists them",
        command=command,
        identity=config.identity | {"files": data.digest},
        **options,
    )


def files_of(config: Config, original: Original) -> Data:
    """The files of this run: those that it began with; or those of another run, or newly collected, written down.

    Raises:
      UserError: a manifest that cannot be used, no files, or a run directory that cannot be written.
    """
    own, of = config.workdir / MANIFEST, (original.preprocessing, original.types)
    begun = (config.workdir / "config.json").exists()
    if begun and not own.exists():
        raise UserError(f"{own}, which names the files of this run, is missing; choose another --workdir")
    if own.exists():
        data, choice = magika_files.read(own, *of)
        if begun or choice == config.choice:  # of a run that chose otherwise, the run says so
            return data
    if config.manifest is not None:
        data, _ = magika_files.read(config.manifest, *of)
    else:
        folders = config.files or magika_files.usual_folders()
        say(f"looking for files in {', '.join(map(str, folders))}")
        data = magika_files.collect(folders, *of, original.extensions, config.per_type)
    magika_files.write(own, data, config.choice)
    left_out = ", ".join(f"{count:,} {why}" for why, count in sorted(data.skipped.items()))
    say(f"{data.words}{f'; left out: {left_out}' if left_out else ''}; {own} lists them")
    return data


def distilled(
    distillation: Distillation, params: Any, batch: Mapping[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    """The loss: cross-entropy against the labels, mixed with the divergence from the original."""
    logits = network(params, batch["tokens"])
    task = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
    metrics = {"cross_entropy": task, "accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == batch["label"])}
    return distillation.mix(task, logits, batch[TEACHER]), {"metrics": metrics}


def _quality(data: Data, original: Original) -> Quality:
    """Accuracy on the test files, with its standard error; beside it how often the answer is the original's."""
    label = data.test["label"]

    @cache
    def theirs() -> np.ndarray:
        return answers(jax.jit(network), original.params, data.test["tokens"])

    def measure(fn: Any, params: Any) -> tuple[float, float, dict[str, float]]:
        found = answers(fn, params, data.test["tokens"])
        share = float(np.mean(found == label))
        error = math.sqrt(share * (1 - share) / len(label))
        return share, error, {AGREEMENT: float(np.mean(found == theirs()))}

    return Quality("accuracy", "%", measure, parts=(AGREEMENT,))


def answers(fn: Callable[..., Any], params: Any, tokens: np.ndarray) -> np.ndarray:
    """The most likely class of every file, `[N]` int."""
    return np.argmax(in_batches(lambda some: fn(params, some.astype(np.int32)), tokens, AT_ONCE), axis=-1)


if __name__ == "__main__":
    exit_on_user_error(main)()
