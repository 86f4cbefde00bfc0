"""A network of plain functions on scikit-learn's digits: python -m experiments.fit docs/examples/plain.py --macs=0.5"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import dms_jax

images, labels = load_digits(return_X_y=True)
images, labels = (images / 16).astype(np.float32), labels.astype(np.int32)


def network(params, x):
    for w, b in params["hidden"]:
        x = jax.nn.relu(x @ w + b[None])
    return x @ params["output"]


def loss(params, batch, key):
    image, label = batch
    return optax.softmax_cross_entropy_with_integer_labels(network(params, image), label).mean()


def accuracy(fn, params):
    return np.mean(np.argmax(fn(params, images[1440:]), axis=-1) == labels[1440:])


def task():
    keys = jax.random.split(jax.random.key(0), 3)
    layer = lambda key, n, m: jax.random.normal(key, (n, m)) * (2 / n) ** 0.5  # noqa: E731
    hidden = [(layer(keys[0], 64, 48), jnp.zeros(48)), (layer(keys[1], 48, 32), jnp.zeros(32))]
    params = {"hidden": hidden, "output": layer(keys[2], 32, 10)}
    batches = [(images[i : i + 64], labels[i : i + 64]) for i in range(0, 1408, 64)]
    return dms_jax.Task(network, params, loss, batches, accuracy, images[:1])
