import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dms_jax.training import Checkpoints, Interrupted, InterruptFlag, MetricsWriter, NonFiniteLoss, run_phase
from dms_jax.training.metrics import FILE, read

STEPS = 23


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    directory = tmp_path_factory.mktemp("never_stopped")
    return toy.train(directory, STEPS), (directory / FILE).read_bytes()


def stop_before(i, flag):
    """Batches that raise the flag as a signal during step i would."""

    def batches(j):
        flag.requested |= j == i
        return toy.batch_of(j)

    return batches


def assert_same_bits(a, b):
    chex.assert_trees_all_equal_shapes_and_dtypes(a, b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(0, STEPS - 2), min_size=1, max_size=3, unique=True).map(sorted),
       every=st.sampled_from([None, 1, 4, 5]))  # fmt: skip
def test_stopped_and_resumed_is_never_stopped(stops, every, never_stopped, tmp_path):
    shutil.rmtree(tmp_path)
    for i in stops:
        flag = InterruptFlag()
        with pytest.raises(Interrupted) as stop:
            toy.train(tmp_path, STEPS, batches=stop_before(i, flag), interrupt=flag, checkpoint_every=every)
        assert stop.value.step == i + 1
    state = toy.train(tmp_path, STEPS, checkpoint_every=every)
    assert_same_bits(state, never_stopped[0])
    assert (tmp_path / FILE).read_bytes() == never_stopped[1]


@pytest.mark.parametrize("i", [0, 6, 17])
def test_killed_and_resumed_is_never_stopped(i, never_stopped, tmp_path):
    def batches(j):
        if i == j:
            raise OSError("killed")
        return toy.batch_of(j)

    with pytest.raises(OSError, match="killed"):
        toy.train(tmp_path, STEPS, batches=batches, checkpoint_every=5)
    assert_same_bits(toy.train(tmp_path, STEPS, checkpoint_every=5), never_stopped[0])
    assert (tmp_path / FILE).read_bytes() == never_stopped[1]


def test_finished_run_does_nothing(never_stopped, tmp_path):
    toy.train(tmp_path, STEPS)
    state = toy.train(tmp_path, STEPS, batches=lambda i: pytest.fail("a batch was asked for"))
    assert_same_bits(state, never_stopped[0])
    assert (tmp_path / FILE).read_bytes() == never_stopped[1]


def test_a_flag_that_is_up_saves_the_first_state(tmp_path):
    flag = InterruptFlag()
    flag.requested = True
    with pytest.raises(Interrupted, match="stopped after step 0"):
        toy.train(tmp_path, STEPS, interrupt=flag)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        restored = checkpoints.restore(toy.init())
    assert restored is not None and restored.step == 0
    assert_same_bits(restored.state, toy.init())


def test_records_steps_first_every_and_last(never_stopped):
    lines = never_stopped[1].splitlines()
    assert len(lines) == 7
    assert [line.split(b'"step": ')[1].split(b",")[0] for line in lines] == [
        b"1",
        b"4",
        b"8",
        b"12",
        b"16",
        b"20",
        b"23",
    ]


def test_a_step_is_compiled_once_and_not_waited_for(monkeypatch, tmp_path):
    """Between two logs nothing is fetched: the fetches of a run are those of its records."""
    fetched = []
    device_get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: fetched.append(1) or device_get(x))
    step = jax.jit(chex.assert_max_traces(toy._step, n=1), donate_argnums=0)
    run_phase("toy", step, toy.init(), toy.batch_of, jax.random.key(0), steps=40, log_every=20)
    records, ends = 3, 1  # steps 1, 20, 40; two fetches each (losses, record); and a last look at the losses
    assert len(fetched) <= 2 * records + ends


def test_observed_state_is_that_of_the_logged_step():
    seen, states = {}, {}

    def step(state, batch, key):
        return state + 1, {"loss": state}

    run_phase(
        "count", jax.jit(step, donate_argnums=0), jnp.float32(0), lambda i: None, jax.random.key(0),
        steps=7, log_every=3, observe=lambda state: state,
        on_log=lambda n, values, observed: (seen.update({n: observed}), states.update({n: values["loss"]})),
    )  # fmt: skip
    assert seen == {1: 1.0, 3: 3.0, 6: 6.0, 7: 7.0}
    assert states == {1: 0.0, 3: 2.0, 6: 5.0, 7: 6.0}


def test_each_step_has_its_own_key_and_the_same_after_a_resume():
    def step(state, batch, key):
        return state.at[batch].set(jax.random.bits(key)), {"loss": jnp.float32(0)}

    def run(state, start, steps):
        return run_phase("keys", jax.jit(step), state, lambda i: i, jax.random.key(3), steps=steps, start=start)

    once = run(jnp.zeros(9, jnp.uint32), 0, 9)
    again = run(run(jnp.zeros(9, jnp.uint32), 0, 4), 4, 9)
    assert len(set(once.tolist())) == 9
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(once[5], jax.random.bits(jax.random.fold_in(jax.random.key(3), 5)))


def spoilt_at(n, value):
    """A step whose loss is `value` from the n-th on."""

    def step(state, batch, key):
        state, metrics = toy._step(state, batch, key)
        return state, metrics | {"loss": jnp.where(batch["i"] + 1 >= n, value, metrics["loss"])}

    return jax.jit(step, donate_argnums=0)


@pytest.mark.parametrize(
    "n, last_good, value",
    [(1, None, np.nan), (7, 5, np.inf), (10, 5, np.nan), (11, 10, -np.inf), (23, 20, np.nan)],
)
def test_non_finite_loss_names_its_step_and_saves_nothing_after_it(n, last_good, value, tmp_path):
    def batches(i):
        return toy.batch_of(i) | {"i": i}

    with pytest.raises(NonFiniteLoss) as error:
        toy.train(tmp_path, STEPS, step=spoilt_at(n, value), batches=batches, checkpoint_every=5, log_every=8)
    assert error.value.step == n
    assert error.value.last_good == last_good
    assert f"loss is {value} at step {n} " in str(error.value)
    assert f"last good checkpoint: {'none' if last_good is None else last_good}" in str(error.value)
    saved = [int(p.name) for p in Path(tmp_path, "checkpoints").iterdir()]
    assert max(saved, default=None) == last_good


def test_other_metrics_can_be_asked_to_stay_finite(tmp_path):
    def step(state, batch, key):
        return state, {"loss": jnp.float32(1), "norm": jnp.where(batch == 3, jnp.nan, 1.0)}

    arguments = ("toy", jax.jit(step), jnp.float32(0), lambda i: i, jax.random.key(0))
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        run_phase(*arguments, steps=4, log_every=2, writer=writer)
    assert read(tmp_path)[-1] == {"phase": "toy", "step": 4, "loss": 1.0, "norm": None}
    with pytest.raises(NonFiniteLoss, match="norm is nan at step 4"):
        run_phase(*arguments, steps=9, finite=("loss", "norm"))


def test_saves_by_time(tmp_path):
    with Checkpoints(tmp_path, keep=50) as checkpoints:
        run_phase("toy", toy.step, toy.init(), toy.batch_of, jax.random.key(0), steps=3,
                  checkpoints=checkpoints, checkpoint_seconds=0.0, meta={"phase": "toy"})  # fmt: skip
        restored = checkpoints.restore(toy.init())
    assert {p.name for p in tmp_path.iterdir()} == {"1", "2", "3"}
    assert restored is not None and restored.meta == {"phase": "toy"}
