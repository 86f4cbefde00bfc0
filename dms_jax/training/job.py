"""What every experiment is made of: phases of plain training and of searching, inside one run."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import optax

from dms_jax.method.loss import Loss
from dms_jax.method.search import Search
from dms_jax.method.state import SearchState
from dms_jax.partition import partition, under_params
from dms_jax.training import supervised
from dms_jax.training.calibration import calibrated
from dms_jax.training.mesh import place, replicated, shardings
from dms_jax.training.runs import Run

RECORDS = 60  # of metrics and masks, a phase


@dataclass(frozen=True)
class Job:
    """Phases that share data, loss and devices.

    Attributes:
      run: the run directory; a phase that is done there is not run again.
      loss: of the full network.
      batches: from the number of a step to its batch, on the devices; the same one whenever it is asked.
      mesh: where states lie.
      key: of the job; every phase has its own, by name.
      accumulate: parts that a batch of `train` passes in, one after another (a `Search` has its own).
      calibrate: batches over which BatchNorm statistics are estimated anew at the end of `train`; 0 keeps the running
        ones.
      ending: from the steps of a phase of `train` to its batches, where those depend on how many there are, since the
        last ones are others; None: `batches` are those of every phase.
    """

    run: Run
    loss: Loss
    batches: Callable[[int], Any]
    mesh: jax.sharding.Mesh
    key: jax.Array
    accumulate: int = 1
    calibrate: int = 0
    ending: Callable[[int], Callable[[int], Any]] | None = None

    def train(
        self,
        name: str,
        loss: Loss,
        params: Any,
        optimizer: optax.GradientTransformation,
        steps: int,
        *,
        trained: Any = under_params,
        average: optax.ScalarOrSchedule | None = None,
    ) -> Any:
        """Train a network from its parameters (which stay as they are).

        Args:
          name: of the phase.
          loss: of the network: `self.loss`, or at other sizes `space.shrunk(self.loss, structure)`.
          params: to begin from, the whole tree; arrays alone.
          optimizer: for what is trained of them.
          steps: of the phase.
          trained: which leaves are, as `dms_jax.partition.partition` takes it: a tree of booleans (`space.trained`,
            which `shrink` slices, too), or a function of paths.
          average: decay of a moving average of the parameters, or from a step to it; None keeps none.

        Returns:
          The averaged parameters, or with no average the last ones; with statistics estimated anew where asked for.
        """
        state = place(supervised.init(params, optimizer, trained=trained, average=average is not None), self.mesh)
        how = {"trained": trained, "accumulate": self.accumulate, "average": average}
        step = supervised.make_step(loss, optimizer, **how)
        batches = self.batches_of(steps)
        last = self._phase(name, step, state, batches, steps=steps, describe=_loss).averaged
        return self.calibrated(name, loss, last, batches, trained)

    def batches_of(self, steps: int) -> Callable[[int], Any]:
        """The batches of a phase of `train`."""
        return self.batches if self.ending is None else self.ending(steps)

    def calibrated(self, name: str, loss: Loss, params: Any, batches: Callable[[int], Any], trained: Any) -> Any:
        """Parameters with statistics estimated anew, where that is asked for and there are some."""
        if not self.calibrate or not jax.tree.leaves(partition(params, trained)[1]):
            return params
        return calibrated(loss, params, batches, self.phase_key(f"{name} calibrated"), self.calibrate, trained)

    def search(self, name: str, search: Search, params: Any) -> SearchState:
        """Run a search from the supernet's parameters (which stay as they are), recording its masks."""
        state = place(search.init(params), self.mesh)
        steps = search.schedule.steps

        def record(step: int, values: Mapping[str, float], masks: Mapping[str, Any]) -> None:
            self.run.record_masks(name, step, masks)

        return self._phase(
            name,
            search.step,
            state,
            self.batches,
            steps=steps,
            describe=_against_target,
            observe=search.masks,
            on_log=record,
        )

    def phase_key(self, name: str) -> jax.Array:
        """The key of a phase, from its name: adding a phase changes no other."""
        return jax.random.fold_in(self.key, zlib.crc32(name.encode()))

    def _phase(
        self, name: str, step: Any, state: Any, batches: Callable[[int], Any], *, steps: int, **options: Any
    ) -> Any:
        every = max(steps // RECORDS, 1)
        # where the state lies after a step is where it lay before: or the next step would be compiled anew
        where = (shardings(state, self.mesh), replicated(self.mesh))
        jitted = jax.jit(step, donate_argnums=0, out_shardings=where)
        return self.run.phase(
            name, jitted, state, batches, self.phase_key(name), steps=steps, log_every=every, **options
        )


def _loss(values: Mapping[str, float]) -> str:
    return f"loss {values['loss']:.3f}"


def _against_target(values: Mapping[str, float]) -> str:
    """`loss 0.412  macs 23.1 % (target 20.0 %)`."""
    parts = [_loss(values)]
    for name in values:
        if f"{name}_target" in values:
            now, goal = values[name], values[f"{name}_target"]
            parts.append(f"{name} {now:.1%} (target {goal:.1%})".replace("%", " %"))
    return "  ".join(parts)
