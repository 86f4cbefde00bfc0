"""A small Flax Linen network of convolutions on scikit-learn's digits, fitted to half its MACs."""

import flax.linen as nn
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import dms_jax

images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
labels = labels.astype(np.int32)
train, test = np.arange(1440), np.arange(1440, 1797)


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(32, (3, 3))(x)))
        x = nn.relu(nn.Conv(64, (3, 3), strides=2)(x)).mean(axis=(1, 2))
        x = nn.Dropout(0.1, deterministic=not train)(nn.relu(nn.Dense(128)(x)))
        return nn.Dense(10)(x)


def main(workdir: str = "runs/digits_linen", steps: int = 300):
    model = CNN()
    variables = model.init(jax.random.key(0), images[:1])

    def loss(variables, batch, key):
        call = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": key}}
        logits, changed = model.apply(variables, batch["image"], **call)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return nats.mean(), {"state": changed}

    def batches(step):
        chosen = np.random.default_rng(step).choice(train, 64)
        return {"image": images[chosen], "label": labels[chosen]}

    def accuracy(fn, variables):
        return np.mean(np.argmax(fn(variables, images[test]), axis=-1) == labels[test])

    space = dms_jax.SearchSpace.from_linen(model, variables, images[:1])
    how = {"budget": {"macs": 0.5}, "pretrain": steps, "steps": steps, "workdir": workdir}
    return dms_jax.fit(space, loss=loss, batches=batches, evaluate=accuracy, **how)


if __name__ == "__main__":
    main()
