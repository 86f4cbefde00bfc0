"""A run of three phases of the toy."""

import jax
import numpy as np
import toy

from dms_jax.training.runs import Run

PHASES = {"a": 7, "search": 9, "b": 5}


def go(directory, stop=None, batches=None, phases=None, **options):
    """Three phases, each from the state before; `stop` is (phase, step) in which a signal arrives."""
    state = toy.init()
    with Run(directory, {"experiment": "toy"}) as run:
        for name, steps in (phases or PHASES).items():

            def batch_of(i, name=name):
                run.interrupt.requested |= stop == (name, i)
                return toy.batch_of(i)

            def masks(step, values, observed, name=name):
                if name == "search":
                    run.record_masks(name, step, {"g": observed})

            state = run.phase(
                name, toy.step, toy.init()._replace(params=jax.tree.map(jax.numpy.copy, state.params)),
                batches or batch_of, jax.random.key(1), steps=steps, log_every=2,
                observe=lambda s: jax.nn.sigmoid(s.params["b.1"]), on_log=masks, **options,
            )  # fmt: skip
    return state


def same(a, b):
    assert [np.asarray(x).tobytes() for x in jax.tree.leaves(a)] == [
        np.asarray(x).tobytes() for x in jax.tree.leaves(b)
    ]
