"""A small Haiku network of convolutions on scikit-learn's digits, fitted to half its MACs."""

import haiku as hk
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import dms_jax

images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
labels = labels.astype(np.int32)
train, test = np.arange(1440), np.arange(1440, 1797)


def network(x):
    x = jax.nn.relu(hk.Conv2D(32, 3)(x))
    x = jax.nn.relu(hk.Conv2D(64, 3, stride=2)(x)).mean(axis=(1, 2))
    return hk.Linear(10)(jax.nn.relu(hk.Linear(128)(x)))


def main(workdir: str = "runs/digits_haiku", steps: int = 300):
    model = hk.transform(network)
    params = model.init(jax.random.key(0), images[:1])

    def loss(params, batch, key):
        logits = model.apply(params, key, batch["image"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    def batches(step):
        chosen = np.random.default_rng(step).choice(train, 64)
        return {"image": images[chosen], "label": labels[chosen]}

    def accuracy(fn, params):
        return np.mean(np.argmax(fn(params, images[test]), axis=-1) == labels[test])

    space = dms_jax.SearchSpace.from_haiku(model, params, images[:1])
    how = {"budget": {"macs": 0.5}, "pretrain": steps, "steps": steps, "workdir": workdir}
    return dms_jax.fit(space, loss=loss, batches=batches, evaluate=accuracy, **how)


if __name__ == "__main__":
    main()
