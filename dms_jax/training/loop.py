"""The loop: it dispatches steps, and looks at what they computed only when there is a reason to."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from dms_jax.errors import Interrupted, UserError
from dms_jax.training.checkpoints import Checkpoints
from dms_jax.training.interrupt import InterruptFlag
from dms_jax.training.metrics import MetricsWriter
from dms_jax.training.processes import anywhere
from dms_jax.training.progress import Progress

State = TypeVar("State")
Values = dict[str, float]

_fold_in = jax.jit(jax.random.fold_in)


class NonFiniteLoss(UserError):
    """A loss became infinite or NaN.

    Args:
        phase, name: what was trained, and the metric that is not finite.
        step: the first step with such a value, counted from 1.
        value: it.
        checkpoints: what was saved before.
    """

    def __init__(self, phase: str, step: int, name: str, value: float, checkpoints: Checkpoints | None):
        self.step = step
        self.last_good = None if checkpoints is None else checkpoints.latest
        where = (
            "none" if checkpoints is None or self.last_good is None else f"{self.last_good} in {checkpoints.directory}"
        )
        super().__init__(
            f"{phase}: {name} is {value} at step {step} (last good checkpoint: {where}); lower the learning rate"
        )


def run_phase(
    phase: str,
    step: Callable[[State, Any, jax.Array], tuple[State, Mapping[str, jax.Array]]],
    state: State,
    batches: Callable[[int], Any],
    key: jax.Array,
    *,
    steps: int,
    start: int = 0,
    finite: Sequence[str] = ("loss",),
    log_every: int = 50,
    describe: Callable[[Values], str] | None = None,
    observe: Callable[[State], Any] | None = None,
    on_log: Callable[[int, Values, Any], object] | None = None,
    writer: MetricsWriter | None = None,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float | None = None,
    meta: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    interrupt: InterruptFlag | None = None,
) -> State:
    """Run steps `start` to `steps`; stopped anywhere and resumed, the last state is the same, bit for bit.

    Step i (from 0) computes `state, metrics = step(state, batches(i), fold_in(key, i))`, so what it sees
    depends on i alone. `fold_in` is a compiled call of its own (about 10 us, not waited for) rather than part
    of `step`: a step stays usable by itself, and its donation is its own. Nothing waits for the device
    between logs: the metrics of a logged step are fetched when the next one is dispatched, and the losses in
    between are kept on the device and looked at then too. A step counts from 1 in everything that is shown or
    saved: it is the number of steps done.

    Args:
        phase: the name in records and messages.
        step: jitted; may donate the state. Its metrics are scalars.
        state: a pytree of arrays.
        batches: from i to a batch, on the devices (`shard_batch`).
        key: the base key of the phase.
        steps: where the phase ends.
        start: steps done already: `Restored.step`.
        finite: names of the metrics that have to stay finite. A step whose loss is finite can still have
            spoilt its parameters; with the norm of the gradient among these names, such a state is not saved
            either.
        log_every: steps between records; the first and the last step are recorded too.
        describe: from a record to the text beside the progress bar; the metrics named in `finite` by default.
        observe: traced; from a state to whatever `on_log` is to see of it. (By then the state itself is
            donated.)
        on_log: called with the step, its metrics and what `observe` returned, as NumPy, after the record is
            written.
        writer: gets the records.
        progress: shows them.
        checkpoints: where states of this phase, and of no other, are saved: at the end, on interruption, and
            as the next two say.
        checkpoint_every: steps between two checkpoints.
        checkpoint_seconds: seconds between two checkpoints.
        meta: goes with every checkpoint, beside `metrics_position` (see `MetricsWriter`); or what says it then.
        interrupt: looked at before every step. (Several processes have to agree to stop or to save by time:
            they do so once every `log_every` steps.)

    Raises:
        NonFiniteLoss: at the first log or checkpoint after it came up. No state from it on is saved.
        Interrupted: `interrupt` was set; the state is saved.
        CheckpointError: a checkpoint cannot be written.
    """
    look = None if observe is None else jax.jit(lambda state: jax.tree.map(jnp.copy, observe(state)))
    saver = _Saver(checkpoints, checkpoint_every, checkpoint_seconds, meta or {}, writer)
    records = _Records(phase, finite, writer, progress, describe, on_log, checkpoints)
    for done in range(start, steps):
        agreeing = jax.process_count() == 1 or done % log_every == 0
        stop = agreeing and interrupt is not None and anywhere(interrupt.requested)
        if stop or (done > start and saver.due(done, agreeing)):
            records.flush()
            saver.save(done, state)
        if stop:
            saver.wait()
            raise Interrupted(done)
        state, metrics = step(state, batches(done), _fold_in(key, done))
        records.write_pending()
        logged = done == 0 or (done + 1) % log_every == 0 or done + 1 == steps
        observed = look(state) if logged and look is not None else None
        records.add(_Record(done + 1, metrics, observed), logged)
    records.flush()
    saver.save(steps, state)
    return state


class _Record(NamedTuple):
    step: int
    metrics: Mapping[str, jax.Array]
    observed: Any


@dataclass
class _Records:
    """What steps returned, still on the device."""

    phase: str
    finite: Sequence[str]
    writer: MetricsWriter | None
    progress: Progress | None
    describe: Callable[[Values], str] | None
    on_log: Callable[[int, Values, Any], object] | None
    checkpoints: Checkpoints | None
    unseen: list[tuple[int, list[jax.Array]]] = field(default_factory=list)
    pending: _Record | None = None

    def add(self, record: _Record, logged: bool) -> None:
        self.unseen.append((record.step, [record.metrics[name] for name in self.finite]))
        self.pending = record if logged else None
        if self.progress is not None:
            self.progress.update(record.step)

    def write_pending(self) -> None:
        """Fetch and write the record of a logged step, once another step keeps the device busy."""
        if self.pending is None:
            return
        self.check_finite()
        step, metrics, observed = self.pending
        self.pending = None
        metrics, observed = jax.device_get((dict(metrics), observed))
        values = {name: float(value) for name, value in metrics.items()}
        if self.writer is not None:
            self.writer.write(self.phase, step, values)
        if self.progress is not None:
            text = "  ".join(f"{name} {values[name]:.4g}" for name in self.finite)
            self.progress.update(step, self.describe(values) if self.describe else text)
        if self.on_log is not None:
            self.on_log(step, values, observed)

    def check_finite(self) -> None:
        unseen, self.unseen = self.unseen, []
        for step, values in jax.device_get(unseen):
            for name, value in zip(self.finite, values, strict=True):
                if not math.isfinite(value):
                    if self.checkpoints is not None:
                        self.checkpoints.wait()
                    raise NonFiniteLoss(self.phase, int(step), name, float(value), self.checkpoints)

    def flush(self) -> None:
        """Look at everything up to the newest step, so that nothing after a bad loss is saved."""
        self.check_finite()
        self.write_pending()


@dataclass
class _Saver:
    checkpoints: Checkpoints | None
    every: int | None
    seconds: float | None
    meta: Mapping[str, Any] | Callable[[], Mapping[str, Any]]
    writer: MetricsWriter | None
    saved_at: float = field(default_factory=time.monotonic)

    def due(self, step: int, agreeing: bool) -> bool:
        """Whether a checkpoint belongs after `step`; by time, only at a step at which processes agree."""
        if self.every is not None and step % self.every == 0:
            return True
        if self.seconds is None or not agreeing:
            return False
        return anywhere(time.monotonic() - self.saved_at >= self.seconds)

    def wait(self) -> None:
        if self.checkpoints is not None:
            self.checkpoints.wait()

    def save(self, step: int, state: Any) -> None:
        if self.checkpoints is None or self.checkpoints.latest == step:
            return
        position = {} if self.writer is None else {"metrics_position": self.writer.position}
        meta = self.meta() if callable(self.meta) else self.meta
        self.checkpoints.save(step, state, {**meta, **position})
        self.saved_at = time.monotonic()
