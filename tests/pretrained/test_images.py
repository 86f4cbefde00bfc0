"""Weights of the image families: stored logits of transformers, and every way in which a directory may not fit."""

import gzip
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dms_jax
from dms_jax import UserError, models, pretrained
from tests.helpers import FLOAT32_LOGITS
from tests.pretrained.image_cases import CLASSES, SMALL, our_logits, tolerance, write
from tests.pretrained.image_reference import STORED

REFERENCE = json.loads(gzip.decompress(STORED.read_bytes()))


def directory_of(name, folder):
    write(folder, REFERENCE[name]["config"], REFERENCE[name]["shapes"])
    return folder


@pytest.mark.parametrize("name", SMALL)
def test_logits_are_those_of_transformers(name, tmp_path):
    expected = np.array(REFERENCE[name]["logits"])
    found = our_logits(SMALL[name], directory_of(name, tmp_path))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(expected))


def load(name, folder, **arguments):
    case = SMALL[name]
    return pretrained.load(case.name, folder, **{"num_classes": CLASSES, **case.arguments, **arguments})


def test_shards_are_read_like_one_file(tmp_path):
    directory = directory_of("vit", tmp_path)
    whole = load("vit", directory)
    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    shards = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, inside in shards.items():
        save_file({name: tensors[name] for name in inside}, directory / file)
    index = {"weight_map": {name: file for file, inside in shards.items() for name in inside}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "model.safetensors").unlink()
    jax.tree.map(np.testing.assert_array_equal, load("vit", directory), whole)
    (directory / "b.safetensors").unlink()
    with pytest.raises(UserError, match="b.safetensors"):
        load("vit", directory)


def test_half_precision_becomes_float32(tmp_path):
    directory = directory_of("vit", tmp_path)
    tensors = load_file(directory / "model.safetensors")
    save_file({name: x.astype(np.float16) for name, x in tensors.items()}, directory / "model.safetensors")
    assert {leaf.dtype for leaf in jax.tree.leaves(load("vit", directory))} == {np.dtype(np.float32)}


def test_every_fault_is_listed(tmp_path):
    directory = directory_of("resnet_basic", tmp_path)
    tensors = load_file(directory / "model.safetensors")
    del tensors["classifier.1.bias"], tensors["resnet.embedder.embedder.normalization.running_mean"]
    tensors["resnet.embedder.embedder.convolution.weight"] = np.zeros((8, 3, 3, 3), np.float32)
    tensors["classifier.1.weight"] = np.zeros((CLASSES, 16), np.int32)
    tensors |= {f"extra{i}": np.zeros(1, np.float32) for i in range(20)}
    save_file(tensors, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "downsample_in_bottleneck": True}))
    with pytest.raises(UserError) as caught:
        load("resnet_basic", directory)
    message = str(caught.value)
    assert "25 faults" in message
    for part in (
        "config.json has downsample_in_bottleneck True, the network False",
        "classifier.1.bias is missing (params/classifier/bias stays empty)",
        "running_mean is missing (batch_stats/norm/mean stays empty)",
        "convolution.weight has shape (8, 3, 3, 3), the network's is (8, 3, 7, 7)",
        "classifier.1.weight holds I32",
        *(f"extra{i} is not used" for i in range(20)),
    ):
        assert part in message


def test_another_class_count_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="2 faults.*make it with num_classes=10"):
        load("mobilenet_v2", directory_of("mobilenet_v2", tmp_path), num_classes=1001)


def test_a_background_class_is_left_out(tmp_path):
    directory = directory_of("mobilenet_v2", tmp_path)
    whole = load("mobilenet_v2", directory)["params"]["classifier"]
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"id2label": {"0": "background", "1": "tench"}}))
    rest = load("mobilenet_v2", directory, num_classes=CLASSES - 1)["params"]["classifier"]
    np.testing.assert_array_equal(rest["kernel"], whole["kernel"][:, 1:])
    np.testing.assert_array_equal(rest["bias"], whole["bias"][1:])
    np.testing.assert_array_equal(load("mobilenet_v2", directory)["params"]["classifier"]["bias"], whole["bias"])


def test_another_size_is_an_error(tmp_path):
    with pytest.raises(UserError, match="config.json has num_hidden_layers 2, the network 3.*block2/norm1"):
        load("vit", directory_of("vit", tmp_path), depth=3)


def test_a_family_that_is_not_read_is_an_error(tmp_path):
    sizes = {"vocabulary": 8, "width": 8, "layers": 1, "heads": 2, "hidden": 8}
    with pytest.raises(UserError, match="ResNet.*llama.load"):
        pretrained.load("llama", tmp_path, **sizes)


def test_no_directory_is_an_error(tmp_path):
    with pytest.raises(UserError, match="config.json cannot be read"):
        load("vit", tmp_path / "nowhere")


def test_loaded_weights_can_be_searched(tmp_path):
    """The variables are those of the model: a structure slices them."""
    variables = load("swin", directory_of("swin", tmp_path))
    case = SMALL["swin"]
    model = models.create(case.name, num_classes=CLASSES, **case.arguments)
    x = np.zeros((1, 32, 32, 3), np.float32)
    space = dms_jax.SearchSpace.from_model(model, x)
    assert dms_jax.verify(space, variables, space.structure({"stage2/depth": (1,)}), x) < FLOAT32_LOGITS
