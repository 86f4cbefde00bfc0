"""Sizes of the standard networks against published ones (1000 classes, 224 px); nothing is allocated."""

import jax
import jax.numpy as jnp
import pytest

from dms_jax import SearchSpace, UserError, models
from tests.counting import folded

# Parameters: the networks of torchvision, timm and transformers agree on them. MACs: in multiply-adds of convolutions,
# dense layers and attention products, from the papers or counted there by their authors' tools.
PUBLISHED = {
    "resnet18": (11_689_512, 1.814e9, 0.005),
    "resnet50": (25_557_032, 4.09e9, 0.005),
    "mobilenet_v2": (3_504_872, 0.3008e9, 0.005),
    "efficientnet_b0": (5_288_548, 0.3858e9, 0.005),
    "efficientnet_b4": (19_341_616, 1.5037e9, 0.005),
    "deit_tiny": (5_717_416, 1.254e9, 0.005),
    "deit_tiny_distilled": (5_910_800, 1.261e9, 0.005),
    "vit_base_patch16_224": (86_567_656, 17.56e9, 0.005),
    "swin_tiny": (28_288_354, 4.5e9, 0.02),
}


def space_of(name, size=224, **arguments):
    return SearchSpace.from_model(
        models.create(name, **arguments), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    params, macs, tolerance = PUBLISHED[name]
    resources = space_of(name).resources()
    assert resources["params"] == params
    assert resources["macs"] == pytest.approx(macs, rel=tolerance)


def groups_of(space, kind):
    return {name: group.size for name, group in space.groups.items() if group.kind == kind}


def test_groups_of_efficientnet_b0():
    space = space_of("efficientnet_b0")
    widths = groups_of(space, "width")
    assert widths["stem"] == 32 and widths["head"] == 1280
    assert [widths[f"stage{i}/out"] for i in range(1, 8)] == [16, 24, 40, 80, 112, 192, 320]
    assert widths["stage2/block1/mid"] == 144 and widths["stage2/block1/squeeze/mid"] == 6
    assert "stage1/block0/mid" not in widths  # works on the stem's channels
    assert len(widths) == 2 + 7 + 15 + 16
    depth = groups_of(space, "depth")
    assert depth == {"stage2/depth": 1, "stage3/depth": 1, "stage4/depth": 2, "stage5/depth": 2, "stage6/depth": 3}


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "swin_tiny"])
def test_every_mask_folds(name):
    space = space_of(name)
    assert folded(space) == set(space.groups)


def test_only_the_embedding_does_not_fold_in_a_vision_transformer():
    space = space_of("deit_tiny", depth=2)
    left = {name.split("/")[-1] for name in set(space.groups) - folded(space)}
    assert left == {"embed"}  # its LayerNorms count kept elements


def test_the_papers_supernets():
    mobilenet = space_of("mobilenet_v2", width_multiplier=1.5, block_multiplier=2)
    assert mobilenet.groups["stem"].size == 48 and mobilenet.groups["head"].size == 1920
    assert sum(groups_of(mobilenet, "depth").values()) == 27
    deit = space_of("deit_small", depth=16)
    assert groups_of(deit, "depth") == {"depth": 16}
    assert groups_of(deit, "heads") == {f"block{i}/attention/heads": 6 for i in range(16)}
    assert deit.groups["embed"].size == 384


def test_all_blocks_of_swin_can_go():
    space = space_of("swin_small")
    assert list(groups_of(space, "depth").values()) == [2, 2, 18, 2]
    assert set(groups_of(space, "heads").values()) == {3, 6, 12, 24}


@pytest.mark.parametrize("name", sorted(set(models.MODELS) - set(models.llama.MODELS)))
def test_every_name_makes_a_network(name):
    assert isinstance(models.create(name), models.Searchable)


# Trainable parameters from the published tables; MACs of the convolutions at 640 px, 80 classes.
YOLOV8 = {"yolov8n": (3_157_184, 4.371e9), "yolov8s": (11.2e6, 14.3e9), "yolov8m": (25.9e6, 39.45e9)}
YOLOV8 |= {"yolov8l": (43.7e6, 82.6e9), "yolov8x": (68.2e6, 128.9e9)}


@pytest.mark.parametrize("name", YOLOV8)
def test_published_sizes_of_yolov8(name):
    params, macs = YOLOV8[name]
    resources = space_of(name, 640).resources()
    assert resources["params"] == (params if name == "yolov8n" else pytest.approx(params, abs=0.05e6))
    assert resources["macs"] == pytest.approx(macs, rel=1e-3)


def test_the_papers_supernet_of_yolov8():
    space = space_of("yolov8s", 640, block_multiplier=0.5)
    resources = space.resources()
    assert resources["params"] == 14_959_568 and resources["macs"] == pytest.approx(18.50e9, rel=1e-3)
    depth = {f"stage{i}/depth": blocks for i, blocks in enumerate((2, 3, 3, 2), 1)}
    assert groups_of(space, "depth") == depth
    assert groups_of(space, "width")["neck1/step1"] == 128
    assert set(space.groups) - folded(space) == set(depth)  # a bottleneck ends in SiLU, which is not linear


def test_yolov8_takes_multiples_of_32_pixels():
    with pytest.raises(UserError, match="images of 100 x 100 pixels do not fit; give multiples of 32"):
        space_of("yolov8n", 100)
