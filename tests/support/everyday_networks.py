"""Twelve networks as people write them, with random weights that a seed determines.

`EVERYDAY` lists them: the name, a factory without arguments, and the shape of one input.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from edge_mnist.graph.layers import Shape


class ExampleNet(nn.Module):
    """The network of pytorch/examples/mnist, with fewer channels; its forward is that of the original."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, 1)
        self.conv2 = nn.Conv2d(6, 8, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(1152, 16)
        self.fc2 = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        x = F.relu(x)
        x = self.conv2(x)
        x = F.relu(x)
        x = F.max_pool2d(x, 2)
        x = self.dropout1(x)
        x = torch.flatten(x, 1)
        x = self.fc1(x)
        x = F.relu(x)
        x = self.dropout2(x)
        x = self.fc2(x)
        output = F.log_softmax(x, dim=1)
        return output


class LeNet5(nn.Module):
    """LeNet-5 with tanh and average pooling, over 32x32 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_extractor = nn.Sequential(
            nn.Conv2d(1, 6, kernel_size=5, stride=1),
            nn.Tanh(),
            nn.AvgPool2d(kernel_size=2),
            nn.Conv2d(6, 16, kernel_size=5, stride=1),
            nn.Tanh(),
            nn.AvgPool2d(kernel_size=2),
            nn.Conv2d(16, 30, kernel_size=5, stride=1),
            nn.Tanh(),
        )
        self.classifier = nn.Sequential(nn.Linear(30, 24), nn.Tanh(), nn.Linear(24, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.feature_extractor(x)
        x = torch.flatten(x, 1)
        logits = self.classifier(x)
        return F.softmax(logits, dim=1)


class CourseNet(nn.Module):
    """A course's network: 1x1 convolutions between blocks, a view and log_softmax, no bias."""

    def __init__(self, drop: float = 0.05) -> None:
        super().__init__()
        self.block1 = self._block(1, 6, drop)
        self.transition = nn.Sequential(nn.Conv2d(6, 4, (1, 1), padding=0, bias=False), nn.MaxPool2d(2, 2))
        self.block2 = self._block(4, 8, drop)
        self.gap = nn.Sequential(nn.AvgPool2d(kernel_size=11))
        self.out = nn.Sequential(nn.Conv2d(8, 10, (1, 1), padding=0, bias=False))

    @staticmethod
    def _block(inputs: int, outputs: int, drop: float) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, (3, 3), padding=0, bias=False),
            nn.ReLU(),
            nn.BatchNorm2d(outputs),
            nn.Dropout(drop),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.transition(self.block1(x))
        x = self.out(self.gap(self.block2(x)))
        x = x.view(-1, 10)
        return F.log_softmax(x, dim=-1)


def separable() -> nn.Module:
    """Depthwise separable convolutions for keyword spotting, over 49x10 features of one channel."""

    def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    return nn.Sequential(
        nn.Conv2d(1, 8, (10, 4), stride=2, padding=(4, 1), bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        block(8, 12),
        block(12, 16, stride=2),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.Linear(16, 12),
    )


class Fire(nn.Module):
    """SqueezeNet's fire module."""

    def __init__(self, inputs: int, squeezed: int, outputs: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, kernel_size=1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeezed, outputs, kernel_size=1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeezed, outputs, kernel_size=3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1
        )


class SqueezeNet(nn.Module):
    """Two fire modules, a max pool with ceil_mode, and a convolution as the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, kernel_size=3, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(8, 4, 6),
            Fire(12, 5, 8),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(p=0.5), nn.Conv2d(16, 10, kernel_size=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        x = self.classifier(x)
        return torch.flatten(x, 1)


class BasicBlock(nn.Module):
    """A residual block; the shortcut has a convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class ResNet(nn.Module):
    """A residual network for CIFAR-10, as in many repositories, with few channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.layers = nn.ModuleList([BasicBlock(6, 6), BasicBlock(6, 8, stride=2), BasicBlock(8, 10, stride=2)])
        self.linear = nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == 3, f"expected RGB, found {x.shape}"
        out = F.relu(self.bn1(self.conv1(x)))
        for layer in self.layers:
            out = layer(out)
        out = F.avg_pool2d(out, out.size()[3])
        out = out.view(out.size(0), -1)
        return self.linear(out)


class VGG(nn.Module):
    """A VGG for 3x32x32 that is built from a list, with few channels."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for entry in (6, "M", 8, "M", 10, 10, "M"):
            if entry == "M":
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
                continue
            outputs = int(entry)
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            channels = outputs
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Linear(channels * 4, 24), nn.ReLU(True), nn.Dropout(), nn.Linear(24, 10), nn.Softmax(dim=1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), start_dim=1))


class Hardswish(nn.Module):
    """Convolutions with hardswish and "same" padding of an even kernel, and a mean over height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, padding="same")
        self.act = nn.Hardswish()
        self.down = nn.Conv2d(8, 12, 3, stride=2)
        self.head = nn.Linear(12, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem(x))
        x = self.act(self.down(F.pad(x, (0, 1, 0, 1))))  # TensorFlow's padding "same" at stride 2
        return self.head(x.mean([2, 3]))


class Autoencoder(nn.Module):
    """An autoencoder of Linear layers over a vector, for the detection of anomalies."""

    def __init__(self, features: int = 20) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.ReLU()
        )
        self.decoder = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        encoded = self.encoder(x)
        decoded = self.decoder(encoded)
        return decoded


class SensorNet(nn.Module):
    """Conv1d over three axes of an accelerometer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(3, 8, kernel_size=5, padding=2)
        self.bn1 = nn.BatchNorm1d(8)
        self.conv2 = nn.Conv1d(8, 12, kernel_size=3)
        self.pool = nn.MaxPool1d(2)
        self.gap = nn.AdaptiveAvgPool1d(1)
        self.fc = nn.Linear(12, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.leaky_relu(self.bn1(self.conv1(x)), 0.1))
        x = F.elu(self.conv2(x))
        x = self.gap(x).squeeze(-1)
        return self.fc(x)


class InvertedResidual(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.use_res_connect = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


def mobile() -> nn.Module:
    """Inverted residuals with ReLU6."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU6(inplace=True),
        InvertedResidual(6, 8, 2, 3),
        InvertedResidual(8, 8, 1, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


class SELayer(nn.Module):
    """The gate of squeeze and excitation, as in the repositories that are copied most."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


class GateNet(nn.Module):
    """A residual block with a gate, and SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.SiLU())
        self.conv = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU())
        self.se = SELayer(8)
        self.head = nn.Conv2d(8, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.se(self.conv(x))
        return self.head(F.adaptive_avg_pool2d(x, (1, 1))).squeeze(3).squeeze(2)


def seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A factory of the network that `make` gives, with the same random weights and statistics each time."""

    def build() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            network = make()
            for part in network.modules():
                if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
                    nn.init.normal_(part.weight, 1, 0.3)
                    nn.init.normal_(part.bias, 0, 0.3)
                    nn.init.normal_(part.running_mean, 0, 0.3)
                    nn.init.uniform_(part.running_var, 0.5, 1.5)
        return network.eval()

    return build


EVERYDAY: list[tuple[str, Callable[[], nn.Module], Shape]] = [
    (name, seeded(make), shape)
    for name, make, shape in (
        ("pytorch-example", ExampleNet, (1, 28, 28)),
        ("lenet5-tanh", LeNet5, (1, 32, 32)),
        ("course", CourseNet, (1, 28, 28)),
        ("separable", separable, (1, 49, 10)),
        ("squeezenet", SqueezeNet, (3, 26, 26)),
        ("resnet", ResNet, (3, 16, 16)),
        ("vgg", VGG, (3, 32, 32)),
        ("hardswish", Hardswish, (3, 12, 12)),
        ("autoencoder", Autoencoder, (20,)),
        ("sensor", SensorNet, (3, 40)),
        ("mobile-relu6", mobile, (3, 24, 24)),
        ("gate", GateNet, (3, 16, 16)),
    )
]
"""The networks: the name, a factory without arguments, and the shape of one input."""
