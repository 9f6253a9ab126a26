"""The last layer of a network as one linear map of its features, whatever it is made of."""

from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.pit import PoolingVisionTransformer
from torch import Tensor, nn

from um_bench.errors import UnsupportedError

_Affine = tuple[Tensor, Tensor]
"""Weight (K, D) and bias (K,)."""


def pooled_features(net: Any, final: Any) -> Tensor:
    """Return the features (N, D) that a timm network's head is a linear map of.

    Args:
        net: has timm's interface.
        final: what its `forward_features` returned.
    """
    features: Tensor
    if _has_a_head_for_each_token(net):
        # timm averages the two tokens, of which no linear map gives the mean of two heads' logits.
        features = final[:, :2].flatten(1)
    else:
        features = net.forward_head(final, pre_logits=True)
    return features


def linear_head(net: Any) -> nn.Linear:
    """Return a linear layer that gives the network's logits of its pooled features.

    It is the network's own layer where that is an nn.Linear. Else it is made anew from the
    weights at hand, in eval mode: of a 1x1 convolution, of batch norm before a linear layer, of
    heads whose logits are averaged.

    Raises:
        UnsupportedError: if the network has no head, or one that is not linear.
    """
    head = _head(net)
    if isinstance(head, nn.Linear):
        return head
    with torch.no_grad():
        weight, bias = _affine(net, head)
    # On the meta device nothing is drawn: the random state stays as it is.
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def _head(net: Any) -> Any:
    """Return what a network calls its classifier."""
    if hasattr(net, "get_classifier"):
        return net.get_classifier()
    if hasattr(net, "fc"):
        return net.fc
    raise UnsupportedError(
        f"{type(net).__name__} has no classifier, only features; take a model that ends in logits."
    )


def _has_a_head_for_each_token(net: Any) -> bool:
    if isinstance(net, PoolingVisionTransformer):
        return net.head_dist is not None
    return isinstance(net, VisionTransformerDistilled)


def _affine(net: Any, head: Any) -> _Affine:
    if isinstance(head, nn.ModuleList):
        shares = _shares(net, head)
        parts = [_affine(net, part) for part in head]
        return _beside(parts, shares)
    if isinstance(head, tuple):
        parts = [_affine(net, part) for part in head]
        shares = torch.full((len(parts),), 1 / len(parts), device=parts[0][0].device)
        return (_beside if _has_a_head_for_each_token(net) else _on_top)(parts, shares)
    if getattr(head, "distillation", False):  # RepViT's two heads in one module
        return _affine(net, (head.head, head.head_dist))
    return _one_affine(net, head)


def _shares(net: Any, heads: nn.ModuleList) -> Tensor:
    """Return how much the logits of each of several heads count."""
    for name, weights in (("heads", "weights"), ("heads_dist", "weights_dist")):
        if getattr(net, name, None) is heads and hasattr(net, weights):
            learned: Tensor = getattr(net, weights).softmax(-1)
            return learned
    return torch.full((len(heads),), 1 / len(heads), device=next(heads.parameters()).device)


def _beside(parts: list[_Affine], shares: Tensor) -> _Affine:
    """Return the weighted sum of maps that each read a part of their own of the features."""
    weights = [share * weight for share, (weight, _) in zip(shares, parts, strict=True)]
    biases = [share * bias for share, (_, bias) in zip(shares, parts, strict=True)]
    return torch.cat(weights, dim=1), torch.stack(biases).sum(0)


def _on_top(parts: list[_Affine], shares: Tensor) -> _Affine:
    """Return the weighted sum of maps that all read the same features."""
    weights = [share * weight for share, (weight, _) in zip(shares, parts, strict=True)]
    biases = [share * bias for share, (_, bias) in zip(shares, parts, strict=True)]
    return torch.stack(weights).sum(0), torch.stack(biases).sum(0)


def _one_affine(net: Any, head: Any) -> _Affine:
    # What has no weights is dropout or a reshaping; the trial in `create` finds what is neither.
    inside = head.modules() if isinstance(head, nn.Module) else ()
    parts = [m for m in inside if list(m.parameters(recurse=False)) or isinstance(m, _NORMS)]
    match parts:
        case [nn.Linear() | nn.Conv2d() as last]:
            return _layer(net, last)
        case [nn.BatchNorm1d() | nn.BatchNorm2d() as norm, nn.Linear() | nn.Conv2d() as last]:
            weight, bias = _layer(net, last)
            scale, shift = _norm(norm)
            return weight * scale, bias + weight @ shift
    raise _not_linear(net, head)


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def _layer(net: Any, layer: nn.Linear | nn.Conv2d) -> _Affine:
    if isinstance(layer, nn.Conv2d) and (layer.kernel_size != (1, 1) or layer.groups != 1):
        raise _not_linear(net, layer)
    weight = layer.weight.detach().flatten(1)
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
    return weight, bias


def _norm(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> _Affine:
    """Return scale and shift (D,) of batch norm in eval mode."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise UnsupportedError("batch norm without running statistics depends on the batch.")
    scale = (variance + norm.eps).rsqrt()
    # torch types both as always there, which they are not.
    if norm.affine:
        scale = scale * norm.weight
    shift = -mean * scale
    return scale, shift + norm.bias if norm.affine else shift


def _not_linear(net: Any, head: Any) -> UnsupportedError:
    return UnsupportedError(
        f"the head of {type(net).__name__} is a {type(head).__name__}; um-bench needs a network "
        "whose logits are one linear map of its pooled features."
    )
