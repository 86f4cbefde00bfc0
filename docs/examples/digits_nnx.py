"""A small NNX network of convolutions on scikit-learn's digits, fitted to half its MACs."""

import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import dms_jax

images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
labels = labels.astype(np.int32)
train, test = np.arange(1440), np.arange(1440, 1797)


class CNN(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 32, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.conv2 = nnx.Conv(32, 64, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.output = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.norm(self.conv1(x))), (2, 2), (2, 2))
        x = nnx.relu(self.conv2(x)).mean(axis=(1, 2))
        return self.output(self.dropout(nnx.relu(self.hidden(x))))


def main(workdir: str = "runs/digits_nnx", steps: int = 300):
    model = CNN(nnx.Rngs(0))
    graphdef = nnx.graphdef(model)

    def loss(params, batch, key):
        network = nnx.merge(graphdef, params)
        nats = optax.softmax_cross_entropy_with_integer_labels(network(batch["image"]), batch["label"])
        return nats.mean(), {"state": nnx.state(network, nnx.Not(nnx.Param))}

    def batches(step):
        chosen = np.random.default_rng(step).choice(train, 64)
        return {"image": images[chosen], "label": labels[chosen]}

    def accuracy(fn, params):
        return np.mean(np.argmax(fn(params, images[test]), axis=-1) == labels[test])

    space = dms_jax.SearchSpace.from_nnx(model, images[:1])
    how = {"budget": {"macs": 0.5}, "pretrain": steps, "steps": steps, "workdir": workdir}
    return dms_jax.fit(space, loss=loss, batches=batches, evaluate=accuracy, **how)


if __name__ == "__main__":
    main()
