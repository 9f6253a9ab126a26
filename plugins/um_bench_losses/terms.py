"""The terms of the losses, as functions of logits, features and labels, without any state.

None of them asks the labels anything on the host, which would make it wait for the device in each
step, as pytorch-ood's classes do (`if known.all()`). Where pytorch-ood computes what the paper
says, the tests hold these functions to it; `um_bench_losses.table` says where it does not.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-12


def share_of(rows: Tensor, values: Tensor) -> Tensor:
    """Return the mean of some of the values (N,), 0 where `rows` (N,) picks none."""
    # By a product, not by picking: that would make the host wait for the device.
    return (values * rows).sum() / rows.sum().clamp(min=1)


def distances(points: Tensor, centres: Tensor) -> Tensor:
    """Return the Euclidean distances (N, K) of points (N, D) to centres (K, D).

    Not by |x|^2 + |y|^2 - 2xy, which in float32 is all rounding where a point is near a centre.
    """
    return torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")


def logit_norm_term(logits: Tensor, labels: Tensor, *, t: float) -> Tensor:
    """Return the mean cross-entropy of z / (t |z|).

    Args:
        logits: z (N, K).
        labels: (N,), none < 0.
        t: temperature; the largest logit that the softmax sees is 1 / t.

    Source:
        Wei et al., ICML 2022, arXiv:2205.09310; common/loss_function.py (0a60eef).
    """
    norm = torch.linalg.vector_norm(logits, dim=1, keepdim=True)
    return F.cross_entropy(logits / (t * (norm + 1e-7)), labels)


def cac_term(logits: Tensor, labels: Tensor, *, magnitude: float, alpha: float) -> Tensor:
    """Return the mean of log(1 + sum_{c != y} exp(d_y - d_c)) + alpha d_y.

    d_c is the distance of the logits to the anchor of class c, `magnitude` on axis c and 0 on the
    others. The first part is the cross-entropy of -d: 1 is the summand of the true class.

    Args:
        logits: (N, K).
        labels: (N,), none < 0.
        magnitude: distance of each anchor to the origin.
        alpha: weight of the distance to the true class's anchor.

    Source:
        Miller et al., WACV 2021, arXiv:2004.02434; train_cacOpenset.py (bd9c7f5).
    """
    classes = logits.shape[1]
    anchors = magnitude * torch.eye(classes, dtype=logits.dtype, device=logits.device)
    d = distances(logits, anchors)
    return F.cross_entropy(-d, labels) + alpha * own(d, labels).mean()


def own(values: Tensor, labels: Tensor) -> Tensor:
    """Return each row's value (N,) of its own class, of values (N, K)."""
    return values.gather(1, labels[:, None]).squeeze(1)


def outside_term(squared: Tensor, radius: float) -> Tensor:
    """Return the mean of max(0, d^2 - radius^2), of squared distances d^2 (N,)."""
    return (squared - radius**2).relu().mean()


def hypersphere_term(
    squared: Tensor, labels: Tensor, *, radius: float, weight_center: float, weight_nll: float
) -> Tensor:
    """Return weight_center * mean max(0, d_y^2 - radius^2) + weight_nll * cross-entropy of -d^2.

    Args:
        squared: d^2 (N, K), squared distances to each class's centre.
        labels: (N,), none < 0.
        radius: of each class's sphere, in which nothing draws to the centre.
        weight_center: of the first part.
        weight_nll: of the second.

    Source:
        Kirchheim et al., Multi-Class Hypersphere Anomaly Detection, ICPR 2022; src/models/mchad.py
        of kkirchheim/mchad (f9cca06).
    """
    near = outside_term(own(squared, labels), radius)
    return weight_center * near + weight_nll * F.cross_entropy(-squared, labels)


def sphere_margin_term(squared: Tensor, labels: Tensor, *, reach: float) -> Tensor:
    """Return the mean over outliers of sum_c max(0, reach^2 - d_c^2).

    Args:
        squared: d^2 (N+M, K), squared distances to each class's centre.
        labels: (N+M,), < 0 = outlier.
        reach: distance that outliers should keep: radius and margin together.

    Source:
        as `hypersphere_term`; the formula of the paper, not the code, which squares d^2 again.
    """
    return share_of(labels < 0, (reach**2 - squared).relu().sum(dim=1))


def ii_term(features: Tensor, labels: Tensor, *, classes: int, alpha: float) -> Tensor:
    """Return intra-class spread less alpha times the distance of the two nearest class means.

    Both are squared distances of features that are normalised over the batch (mean 0, variance 1
    in each dimension, without which the loss has no least value), divided by the number of
    dimensions D. The means are those of the batch. With one class in it, the second part is 0.

    Args:
        features: (N, D).
        labels: (N,), none < 0.
        classes: K.
        alpha: weight of the separation.

    Source:
        Hassen and Chan, SDM 2020, arXiv:1802.04365; opennet/opennet.py (3fe1f58).
    """
    variance, mean = torch.var_mean(features, dim=0, correction=0)
    z = (features - mean) / (variance + 1e-5).sqrt()
    mine = membership(labels, classes).to(z.dtype)
    counts = mine.sum(dim=0)
    means = mine.T @ z / counts.clamp(min=1)[:, None]
    spread = (z - means[labels]).square().sum(dim=1).mean()
    there = counts > 0
    pairs = there & there[:, None] & ~torch.eye(classes, dtype=torch.bool, device=z.device)
    apart = distances(means, means).square().masked_fill(~pairs, torch.inf).amin()
    separation = torch.where(pairs.any(), apart, torch.zeros_like(apart))
    return (spread - alpha * separation) / features.shape[1]


def membership(labels: Tensor, classes: int) -> Tensor:
    """Return (N, K) bool: whether an image is of a class."""
    return labels[:, None] == torch.arange(classes, device=labels.device)


def hinted_nll(logits: Tensor, labels: Tensor, confidence: Tensor) -> Tensor:
    """Return the mean of -log(c p_y + 1 - c), where p is the softmax of the logits.

    Args:
        logits: (N, K).
        labels: (N,), none < 0.
        confidence: c (N,) in [0, 1]; 1 gives no hint.

    Source:
        DeVries and Taylor, arXiv:1802.04865; train.py (c98f23d).
    """
    p = own(logits.softmax(dim=1), labels)
    return -(confidence * p + (1 - confidence)).clamp(min=_TINY).log().mean()


def entropic_term(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over outliers of -mean_c log softmax(z)_c; log K is its least value.

    Args:
        logits: z (N+M, K).
        labels: (N+M,), < 0 = outlier.

    Source:
        Dhamija et al., NeurIPS 2018, arXiv:1811.04110; MNIST/Mnist_Training.py (581b3f0).
    """
    return share_of(labels < 0, -logits.log_softmax(dim=1).mean(dim=1))


def magnitude_term(features: Tensor, labels: Tensor, *, xi: float) -> Tensor:
    """Return mean max(0, xi - |F|)^2 of ID images + mean |F|^2 of outliers, each over its own.

    Args:
        features: F (N+M, D).
        labels: (N+M,), < 0 = outlier.
        xi: norm that ID features should have.

    Source:
        as `entropic_term`; `ring_loss`.
    """
    norm = torch.linalg.vector_norm(features, dim=1)
    unknown = labels < 0
    return share_of(~unknown, (xi - norm).relu().square()) + share_of(unknown, norm.square())


def weighted_logsumexp(logits: Tensor, weights: Tensor) -> Tensor:
    """Return log sum_c max(0, w_c) exp(z_c) of logits (N, K) and weights (K,), as (N,).

    Source:
        Du et al., VOS, ICLR 2022, arXiv:2202.01197; classification/CIFAR/train_virtual.py
        (6dd9c27), `log_sum_exp`.
    """
    most = logits.amax(dim=1, keepdim=True)
    total = (weights.relu() * (logits - most).exp()).sum(dim=1)
    # Should all weights have become negative, the loss is flat there and not -inf.
    return most.squeeze(1) + total.clamp(min=_TINY).log()
