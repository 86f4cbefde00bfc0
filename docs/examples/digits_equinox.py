"""A small Equinox network of convolutions on scikit-learn's digits, fitted to half its MACs."""

import equinox as eqx
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import dms_jax

images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
labels = labels.astype(np.int32)
train, test = np.arange(1440), np.arange(1440, 1797)


class CNN(eqx.Module):
    layers: list

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv2d(1, 32, kernel_size=3, key=keys[0]),
            jax.nn.relu,
            eqx.nn.Conv2d(32, 32, kernel_size=3, key=keys[1]),
            jax.nn.relu,
            lambda x: x.mean(axis=(1, 2)),
            eqx.nn.Linear(32, 64, key=keys[2]),
            jax.nn.relu,
            eqx.nn.Linear(64, 10, key=keys[3]),
        ]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def main(workdir: str = "runs/digits_equinox", steps: int = 300):
    model = CNN(jax.random.key(0))

    def loss(model, batch, key):
        logits = jax.vmap(model)(batch["image"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    def batches(step):
        chosen = np.random.default_rng(step).choice(train, 64)
        return {"image": images[chosen], "label": labels[chosen]}

    def accuracy(fn, model):
        return np.mean(np.argmax(fn(model, images[test]), axis=-1) == labels[test])

    space = dms_jax.SearchSpace.from_equinox(model, images[:1])
    how = {"budget": {"macs": 0.5}, "pretrain": steps, "steps": steps, "workdir": workdir}
    return dms_jax.fit(space, loss=loss, batches=batches, evaluate=accuracy, **how)


if __name__ == "__main__":
    main()
