"""What a network shows of its inside: maps of its stages, and the unpooled map before its head."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pytorch_ood.model import WideResNet
from torch import Tensor, nn
from torchvision.models import ResNet

from um_bench.backbones.heads import pooled_features
from um_bench.errors import UnsupportedError

_TOLERANCE = 1e-5
"""Largest gap between the logits of the final map and the model's own, relative to the largest."""
_POOD_STAGES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (WideResNet, ("conv1", "block1", "block2", "block3")),
    (ResNet, ("relu", "layer1", "layer2", "layer3", "layer4")),
)
"""Stem and stages of pytorch-ood's networks, the ResNets being torchvision's."""


class Inner(NamedTuple):
    """What one forward pass shows of a network's inside."""

    maps: tuple[Tensor, ...]
    """Outputs of the stages, input side first, each (N, C, H, W)."""
    final: Tensor
    """Unpooled penultimate map (N, C, H, W), as timm's `forward_features` returns it; tokens, with
    the class token where there is one: (N, C, L, 1)."""
    features: Tensor
    """Pooled (N, D), the same as `Classifier.features`."""
    logits: Tensor
    """(N, K), the head's of these features."""


class Seen(NamedTuple):
    """What `Inside.look` returns."""

    maps: tuple[Tensor, ...]
    final: Tensor
    features: Tensor


@dataclass(frozen=True)
class Inside:
    """How one network shows its inside, as a trial found it."""

    layout: str
    """Of what `forward_features` returns: NCHW, NHWC, NLC (tokens) or NC (pooled already)."""
    stages: tuple[str, ...]
    """For each map the name of the module that puts it out; empty where none does."""
    stage_layouts: frozenset[str]
    """In which these modules put them out: NCHW or NHWC, and NLC or NCL."""

    def look(self, net: Any, images: Tensor) -> Seen:
        """Return stages, final map and features of normalised images, from one forward pass."""
        raw, maps = _forward(net, images)
        return Seen(tuple(maps), _as_map(raw, self.layout), _pooled(net, raw))

    def logits(self, net: Any, final: Tensor) -> Tensor:
        """Return what the network's own head makes of a final map: (N, K)."""
        return _logits(net, _from_map(final, self.layout))

    def stage_map(self, output: Tensor) -> Tensor:
        """Return what a stage's module put out as (N, C, H, W), tokens as (N, C, L, 1)."""
        if output.ndim == 3:
            return output.unsqueeze(-1) if "NCL" in self.stage_layouts else _as_map(output, "NLC")
        return _as_map(output, "NHWC" if "NHWC" in self.stage_layouts else "NCHW")


def find_inside(net: nn.Module, images: Tensor) -> Inside:
    """Return how a network shows its inside, after a trial; nothing about the network changes.

    Args:
        net: in eval mode.
        images: a few, normalised, of the size that it is used with; noise will do.

    Raises:
        UnsupportedError: if it does not show its inside, or wrongly, and why.
    """
    with torch.no_grad():
        raw, maps = _forward(net, images)
        _require_maps(maps, len(images))
        layout = _layout(net, raw, len(images))
        stages, layouts, logits = _find_stages(net, images, maps)
        gap = (_logits(net, raw) - logits).abs().max() / logits.abs().max().clamp_min(1e-30)
    if not gap <= _TOLERANCE:
        raise UnsupportedError(
            f"its head gives other logits of the final map than the network itself (relative gap "
            f"{gap:.1e})"
        )
    return Inside(layout, stages, layouts)


def _forward(net: Any, images: Tensor) -> tuple[Any, Sequence[Tensor]]:
    """Return the unpooled output in the network's own layout and the stages' maps."""
    if hasattr(net, "forward_intermediates"):
        raw, maps = net.forward_intermediates(images, intermediates_only=False)
        return raw, maps
    names = _names(net)
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        outputs[name] = output

    run = net.forward_features if _is_timm(net) else net.feature_maps
    with _watched(net, keep, names):
        raw = run(images)
    return raw, [outputs[name] for name in names if name in outputs]


def _is_timm(net: nn.Module) -> bool:
    return hasattr(net, "forward_head")


def _names(net: Any) -> list[str]:
    """Return the names of the stages' modules where the network cannot return maps by itself."""
    for kind, names in _POOD_STAGES:
        if isinstance(net, kind) and hasattr(net, "feature_maps"):
            return list(names)
    if not _is_timm(net) or not getattr(net, "feature_info", None):
        raise UnsupportedError(
            "it has neither forward_intermediates nor feature_info, timm's two ways to say which "
            "its stages are"
        )
    known = {name for name, _ in net.named_modules()}
    named = [str(info["module"]) for info in net.feature_info]
    absent = [name for name in named if name not in known]
    if absent:
        raise UnsupportedError(
            f"it has no forward_intermediates, and its feature_info names modules that it does "
            f"not have ({', '.join(absent)}); a newer timm may help"
        )
    return named


@contextmanager
def _watched(
    net: nn.Module, see: Callable[[str, Any], None], names: Sequence[str] | None = None
) -> Iterator[None]:
    """Show the output of modules (by default of all) as soon as they have run."""

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, given, output: see(name, output)

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in net.named_modules()
        if name and (names is None or name in names)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _require_maps(maps: Sequence[Any], images: int) -> None:
    if not maps:
        raise UnsupportedError("it shows no stage")
    for stage, shown in enumerate(maps):
        if not isinstance(shown, Tensor) or shown.ndim != 4 or len(shown) != images:
            given = tuple(shown.shape) if isinstance(shown, Tensor) else type(shown).__name__
            raise UnsupportedError(
                f"stage {stage} of {len(maps)} is {given} for {images} images; a map "
                "(N, C, H, W) is needed"
            )


def _layout(net: Any, raw: Any, images: int) -> str:
    if not isinstance(raw, Tensor):
        raise UnsupportedError(
            f"its last stage is {len(raw)} tensors, not one map"
            if isinstance(raw, list | tuple)
            else f"its last stage is a {type(raw).__name__}, not a map"
        )
    if len(raw) != images or raw.ndim not in (2, 3, 4):
        raise UnsupportedError(f"its last stage is {tuple(raw.shape)} for {images} images")
    if raw.ndim == 4:
        return "NHWC" if _channels_are_last(net, raw) else "NCHW"
    return "NLC" if raw.ndim == 3 else "NC"


def _channels_are_last(net: Any, raw: Tensor) -> bool:
    if hasattr(net, "output_fmt"):
        return str(net.output_fmt).endswith("NHWC")
    channels = getattr(net, "num_features", None)
    return raw.shape[3] == channels and raw.shape[1] != channels


def _as_map(raw: Tensor, layout: str) -> Tensor:
    """Return an unpooled output as (N, C, H, W)."""
    if layout == "NHWC":
        return raw.permute(0, 3, 1, 2)
    if layout == "NLC":
        return raw.transpose(1, 2).unsqueeze(-1)
    return raw[:, :, None, None] if layout == "NC" else raw


def _from_map(final: Tensor, layout: str) -> Tensor:
    """Undo `_as_map`."""
    if layout == "NHWC":
        return final.permute(0, 2, 3, 1)
    if layout == "NLC":
        return final.squeeze(-1).transpose(1, 2)
    return final.flatten(1) if layout == "NC" else final


def _pooled(net: Any, raw: Any) -> Tensor:
    if _is_timm(net):
        return pooled_features(net, raw)
    # As `features` of pytorch-ood's networks does it, to the bit.
    pooled: Tensor = net.avgpool(raw) if hasattr(net, "avgpool") else F.avg_pool2d(raw, 8)
    return pooled.flatten(1)


def _logits(net: Any, raw: Tensor) -> Tensor:
    logits: Tensor = (net.forward_head if _is_timm(net) else net.forward_feature_maps)(raw)
    return logits


class _Hit(NamedTuple):
    """A module whose output shows a map."""

    name: str
    layout: str
    output: Tensor
    version: int


def _find_stages(
    net: Any, images: Tensor, maps: Sequence[Tensor]
) -> tuple[tuple[str, ...], frozenset[str], Tensor]:
    """Return the name of the module that puts out each map, their layouts, and the logits.

    The names in timm's `feature_info` alone are not enough: some are of no module, some of one
    that puts out a tuple. A module that runs twice is left out, and so is one whose output is
    changed in place later: nobody could hook it and get the map.
    """
    ranges = [_range(shown.flatten(2)) for shown in maps]
    hits: list[list[_Hit]] = [[] for _ in maps]
    calls: Counter[str] = Counter()

    def compare(name: str, output: Any) -> None:
        calls[name] += 1
        if not isinstance(output, Tensor) or len(output) != len(images):
            return
        for shown, extent, hit in zip(maps, ranges, hits, strict=True):
            for layout, view in _views(output, shown):
                if torch.equal(_range(view), extent):
                    hit.append(_Hit(name, layout, output, output._version))
                    break

    with _watched(net, compare):
        logits: Tensor = net(images)
    chosen = []
    for name, hit in zip(_info_names(net, len(maps)), hits, strict=True):
        fit = [h for h in hit if calls[h.name] == 1 and h.output._version == h.version]
        # The one that timm names, or the outermost; of several the last that ran.
        chosen.append(
            min(reversed(fit), key=lambda h: (h.name != name, h.name.count(".")), default=None)
        )
    names = tuple(h.name if h else "" for h in chosen)
    return names, frozenset(h.layout for h in chosen if h), logits


def _info_names(net: Any, count: int) -> list[str]:
    """Return timm's names of the stages' modules, as far as there is one for each map."""
    if not _is_timm(net):
        return _names(net)
    info = getattr(net, "feature_info", None) or ()
    names = [str(stage["module"]) for stage in info]
    return names if len(names) == count else [""] * count


def _views(output: Tensor, shown: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield an output as (N, C, positions) for each layout in which it can be that map."""
    channels, positions = shown.shape[1], shown.shape[2] * shown.shape[3]
    if output.shape == shown.shape:
        yield "NCHW", output.flatten(2)
    if output.ndim == 4 and output.permute(0, 3, 1, 2).shape == shown.shape:
        yield "NHWC", output.permute(0, 3, 1, 2).flatten(2)
    if output.ndim == 3 and output.shape[2] == channels and output.shape[1] >= positions:
        # Class and register tokens are in front.
        yield "NLC", output[:, output.shape[1] - positions :].transpose(1, 2)
    if output.ndim == 3 and output.shape[1:] == (channels, positions):
        yield "NCL", output


def _range(positions: Tensor) -> Tensor:
    """Return least and largest value of each channel: some networks reorder the positions."""
    return torch.stack((positions.amin(2), positions.amax(2)))
