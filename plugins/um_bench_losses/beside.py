"""What a loss keeps beside the classifier while it trains: centres, a regression, a branch."""

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from um_bench.adapters import Loader, Loss
from um_bench.backbones import Classifier
from um_bench.errors import UnsupportedError, UsageError
from um_bench_losses.terms import (
    distances,
    hinted_nll,
    membership,
    outside_term,
    own,
    weighted_logsumexp,
)

_JITTER = 1e-4
"""Added to the variances of the features, as VOS's code does."""

Term = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits (N, K), features (N, D), labels (N,) -> scalar."""


class Beside(nn.Module):
    """A classifier, and a loss whose parameters are trained with it: images -> logits.

    It puts out logits and nothing else, so that other adapters' losses can be joined to it.

    Args:
        model: images (N, 3, H, W) -> logits (N, K).
        loss: what holds the loss's parameters and buffers.
    """

    def __init__(self, model: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.loss = loss.to(next(model.parameters()).device)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K) of images (N, 3, H, W) in [0, 1]."""
        logits: Tensor = self.model(images)
        return logits

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze or train the classifier; what the loss keeps is trained in any case.

        An adapter joined later, as in `loss:VOSReg+umap`, freezes the model that it is given.
        """
        self.model.requires_grad_(requires_grad)
        return self


class Watched(Beside):
    """A classifier that notes its features as it puts out their logits, in one pass.

    Args:
        model: a classifier whose head is a layer of its own.
        loss: what holds the loss's parameters and buffers.
    """

    model: Classifier

    def __init__(self, model: Classifier, loss: nn.Module) -> None:
        super().__init__(model, loss)
        self.features = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K) of images (N, 3, H, W) in [0, 1]."""
        features = self.model.features(images)
        # In half precision, the loss still is of float32.
        self.features = features.float()
        return self.model.head(features)

    def seeing(self, term: Term) -> Loss:
        """Return a loss of logits and labels that also sees the features of the last pass.

        A batch has its ID images first, so that the ID part's features are the first ones.
        """

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            return term(logits, self.features[: len(labels)], labels)

        return loss


def plain(model: nn.Module) -> nn.Module:
    """Return the classifier itself, without what the loss kept beside it."""
    assert isinstance(model, Beside)
    return model.model


def classes_of(model: nn.Module, train: Loader) -> int:
    """Return how many logits the model has, or how many classes the set where it does not say."""
    while isinstance(model, Beside):
        model = model.model
    return model.num_classes if isinstance(model, Classifier) else train.data.num_classes


def classifier_of(model: nn.Module, adapter: str) -> Classifier:
    """Return the model, as a classifier whose features and trained head can be used apart.

    Raises:
        UsageError: if it is no `Classifier`.
        UnsupportedError: if its head is not a linear layer of its own, with a bias.
    """
    if isinstance(model, Beside):
        raise UsageError(
            f"{adapter} needs the classifier itself, and a loss that was joined before keeps "
            "something beside it. Two such losses cannot be composed: take one of them."
        )
    if not isinstance(model, Classifier):
        raise UsageError(
            f"{adapter} reads features and logits apart, so it needs a um_bench Classifier, as "
            f"um_bench.backbones.create makes it; got {type(model).__name__}"
        )
    head = model.head_layer
    has_bias = isinstance(head.bias, Tensor)  # torch types it as always there, which it is not
    if not has_bias or not any(module is head for module in model.modules()):
        raise UnsupportedError(
            f"{adapter} trains the head on features that it sees, so it needs a head that is one "
            f"linear layer with a bias; that of {type(model.net).__name__} is not. The losses on "
            "logits work: loss:LogitNorm, loss:CAC, loss:Entropic, loss:VOSReg."
        )
    return model


class Centers(nn.Module):
    """A centre for each class, which follows the class's features batch by batch.

    Args:
        classes: K.
        dim: D.
        rate: how far a centre moves towards a batch's features, in (0, 1].
        radius: features that are nearer to their centre than this are not drawn to it.

    Source:
        Wen et al., ECCV 2016; algorithm 1, whose centres are not trained by the optimiser.
    """

    centers: Tensor

    def __init__(self, classes: int, dim: int, *, rate: float, radius: float) -> None:
        super().__init__()
        self.rate = rate
        self.radius = radius
        self.register_buffer("centers", torch.zeros(classes, dim))

    def pull(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return half the mean of max(0, d^2 - radius^2), d the distance to the own centre.

        Afterwards the centres move.

        Args:
            features: (N, D).
            labels: (N,), none < 0.
        """
        offset = features - self.centers[labels]
        loss = outside_term(offset.square().sum(dim=1), self.radius) / 2
        self._follow(offset.detach(), labels)
        return loss

    def _follow(self, offset: Tensor, labels: Tensor) -> None:
        mine = membership(labels, len(self.centers)).to(offset.dtype)
        step = mine.T @ offset / (1 + mine.sum(dim=0))[:, None]
        self.centers.add_(step, alpha=self.rate)


class ConfidenceBranch(nn.Module):
    """A confidence for each image, and the weight that keeps asking for hints within a budget.

    Args:
        dim: D.
        alpha: weight of the confidence at first.
        budget: mean of -log c around which the weight keeps it.
        hints: share of the images that may be given a hint.

    Source:
        DeVries and Taylor, arXiv:1802.04865; train.py (c98f23d).
    """

    weight: Tensor

    def __init__(self, dim: int, *, alpha: float, budget: float, hints: float) -> None:
        super().__init__()
        self.branch = nn.Linear(dim, 1)
        self.budget = budget
        self.hints = hints
        self.register_buffer("weight", torch.tensor(float(alpha)))

    def term(self, logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """Return the hinted negative log-likelihood + weight * mean(-log c); the weight adapts."""
        score = self.branch(features).squeeze(1)
        hinted = torch.rand(score.shape, device=score.device) < self.hints
        confidence = torch.where(hinted, score.sigmoid(), torch.ones_like(score))
        price = F.softplus(-score).mean()
        loss = hinted_nll(logits, labels, confidence) + self.weight.clone() * price
        factor = torch.where(price.detach() < self.budget, 1 / 1.01, 1 / 0.99)
        self.weight.mul_(factor)
        return loss


class EnergyRegression(nn.Module):
    """A logistic regression on the energy that tells ID images from outliers.

    Args:
        classes: K, each with a weight in the energy.
        alpha: weight of the term.

    Source:
        Du et al., VOS, ICLR 2022, arXiv:2202.01197; classification/CIFAR/train_virtual.py
        (6dd9c27).
    """

    def __init__(self, classes: int, *, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.class_weights = nn.Parameter(torch.rand(classes))
        # Not an nn.Linear: what masks layers, as umap does, must not mask this one.
        self.slopes = nn.Parameter(2 * torch.rand(2) - 1)
        self.offsets = nn.Parameter(2 * torch.rand(2) - 1)

    def each(self, logits: Tensor, known: Tensor) -> Tensor:
        """Return how badly each row (N,) is told apart, in nats; known (N,) bool is the truth."""
        energy = weighted_logsumexp(logits, self.class_weights)
        told = energy[:, None] * self.slopes + self.offsets
        return F.cross_entropy(told, known.long(), reduction="none")

    def term(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return alpha times the mean over ID images and outliers (labels < 0) together."""
        return self.alpha * self.each(logits, labels >= 0).mean()


class VirtualOutliers(EnergyRegression):
    """Outliers made of features: far out in each class's Gaussian, which has one covariance.

    Args:
        classes: K.
        dim: D.
        head: features (N, D) -> logits (N, K).
        alpha: weight of the term.
        kept: features kept of each class, the latest; with fewer, the term is 0.
        select: outliers made of each class in a batch.
        sample_from: draws of which they are the least likely.
    """

    queue: Tensor
    seen: Tensor

    def __init__(
        self, classes: int, dim: int, *, alpha: float, kept: int, select: int, sample_from: int
    ) -> None:
        super().__init__(classes, alpha=alpha)
        self.kept = kept
        self.select = select
        self.sample_from = sample_from
        # The last place of each class is written and never read.
        self.register_buffer("queue", torch.zeros(classes, kept + 1, dim))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.int64))

    def virtual_term(
        self, head: Callable[[Tensor], Tensor], logits: Tensor, features: Tensor, labels: Tensor
    ) -> Tensor:
        """Return alpha times the mean over the ID images and the outliers made for this batch.

        Afterwards the batch's features are kept.

        Args:
            head: features (M, D) -> logits (M, K).
            logits: (N, K) of the ID images.
            features: (N, D) of the same.
            labels: (N,), none < 0.
        """
        made = head(self.synthesise())
        known = torch.arange(len(logits) + len(made), device=logits.device) < len(logits)
        loss = self.each(torch.cat([logits, made]), known).mean()
        term = self.alpha * torch.where(self.full(), loss, torch.zeros_like(loss))
        self._keep(features.detach(), labels)
        return term

    def full(self) -> Tensor:
        """Return whether enough features of every class were seen, as a scalar."""
        return (self.seen >= self.kept).all()

    @torch.no_grad()
    def synthesise(self) -> Tensor:
        """Return outliers (K * select, D).

        Of draws mean + L e, with e standard normal and L L^T the covariance, the least likely are
        those of largest |e|. Length and direction of e are independent, so that the lengths are
        drawn first (chi-squared) and directions for the longest alone, instead of sample_from
        vectors for each class.
        """
        kept = self.queue[:, : self.kept]
        classes, _, dim = kept.shape
        means = kept.mean(dim=1)
        centred = (kept - means[:, None]).flatten(0, 1)
        covariance = centred.T @ centred / len(centred)
        # Without the check, for which the host would wait.
        scale: Tensor = torch.linalg.cholesky_ex(covariance.double() + _JITTER * self._eye(dim)).L
        half = torch.full((classes, self.sample_from), dim / 2, device=kept.device)
        lengths = (2 * torch._standard_gamma(half)).topk(self.select, dim=1).values.sqrt()
        directions = torch.randn(classes, self.select, dim, device=kept.device)
        steps = lengths[..., None] * F.normalize(directions, dim=2)
        made: Tensor = (means[:, None] + steps @ scale.to(kept.dtype).T).flatten(0, 1)
        return made

    def _eye(self, dim: int) -> Tensor:
        return torch.eye(dim, dtype=torch.float64, device=self.queue.device)

    def _keep(self, features: Tensor, labels: Tensor) -> None:
        mine = membership(labels, len(self.queue)).long()
        before = own(mine.cumsum(dim=0), labels) - 1
        place = (self.seen[labels] + before) % self.kept
        # Of a class with more images in the batch than places, those that come later are left out.
        self.queue[labels, torch.where(before < self.kept, place, self.kept)] = features
        self.seen.add_(mine.sum(dim=0))


class Hyperspheres(Beside):
    """A classifier whose logits are points: it puts out minus their squared distance to centres.

    Args:
        model: a classifier whose head is a layer of its own.
        centers: (K, K), one for each class; from there they are trained.
    """

    model: Classifier

    def __init__(self, model: Classifier, centers: Tensor) -> None:
        super().__init__(model, nn.Module())
        self.centers = nn.Parameter(centers)

    def forward(self, images: Tensor) -> Tensor:
        """Return -d^2 (N, K) of images (N, 3, H, W) in [0, 1]."""
        return -distances(self.model(images), self.centers).square()


@torch.no_grad()
def settled(model: Classifier, train: Loader) -> Hyperspheres:
    """Return the classifier with a centre at the mean logits of each class, at a scale of its own.

    The head is scaled so that the mean squared distance to the own centre is 1. Logits that
    cross-entropy has trained are long: where the squared distances start large, the first steps
    throw all points together, from which training does not recover.

    Args:
        model: whose head is scaled in place, which changes no prediction.
        train: the ID training set, gone through once in eval mode.
    """
    head, classes = model.head_layer, model.num_classes
    total, count = head.weight.new_zeros(classes, classes), head.weight.new_zeros(classes)
    length = head.weight.new_zeros(())
    for images, labels in train:
        points, mine = model(images), membership(labels, classes).to(head.weight.dtype)
        total += mine.T @ points
        count += mine.sum(dim=0)
        length += points.square().sum()
    means = total / count.clamp(min=1)[:, None]
    spread = (length - (means * total).sum()) / count.sum()
    scale = spread.clamp(min=1e-6).rsqrt()
    for weight in (head.weight, head.bias):
        weight.mul_(scale)
    return Hyperspheres(model, scale * means)


@torch.no_grad()
def folded(model: nn.Module) -> nn.Module:
    """Return the classifier with the centres in its head: logits 2 m.z - |m|^2 = |z|^2 - d^2.

    Their softmax, and so their argmax, are those of -d^2.
    """
    assert isinstance(model, Hyperspheres)
    head, centres = model.model.head_layer, model.centers
    bias = 2 * centres @ head.bias - centres.square().sum(dim=1)
    head.weight.copy_(2 * centres @ head.weight)
    head.bias.copy_(bias)
    return model.model
