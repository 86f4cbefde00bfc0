"""Keras 3 on the JAX backend: a built model."""

from typing import Any

from dms_jax.adapters import training
from dms_jax.adapters.source import Source, differentiable, distinct, framework, inference_keywords
from dms_jax.errors import UserError


def source(model: Any, *inputs: Any, **call: Any) -> Source:
    """Return `model.stateless_call` for inference as a function of all its variables.

    A loss calls `model.stateless_call(params["trainable"], params["non_trainable"], x, training=True)`.

    Args:
        model: a `keras.Model` or `keras.Layer`, built.
        inputs: example arguments; only their number matters here.
        call: keywords of the call; training=False is added where the model takes it and it is not given.

    Returns:
        A source with the parameters {"trainable": [...], "non_trainable": [...]}, arrays in the order of
        `model.trainable_variables` and `model.non_trainable_variables`. They are the model's own, not copies.

    Raises:
        UserError: Keras is missing or runs on another backend, `model` is no Keras model or not built, or it does not
            take these arguments.
    """
    keras = framework("keras", "keras")
    if keras.backend.backend() != "jax":
        raise UserError(f"Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=jax before it is imported")
    title = type(model).__name__
    if not isinstance(model, keras.Layer):
        raise UserError(f"expected a keras.Model, not {title}; pass the model itself, not its class")
    if not model.built:
        raise UserError(f"{title} is not built; call it on an example, or model.build(shape), first")
    keywords = inference_keywords(model.call, inputs, call, title)

    variables = {"non_trainable": model.non_trainable_variables, "trainable": model.trainable_variables}
    params = {name: [variable.value for variable in group] for name, group in variables.items()}
    trainable = {
        name: [name == "trainable" and differentiable(leaf) for leaf in leaves] for name, leaves in params.items()
    }
    paths = distinct(variable.path for group in variables.values() for variable in group)

    def fn(params: Any, *inputs: Any) -> Any:
        arrays = params["trainable"], params["non_trainable"]
        return model.stateless_call(*arrays, *inputs, **keywords)[0]

    return Source(fn, params, trainable, title, paths, training.keras(model, keywords))
