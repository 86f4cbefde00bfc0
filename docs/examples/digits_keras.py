"""A small Keras network of convolutions on scikit-learn's digits, fitted to half its MACs."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported

import keras
import numpy as np
import optax
from keras import layers
from sklearn.datasets import load_digits

import dms_jax

images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
labels = labels.astype(np.int32)
train, test = np.arange(1440), np.arange(1440, 1797)


def make():
    stem = [keras.Input((8, 8, 1)), layers.Conv2D(32, 3), layers.BatchNormalization(), layers.ReLU()]
    return keras.Sequential(
        [*stem, layers.Conv2D(32, 3, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(10)]
    )


def main(workdir: str = "runs/digits_keras", steps: int = 300):
    model = make()

    def loss(params, batch, key):
        arrays = params["trainable"], params["non_trainable"]
        logits, changed = model.stateless_call(*arrays, batch["image"], training=True)[:2]
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return nats.mean(), {"state": {"non_trainable": changed}}

    def batches(step):
        chosen = np.random.default_rng(step).choice(train, 64)
        return {"image": images[chosen], "label": labels[chosen]}

    def accuracy(fn, params):
        return np.mean(np.argmax(fn(params, images[test]), axis=-1) == labels[test])

    space = dms_jax.SearchSpace.from_keras(model, images[:1])
    how = {"budget": {"macs": 0.5}, "pretrain": steps, "steps": steps, "workdir": workdir}
    return dms_jax.fit(space, loss=loss, batches=batches, evaluate=accuracy, **how)


if __name__ == "__main__":
    main()
