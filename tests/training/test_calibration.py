"""BatchNorm statistics estimated anew: the mean over batches, whatever the momentum, and only where asked for."""

import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax.training import make_mesh, shard_batch, supervised
from dms_jax.training.calibration import calibrated
from dms_jax.training.job import Job
from dms_jax.training.optimizers import sgd
from dms_jax.training.runs import Run
from tests.helpers import FLOAT32_ROUNDING


class Normed(nn.Module):
    momentum: float

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=self.momentum, name="norm")(x)
        return nn.Dense(3)(x)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
def test_statistics_are_the_mean_over_batches(momentum):
    draw = np.random.default_rng(0)
    images = draw.normal(2.0, 3.0, (5, 8, 4)).astype(np.float32)
    model = Normed(momentum)
    variables = dict(model.init(jax.random.key(0), images[0]))
    batches = lambda i: {"image": jnp.asarray(images[i]), "label": jnp.zeros(8, jnp.int32)}  # noqa: E731
    found = calibrated(supervised.classification_loss(model), variables, batches, jax.random.key(1), 5)
    norm = found["batch_stats"]["norm"]
    np.testing.assert_allclose(norm["mean"], images.mean(axis=(0, 1)), atol=100 * FLOAT32_ROUNDING)
    np.testing.assert_allclose(norm["var"], images.var(axis=1).mean(axis=0), atol=1000 * FLOAT32_ROUNDING)
    assert all(map(operator.is_, jax.tree.leaves(found["params"]), jax.tree.leaves(variables["params"])))


def test_job_estimates_them_where_asked_for(tmp_path):
    model, mesh = Normed(0.99), make_mesh()
    images = np.random.default_rng(0).normal(5.0, 1.0, (16, 4)).astype(np.float32)
    batch = {"image": images, "label": np.zeros(16, np.int32)}
    variables = model.init(jax.random.key(0), images)
    means = []
    for count in (0, 2):
        with Run(tmp_path / str(count), {}) as run:
            draw = lambda i: shard_batch(batch, mesh)  # noqa: E731
            job = Job(run, supervised.classification_loss(model), draw, mesh, jax.random.key(0), calibrate=count)
            trained = job.train("train", job.loss, variables, sgd(1e-3), 2)
            means.append(float(jnp.mean(trained["batch_stats"]["norm"]["mean"])))
    assert means[0] < 0.2 and means[1] == pytest.approx(5.0, abs=0.2)  # running: 1 - .99^2 of the way
