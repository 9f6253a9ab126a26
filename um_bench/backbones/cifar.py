"""Architectures for 32x32 images that timm does not have, registered with timm under its interface.

Module names are those of the published checkpoints, so that these load without a key map.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

CIFAR_MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
CIFAR_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class CifarNet(nn.Module):
    """A convolutional network with a pooled linear head, seen through timm's interface.

    A subclass builds its layers, names them in `steps` in the order in which they run, says with
    `shows` which of them are its stages, and ends its `__init__` with `finish`. Features are pooled
    over whatever height and width the strides leave, so N images always give N rows.
    """

    head_name = "fc"
    steps: Sequence[str]

    def __init__(self, num_features: int, in_chans: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.head_hidden_size = num_features
        self.in_chans = in_chans
        self.head_drop = 0.0

    def finish(self, num_classes: int) -> None:
        """Draw the convolutions' weights (He et al., fan in) and add the head."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in")
        self.reset_classifier(num_classes)

    def shows(self, *stages: tuple[str, int, int]) -> None:
        """Declare stages for timm's feature interface: name of a step, maps, image side / side."""
        keys = ("module", "num_chs", "reduction")
        self.feature_info = [dict(zip(keys, stage, strict=True)) for stage in stages]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return feature maps (N, D, h, w) of images (N, C, H, W)."""
        for name in self.steps:
            x = self.get_submodule(name)(x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return feature maps (N, D, h, w) and those of the stages, the arguments being timm's.

        Args:
            x: images (N, C, H, W).
            indices: of the stages; a number means the last ones, None all.
            norm: no stage has a norm to apply.
            stop_early: run nothing after the last of the stages.
            output_fmt: NCHW, which is all that there is.
            intermediates_only: leave out the feature maps.

        Raises:
            ValueError: if another format is asked for.
            IndexError: if there is no such stage.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        wanted = self._stage_names(indices)
        maps: list[Tensor] = []
        for name in self.steps:
            x = self.get_submodule(name)(x)
            if name in wanted:
                maps.append(x)
            if stop_early and len(maps) == len(wanted):
                break
        return maps if intermediates_only else (x, maps)

    def _stage_names(self, indices: int | Sequence[int] | None) -> set[str]:
        names = [str(stage["module"]) for stage in self.feature_info]
        if indices is None:
            return set(names)
        return set(names[-indices:]) if isinstance(indices, int) else {names[i] for i in indices}

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (N, K) of feature maps (N, D, h, w), or their means (N, D)."""
        pooled = F.dropout(x.mean(dim=(2, 3)), self.head_drop, self.training)
        return pooled if pre_logits else self.get_classifier()(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) of normalised images (N, C, H, W)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the head: linear, or the identity where there are 0 classes."""
        return self.get_submodule(self.head_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a fresh one.

        Raises:
            ValueError: if `global_pool` is not average pooling, the only kind these networks have.
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool must be 'avg', got {global_pool!r}")
        self.num_classes = num_classes
        head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        setattr(self, self.head_name, head)


class Stage(nn.Module):
    """Blocks in sequence, named `layer` as in the published checkpoints."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last block's maps."""
        out: Tensor = self.layer(x)
        return out


def _conv(in_planes: int, planes: int, size: int, stride: int = 1) -> nn.Conv2d:
    # A 1x1 convolution has no padding: the paper's code passes 1 to a function that ignores it.
    padding = size // 2
    return nn.Conv2d(in_planes, planes, size, stride=stride, padding=padding, bias=False)


class DenseBlock(nn.Module):
    """1x1 then 3x3 convolution, each after batch norm and ReLU, appended to the input."""

    def __init__(self, in_planes: int, growth: int, affine: bool, drop_rate: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes, affine=affine)
        self.conv1 = _conv(in_planes, 4 * growth, 1)
        self.bn2 = nn.BatchNorm2d(4 * growth, affine=affine)
        self.conv2 = _conv(4 * growth, growth, 3)
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (N, C + growth, H, W) of maps (N, C, H, W)."""
        out = self.conv1(F.relu(self.bn1(x)))
        out = F.dropout(out, self.drop_rate, self.training)
        out = self.conv2(F.relu(self.bn2(out)))
        out = F.dropout(out, self.drop_rate, self.training)
        return torch.cat((x, out), dim=1)


class Transition(nn.Module):
    """Fewer maps at half the height and width."""

    def __init__(self, in_planes: int, planes: int, affine: bool, drop_rate: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes, affine=affine)
        self.conv1 = _conv(in_planes, planes, 1)
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (N, planes, H/2, W/2) of maps (N, in_planes, H, W)."""
        out = self.conv1(F.relu(self.bn1(x)))
        return F.avg_pool2d(F.dropout(out, self.drop_rate, self.training), 2)


class DenseNet(CifarNet):
    """DenseNet-BC of three dense blocks (Huang et al., CVPR 2017, arXiv:1608.06993).

    Args:
        depth: layers in all, 6n + 4; n bottleneck blocks in each dense block.
        growth: maps that each bottleneck block adds.
        reduction: share of the maps that a transition keeps.
        bn_affine: False leaves out batch norm's weight and bias, as the paper of UM does.
        drop_rate: dropout after each convolution inside the blocks.
        num_classes: logits; 0 = no head.
        in_chans: channels of the images.
    """

    def __init__(
        self,
        *,
        depth: int = 100,
        growth: int = 12,
        reduction: float = 0.5,
        bn_affine: bool = True,
        drop_rate: float = 0.0,
        num_classes: int = 10,
        in_chans: int = 3,
    ) -> None:
        per_stage, rest = divmod(depth - 4, 6)
        if rest or per_stage < 1:
            raise ValueError(f"depth must be 6n + 4 with n >= 1, got {depth}")
        first = 2 * growth
        second = int((first + per_stage * growth) * reduction)
        third = int((second + per_stage * growth) * reduction)
        super().__init__(third + per_stage * growth, in_chans)

        def stage(planes: int) -> Stage:
            widths = (planes + i * growth for i in range(per_stage))
            return Stage(DenseBlock(width, growth, bn_affine, drop_rate) for width in widths)

        def transition(planes: int, kept: int) -> Transition:
            return Transition(planes + per_stage * growth, kept, bn_affine, drop_rate)

        self.drop_rate = drop_rate
        self.conv1 = _conv(in_chans, first, 3)
        self.block1 = stage(first)
        self.trans1 = transition(first, second)
        self.block2 = stage(second)
        self.trans2 = transition(second, third)
        self.block3 = stage(third)
        self.bn1 = nn.BatchNorm2d(self.num_features, affine=bn_affine)
        self.relu = nn.ReLU()
        self.steps = ("conv1", "block1", "trans1", "block2", "trans2", "block3", "bn1", "relu")
        # The four layers of the Mahalanobis score in UM's paper.
        self.shows(
            ("conv1", first, 1),
            ("trans1", second, 2),
            ("trans2", third, 4),
            ("relu", self.num_features, 4),
        )
        self.finish(num_classes)


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, added to the input."""

    def __init__(
        self, in_planes: int, planes: int, stride: int, affine: bool, drop_rate: float
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes, affine=affine)
        self.conv1 = _conv(in_planes, planes, 3, stride)
        self.bn2 = nn.BatchNorm2d(planes, affine=affine)
        self.conv2 = _conv(planes, planes, 3)
        self.convShortcut = None if in_planes == planes else _conv(in_planes, planes, 1, stride)
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (N, planes, H/stride, W/stride) of maps (N, in_planes, H, W)."""
        active = F.relu(self.bn1(x))
        out = F.relu(self.bn2(self.conv1(active)))
        added: Tensor = self.conv2(F.dropout(out, self.drop_rate, self.training))
        return added + (x if self.convShortcut is None else self.convShortcut(active))


class WideResNet(CifarNet):
    """Wide residual network of three stages (Zagoruyko & Komodakis, BMVC 2016, arXiv:1605.07146).

    Its names agree with pytorch_ood.model.WideResNet.

    Args:
        depth: layers in all, 6n + 4; n blocks in each stage.
        widen: factor on the stages' 16, 32 and 64 maps.
        bn_affine: False leaves out batch norm's weight and bias, as the paper of UM does.
        drop_rate: dropout between a block's convolutions.
        num_classes: logits; 0 = no head.
        in_chans: channels of the images.
    """

    def __init__(
        self,
        *,
        depth: int = 40,
        widen: int = 2,
        bn_affine: bool = True,
        drop_rate: float = 0.0,
        num_classes: int = 10,
        in_chans: int = 3,
    ) -> None:
        per_stage, rest = divmod(depth - 4, 6)
        if rest or per_stage < 1:
            raise ValueError(f"depth must be 6n + 4 with n >= 1, got {depth}")
        super().__init__(64 * widen, in_chans)

        def stage(in_planes: int, planes: int, stride: int) -> Stage:
            first = WideBlock(in_planes, planes, stride, bn_affine, drop_rate)
            others = (
                WideBlock(planes, planes, 1, bn_affine, drop_rate) for _ in range(per_stage - 1)
            )
            return Stage((first, *others))

        self.drop_rate = drop_rate
        self.conv1 = _conv(in_chans, 16, 3)
        self.block1 = stage(16, 16 * widen, 1)
        self.block2 = stage(16 * widen, 32 * widen, 2)
        self.block3 = stage(32 * widen, 64 * widen, 2)
        self.bn1 = nn.BatchNorm2d(self.num_features, affine=bn_affine)
        self.relu = nn.ReLU()
        self.steps = ("conv1", "block1", "block2", "block3", "bn1", "relu")
        self.shows(
            ("conv1", 16, 1),
            ("block1", 16 * widen, 1),
            ("block2", 32 * widen, 2),
            ("block3", 64 * widen, 4),
        )
        self.finish(num_classes)


class PadShortcut(nn.Module):
    """Every stride-th pixel, with zero maps before and after: no weights (He et al.'s option A)."""

    def __init__(self, added: int, stride: int) -> None:
        super().__init__()
        self.added = added
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (N, C + added, H/stride, W/stride) of maps (N, C, H, W)."""
        before = self.added // 2
        pixels = x[:, :, :: self.stride, :: self.stride]
        return F.pad(pixels, (0, 0, 0, 0, before, self.added - before))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each before batch norm, added to the input."""

    def __init__(self, in_planes: int, planes: int, stride: int, pad_shortcut: bool) -> None:
        super().__init__()
        self.conv1 = _conv(in_planes, planes, 3, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut: nn.Module = nn.Identity()
        if in_planes != planes and pad_shortcut:
            self.shortcut = PadShortcut(planes - in_planes, stride)
        elif in_planes != planes:
            self.shortcut = nn.Sequential(
                _conv(in_planes, planes, 1, stride), nn.BatchNorm2d(planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (N, planes, H/stride, W/stride) of maps (N, in_planes, H, W)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class ResNet(CifarNet):
    """Residual network with a 3x3 stem and no max-pool (He et al., CVPR 2016, arXiv:1512.03385).

    Args:
        widths: maps of each stage; every stage but the first halves height and width.
        blocks: basic blocks in each stage.
        pad_shortcut: shortcuts without weights where the width changes; False = 1x1 convolutions.
        head_name: the head's name in the checkpoints of this network.
        drop_rate: dropout on the pooled features.
        num_classes: logits; 0 = no head.
        in_chans: channels of the images.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        blocks: int,
        pad_shortcut: bool = False,
        head_name: str = "fc",
        drop_rate: float = 0.0,
        num_classes: int = 10,
        in_chans: int = 3,
    ) -> None:
        super().__init__(widths[-1], in_chans)
        self.head_name = head_name
        self.drop_rate = self.head_drop = drop_rate
        self.conv1 = _conv(in_chans, widths[0], 3)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        stages = [f"layer{i + 1}" for i in range(len(widths))]
        planes = widths[0]
        for name, width in zip(stages, widths, strict=True):
            strides = [1 if width == widths[0] else 2, *[1] * (blocks - 1)]
            layers = []
            for stride in strides:
                layers.append(BasicBlock(planes, width, stride, pad_shortcut))
                planes = width
            self.add_module(name, nn.Sequential(*layers))
        self.steps = ("conv1", "bn1", "relu", *stages)
        shown = zip(("relu", *stages), (widths[0], *widths), strict=True)
        self.shows(*((name, width, width // widths[0]) for name, width in shown))
        self.finish(num_classes)


def _cfg(
    mean: tuple[float, ...] = CIFAR_MEAN,
    std: tuple[float, ...] = CIFAR_STD,
    classifier: str = "fc",
) -> dict[str, Any]:
    return {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": mean,
        "std": std,
        "first_conv": "conv1",
        "classifier": classifier,
    }


# timm reads this when a model of this module is registered.
default_cfgs = generate_default_cfgs(
    {
        "densenet100_bc_cifar": _cfg(),
        "wrn40_2_cifar": _cfg(),
        "wrn40_4_cifar": _cfg(),
        "resnet18_cifar": _cfg(),
        # What the published weights (akamaster/pytorch_resnet_cifar10) were trained with.
        "resnet20_cifar": _cfg(IMAGENET_MEAN, IMAGENET_STD, "linear"),
    }
)


def _build(
    kind: type[CifarNet], name: str, pretrained: bool, stages: int = 4, **kwargs: Any
) -> CifarNet:
    # What timm returns where only features are asked for.
    all_stages = {"out_indices": tuple(range(stages)), "feature_cls": "getter"}
    model: CifarNet = build_model_with_cfg(kind, name, pretrained, feature_cfg=all_stages, **kwargs)
    return model


def densenet100_bc_cifar(pretrained: bool = False, **kwargs: Any) -> CifarNet:
    """Return DenseNet-BC-100-12, the "DenseNet-101" of UM's paper with `bn_affine=False`."""
    return _build(
        DenseNet, "densenet100_bc_cifar", pretrained, depth=100, growth=12, reduction=0.5, **kwargs
    )


def wrn40_2_cifar(pretrained: bool = False, **kwargs: Any) -> CifarNet:
    """Return WideResNet-40-2, the network of pytorch-ood's CIFAR weights."""
    return _build(WideResNet, "wrn40_2_cifar", pretrained, depth=40, widen=2, **kwargs)


def wrn40_4_cifar(pretrained: bool = False, **kwargs: Any) -> CifarNet:
    """Return WideResNet-40-4, of UM's paper with `bn_affine=False`."""
    return _build(WideResNet, "wrn40_4_cifar", pretrained, depth=40, widen=4, **kwargs)


def resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> CifarNet:
    """Return ResNet-18 with a 3x3 stem and no max-pool; names as in OpenOOD's checkpoints."""
    return _build(
        ResNet,
        "resnet18_cifar",
        pretrained,
        stages=5,
        widths=(64, 128, 256, 512),
        blocks=2,
        **kwargs,
    )


def resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> CifarNet:
    """Return ResNet-20; names as in the checkpoints of akamaster/pytorch_resnet_cifar10."""
    return _build(
        ResNet,
        "resnet20_cifar",
        pretrained,
        widths=(16, 32, 64),
        blocks=3,
        pad_shortcut=True,
        head_name="linear",
        **kwargs,
    )


for _builder in (
    densenet100_bc_cifar,
    wrn40_2_cifar,
    wrn40_4_cifar,
    resnet18_cifar,
    resnet20_cifar,
):
    register_model(_builder)
