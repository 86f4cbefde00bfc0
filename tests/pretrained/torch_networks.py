"""ResNet, MobileNetV2 and EfficientNet in PyTorch, with the names of modules that torchvision's state dicts have."""

import math

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from dms_jax.models.efficientnet import STAGES as EFFICIENT
from dms_jax.models.inverted import round_channels
from dms_jax.models.mobilenet import STAGES as MOBILE


def conv_norm(inputs, outputs, size, stride, act, groups=1, epsilon=1e-5):
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=epsilon), *([act()] if act else []))


class Inverted(nn.Module):
    """Its layers are called "conv"."""

    def __init__(self, inputs, outputs, expansion, stride):
        super().__init__()
        mid = inputs * expansion
        self.skip = stride == 1 and inputs == outputs
        layers = [conv_norm(inputs, mid, 1, 1, nn.ReLU6)] if expansion > 1 else []
        layers += [conv_norm(mid, mid, 3, stride, nn.ReLU6, groups=mid)]
        self.conv = nn.Sequential(*layers, nn.Conv2d(mid, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return x + self.conv(x) if self.skip else self.conv(x)


class Squeeze(nn.Module):
    def __init__(self, channels, inner):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(nn.functional.silu(self.fc1(x.mean((2, 3), keepdim=True)))))


class MBConv(nn.Module):
    """Its layers are called "block"."""

    def __init__(self, inputs, outputs, expansion, stride, size, epsilon):
        super().__init__()
        mid = inputs * expansion
        self.skip = stride == 1 and inputs == outputs
        layers = [conv_norm(inputs, mid, 1, 1, nn.SiLU, epsilon=epsilon)] if expansion > 1 else []
        layers += [conv_norm(mid, mid, size, stride, nn.SiLU, groups=mid, epsilon=epsilon)]
        layers += [Squeeze(mid, max(1, inputs // 4)), conv_norm(mid, outputs, 1, 1, None, epsilon=epsilon)]
        self.block = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.block(x) if self.skip else self.block(x)


class Features(nn.Module):
    """`features`, the mean over positions, and `classifier`."""

    def __init__(self, features, channels, classes):
        super().__init__()
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(channels, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def mobilenet_v2(classes, width=1.0):
    channels = round_channels(32 * width)
    features: list[nn.Module] = [conv_norm(3, channels, 3, 2, nn.ReLU6)]
    for expansion, outputs, blocks, stride in MOBILE:
        for i in range(blocks):
            outs = round_channels(outputs * width)
            features.append(Inverted(channels, outs, expansion, stride if i == 0 else 1))
            channels = outs
    head = round_channels(1280 * max(1.0, width))
    return Features([*features, conv_norm(channels, head, 1, 1, nn.ReLU6)], head, classes)


def efficientnet(classes, width=1.0, depth=1.0, epsilon=1e-5):
    channels = round_channels(32 * width)
    features = [conv_norm(3, channels, 3, 2, nn.SiLU, epsilon=epsilon)]
    for expansion, outputs, blocks, stride, size in EFFICIENT:
        stage = []
        for i in range(math.ceil(blocks * depth)):
            outs = round_channels(outputs * width)
            stage.append(MBConv(channels, outs, expansion, stride if i == 0 else 1, size, epsilon))
            channels = outs
        features.append(nn.Sequential(*stage))
    head = round_channels(1280 * width)
    return Features([*features, conv_norm(channels, head, 1, 1, nn.SiLU, epsilon=epsilon)], head, classes)


class Residual(nn.Module):
    """A block of a ResNet, of two layers or three."""

    def __init__(self, inputs, features, stride, expansion):
        super().__init__()
        outputs = features * expansion
        sizes = [(inputs, features, 3, stride), (features, features, 3, 1)]
        if expansion > 1:
            sizes = [(inputs, features, 1, 1), (features, features, 3, stride), (features, outputs, 1, 1)]
        self.layers = len(sizes)
        for i, (before, after, size, step) in enumerate(sizes, 1):
            setattr(self, f"conv{i}", nn.Conv2d(before, after, size, step, size // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(after))
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        skip = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.layers + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            x = torch.relu(x) if i < self.layers else x
        return torch.relu(x + skip)


class ResNet(nn.Module):
    def __init__(self, classes, blocks, expansion):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        channels = 64
        for stage, (count, features) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), 1):
            layer = []
            for i in range(count):
                layer.append(Residual(channels, features, 2 if stage > 1 and i == 0 else 1, expansion))
                channels = features * expansion
            setattr(self, f"layer{stage}", nn.Sequential(*layer))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))
