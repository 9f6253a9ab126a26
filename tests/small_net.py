"""A small classifier with inner layers, which counts the images it is given, and its data."""

import torch
from torch import Tensor, nn

from um_bench.backbones import Inner

CLASSES, FEATURES = 5, 24


class Net(nn.Module):
    """A classifier of the shape that detectors see: two stages, pooling, a linear head."""

    num_classes = CLASSES
    feature_dim = FEATURES

    def __init__(self, bias: bool = True):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(8, FEATURES, 2), nn.BatchNorm2d(FEATURES), nn.ReLU(), nn.Dropout()
        )
        self.fc = nn.Linear(FEATURES, CLASSES, bias=bias)
        self.seen = 0

    @property
    def net(self) -> nn.Module:
        return self

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        return (self.stem, self.body)

    @property
    def num_maps(self) -> int:
        return 2

    def stage_map(self, output: Tensor) -> Tensor:
        return output

    def inner(self, images: Tensor) -> Inner:
        self.seen += len(images)
        first = self.stem(images)
        last = self.body(first)
        features = last.mean(dim=(2, 3))
        return Inner((first, last), last, features, self.head(features))

    def features(self, images: Tensor) -> Tensor:
        return self.inner(images).features

    def head(self, features: Tensor) -> Tensor:
        return self.head_layer(features)

    def head_of_map(self, final: Tensor) -> Tensor:
        return self.head(final.mean(dim=(2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    @property
    def head_layer(self) -> nn.Linear:
        return self.fc


Batches = list[tuple[Tensor, Tensor]]


def batches(count: int, seed: int, *, ood: bool = False) -> Batches:
    """Return noisy images, coloured by their class; OOD ones in colours of no class."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(
        CLASSES, 3, 1, 1, generator=torch.Generator().manual_seed(99 if ood else 9)
    )
    labels = torch.arange(count) % CLASSES
    images = (colours[labels] + 0.3 * torch.randn(count, 3, 10, 10, generator=generator)).clamp(
        0, 1
    )
    labels = torch.full_like(labels, -1) if ood else labels
    return list(zip(images.split(32), labels.split(32), strict=True))


def trained(**options: bool) -> Net:
    torch.manual_seed(0)
    net = Net(**options)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for images, labels in batches(200, 1) * 4:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net.eval()


TRAIN, TEST, OOD = batches(200, 1), batches(70, 2), batches(90, 3, ood=True)
MODEL = trained()
