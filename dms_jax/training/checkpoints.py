"""Checkpoints that are either whole or not used.

Orbax writes them in the background and commits each by a rename. What it does not notice itself is found by
the digests of the files (`digests.py`), taken before the commit and compared before anything is read.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from rich.console import Console

from dms_jax import checks
from dms_jax.errors import UserError, one_line
from dms_jax.training import failed_writes
from dms_jax.training.digests import Owner, find_fault, find_special, write_digests
from dms_jax.training.stored import as_key, describe, empty, leaves_of, target

_UNFINISHED = ".orbax-checkpoint-tmp"
_SET_ASIDE = ".not-whole"


class CheckpointError(UserError, ValueError):
    """A checkpoint cannot be written, or what is there cannot be used."""


class NoWholeCheckpointError(CheckpointError):
    """There are checkpoints, and none is whole; `fault` says of the newest why."""

    def __init__(self, message: str, fault: str):
        self.fault = fault
        super().__init__(message)


class Restored(NamedTuple):
    """A checkpoint as it was saved: steps done, the state, and the metadata."""

    step: int
    state: Any
    meta: dict[str, Any]


def warn(line: str) -> None:
    """Print one line on stderr."""
    Console(stderr=True).print(f"warning: {line}", style="yellow", markup=False, soft_wrap=True)


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints of one directory.

    A state is any pytree of arrays; on disk it is a flat table from the path of a leaf to its array, typed PRNG
    keys by their data. With several processes every method is called by all of them, over one shared file system.

    Args:
        directory: where they lie; made if need be.
        keep: how many to keep. At least 2, or there is nothing to fall back on.
        report: gets one line for each checkpoint that is not whole.
        owner: the job and phase that checkpoints are saved as; those of others are not used. None: nobody's, and
            anybody's are.

    Raises:
        CheckpointError: `directory` cannot be made, or is a symbolic link.
    """

    def __init__(
        self,
        directory: str | Path,
        keep: int = 2,
        report: Callable[[str], None] = warn,
        owner: Owner | None = None,
    ):
        if keep < 2:
            raise ValueError(f"keep={keep}: at least 2 checkpoints are kept, so that one can be torn")
        self.directory = Path(directory).absolute()
        self.latest: int | None = None
        """The step saved or restored last by this object."""
        self._keep, self._report, self._owner = keep, report, owner
        self._manager: ocp.CheckpointManager | None = None
        self._writing: int | None = None
        with self._one_line("make the directory of"):
            if self.directory.is_symlink():
                raise CheckpointError(f"{self.directory} is a symbolic link, which is not followed; remove it")
            self.directory.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, state: Any, meta: Mapping[str, Any] | None = None) -> None:
        """Start to write a checkpoint; returns when `state` is copied off the devices and may be donated.

        Args:
            step: steps done; larger than that of every checkpoint in the directory.
            state: a pytree of arrays.
            meta: anything JSON can hold.

        Raises:
            CheckpointError: it, or the one before it, cannot be written; or `step` is not the newest.
            TypeError: a leaf is not an array of numbers, or there is none; or JSON cannot hold `meta`.
        """
        self.wait()
        leaves = leaves_of(state)
        stored = {name: leaf for name, leaf in leaves.items() if leaf.size}
        if not stored:
            raise TypeError(f"a state without a single number cannot be saved: {state}")
        record = {
            "step": step,
            "meta": dict(meta or {}),
            "leaves": {k: describe(v) for k, v in leaves.items()},
        }
        if self._owner is not None:
            record["owner"] = self._owner.record()
        json.dumps(record)  # raises here and now, for Orbax would find out in the background
        self._writing = step
        with self._one_line(f"write checkpoint {step} in"):
            saved = self._open().save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(stored),
                    meta=ocp.args.JsonSave(record),
                ),
            )
        if not saved:
            newest = self._open().latest_step()
            raise CheckpointError(
                f"checkpoint {step} cannot follow checkpoint {newest} in {self.directory}; "
                "restore that one first or take another directory"
            )
        self.latest = step

    def restore(self, example: Any) -> Restored | None:
        """Read the newest whole checkpoint.

        Newer ones that are not whole, or another job's or phase's, are reported and renamed to
        `<step>.not-whole`; writes that never finished are reported and dropped.

        Args:
            example: a tree of arrays or `jax.ShapeDtypeStruct`s: the structure, shapes, dtypes and shardings
                to restore to. NumPy leaves come back as NumPy.

        Returns:
            What was saved, or None where no checkpoint was ever finished.

        Raises:
            CheckpointError: there are checkpoints and none is whole; or it does not match `example`.
        """
        self.close()
        step = self._on_one_process(self._newest_whole)
        if step is None:
            return None
        with self._one_line(f"read checkpoint {step} in"):
            record = self._open().restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        asked = leaves_of(example)
        self._check_match(step, record["leaves"], {name: describe(leaf) for name, leaf in asked.items()})
        filled = {name: target(leaf) for name, leaf in asked.items() if leaf.size}
        with self._one_line(f"read checkpoint {step} in"):
            found = self._open().restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(filled)))["state"]
        arrays = [found[name] if leaf.size else empty(leaf) for name, leaf in asked.items()]
        leaves = [as_key(array, leaf) for array, leaf in zip(arrays, jax.tree.leaves(example), strict=True)]
        self.latest = step
        return Restored(step, jax.tree.unflatten(jax.tree.structure(example), leaves), record["meta"])

    def wait(self) -> None:
        """Return when what was saved is on disk.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._manager is not None:
            with self._one_line(f"write checkpoint {self._writing} in"):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and end the background threads. The object can be used again."""
        try:
            self.wait()
        finally:
            manager, self._manager = self._manager, None
            if manager is not None:
                with contextlib.suppress(Exception):  # what a failed write raises again here, wait has raised
                    manager.close()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_digests),
            )
            self._manager = ocp.CheckpointManager(self.directory, options=options)
            failed_writes.silence()
        return self._manager

    def _write_digests(self) -> None:
        """Orbax calls this when every file of a checkpoint is written, before it commits the checkpoint."""
        if jax.process_index() == 0:
            # not by glob, which keeps what it compiled of every step's pattern
            begins = f"{self._writing}{_UNFINISHED}"
            (folder,) = (path for path in self.directory.iterdir() if path.name.startswith(begins))
            write_digests(folder)

    def _newest_whole(self) -> int | None:
        folders = sorted((p for p in self.directory.iterdir() if checks.digits(p.name)), key=lambda p: -int(p.name))
        faults: dict[Path, str] = {}
        for folder in folders:
            if (fault := find_fault(folder, self._owner)) is None:
                break
            faults[folder] = fault
        else:
            if folders:
                fault = faults[folders[0]]
                raise NoWholeCheckpointError(
                    f"none of the {len(folders)} checkpoints in {self.directory} is whole "
                    f"(step {folders[0].name}: {fault}); "
                    "bring one back from a copy, or remove the directory to start again",
                    fault,
                )
        whole = next((int(p.name) for p in folders if p not in faults), None)
        for folder in folders[len(faults) + 1 :]:
            if (fault := find_special(folder)) is not None:
                faults[folder] = fault
        then = "starting from the first step" if whole is None else f"using the one of step {whole}"
        for path in sorted(self.directory.glob(f"*{_UNFINISHED}*")):
            self._report(f"checkpoint {path.name.split('.')[0]} in {self.directory} was never finished; {then}")
            shutil.rmtree(path)
        for folder, fault in faults.items():
            self._report(f"checkpoint {folder.name} in {self.directory} is not whole ({fault}); {then}")
            aside = folder.with_name(folder.name + _SET_ASIDE)
            if aside.is_symlink():
                aside.unlink()
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        return whole

    def _on_one_process(self, find: Callable[[], int | None]) -> int | None:
        """Let process 0 look at the files and rename; the others take its word."""
        if jax.process_count() == 1:
            with self._one_line("look through"):
                return find()
        found, error = -1, None
        if jax.process_index() == 0:
            try:
                with self._one_line("look through"):
                    step = find()
                found = -1 if step is None else step
            except CheckpointError as caught:
                found, error = -2, caught
        found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
        if found == -2:
            raise error or CheckpointError(f"process 0 finds no whole checkpoint in {self.directory}")
        return None if found == -1 else found

    def _check_match(self, step: int, saved: dict[str, list], asked: dict[str, list]) -> None:
        for name in [*asked, *saved]:
            if saved.get(name) != asked.get(name):
                there, wanted = (" ".join(map(str, d.get(name, ["absent"]))) for d in (saved, asked))
                raise CheckpointError(
                    f"checkpoint {step} in {self.directory} is of another model: state{name} is {there} "
                    f"there and {wanted} here; take the settings it was made with, or another directory"
                )

    @contextlib.contextmanager
    def _one_line(self, what: str) -> Iterator[None]:
        """Turn what the file system or Orbax raises into one line."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(f"cannot {what} {self.directory}: {one_line(error, 300)}") from error
