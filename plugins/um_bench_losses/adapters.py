"""The adapters `loss:NAME`: one dataclass for each loss, whose fields are its hyperparameters."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pytorch_ood.loss
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from um_bench.adapters import Adapter, Loader, Paper, Plan
from um_bench.errors import UsageError
from um_bench.papers import paper_of
from um_bench_losses.beside import (
    Beside,
    Centers,
    ConfidenceBranch,
    EnergyRegression,
    VirtualOutliers,
    Watched,
    classes_of,
    classifier_of,
    folded,
    plain,
    settled,
)
from um_bench_losses.terms import (
    cac_term,
    entropic_term,
    hypersphere_term,
    ii_term,
    logit_norm_term,
    magnitude_term,
    sphere_margin_term,
)


def require(adapter: Adapter, at_least: str = "", above: str = "", share: str = "") -> None:
    """Refuse settings that are out of range, each named by a field of the adapter.

    Args:
        adapter: whose fields are looked at.
        at_least: fields, apart by spaces, that are finite numbers of at least 0.
        above: fields that are finite numbers above 0.
        share: fields that are numbers in (0, 1].

    Raises:
        UsageError: if one is not; it is named.
    """
    for name in (*at_least.split(), *above.split(), *share.split()):
        value = getattr(adapter, name)
        if name in share.split():
            fits, rule = 0 < value <= 1, "above 0 and at most 1"
        elif name in above.split():
            fits, rule = 0 < value < float("inf"), "a finite number above 0"
        else:
            fits, rule = 0 <= value < float("inf"), "a finite number, at least 0"
        if not fits:
            raise UsageError(f"{name} must be {rule}, got {value}")


@dataclass(frozen=True, kw_only=True)
class LogitNorm(Adapter):
    """Cross-entropy of logits of one length, so that training does not make them longer."""

    sets_id_loss: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = paper_of(pytorch_ood.loss.LogitNorm)

    t: float = 0.04
    """Temperature: the normalised logits have length 1 / t."""

    def __post_init__(self) -> None:
        require(self, above="t")

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter with `logit_norm_term` for the ID loss."""
        return Plan(model=model, id_loss=partial(logit_norm_term, t=self.t))


@dataclass(frozen=True, kw_only=True)
class CAC(Adapter):
    """Class anchor clustering: logits are points, drawn to the anchor of their class."""

    sets_id_loss: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = paper_of(pytorch_ood.loss.CACLoss)

    magnitude: float = 10.0
    """Distance of each anchor to the origin."""
    alpha: float = 0.1
    """Weight of the distance to the own anchor."""

    def __post_init__(self) -> None:
        require(self, above="magnitude", at_least="alpha")

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter with `cac_term` for the ID loss."""
        loss = partial(cac_term, magnitude=self.magnitude, alpha=self.alpha)
        return Plan(model=model, id_loss=loss)


@dataclass(frozen=True, kw_only=True)
class Center(Adapter):
    """Cross-entropy, and features drawn to a centre of their class, which follows them."""

    sets_id_loss: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = paper_of(pytorch_ood.loss.CenterLoss)

    weight: float = 0.003
    """Weight of the centre loss."""
    rate: float = 0.5
    """How far a centre moves towards the features of a batch, in (0, 1]."""
    radius: float = 0.0
    """Features nearer to their centre than this are not drawn to it."""

    def __post_init__(self) -> None:
        require(self, above="weight", at_least="radius", share="rate")

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter; the centres start at the origin."""
        classifier = classifier_of(model, "loss:Center")
        centers = Centers(
            classifier.num_classes, classifier.feature_dim, rate=self.rate, radius=self.radius
        )
        watched = Watched(classifier, centers)

        def term(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(logits, labels) + self.weight * centers.pull(features, labels)

        return Plan(model=watched, id_loss=watched.seeing(term), finish=plain)


@dataclass(frozen=True, kw_only=True)
class II(Adapter):
    """Cross-entropy, and features near their class's mean, the two nearest means far apart."""

    sets_id_loss: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = paper_of(pytorch_ood.loss.IILoss)

    weight: float = 1.0
    """Weight of the ii-loss."""
    alpha: float = 1.0
    """Weight, within it, of the distance between the two nearest means."""

    def __post_init__(self) -> None:
        require(self, above="weight", at_least="alpha")

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter with cross-entropy + `ii_term` for the ID loss."""
        classifier = classifier_of(model, "loss:II")
        watched = Watched(classifier, nn.Module())
        ii = partial(ii_term, classes=classifier.num_classes, alpha=self.alpha)

        def term(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(logits, labels) + self.weight * ii(features, labels)

        return Plan(model=watched, id_loss=watched.seeing(term), finish=plain)


@dataclass(frozen=True, kw_only=True)
class Confidence(Adapter):
    """Let the network ask for the label as a hint, at a price, by a branch for its confidence.

    The branch is trained from the features and left behind: detectors do not read it.
    """

    sets_id_loss: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = paper_of(pytorch_ood.loss.ConfidenceLoss)

    alpha: float = 0.1
    """Weight of the price of a hint, at first; each batch makes it 1% more or less."""
    budget: float = 0.3
    """Price around which the weight keeps it: the mean of -log confidence, in nats."""
    hints: float = 0.5
    """Share of the images that may get a hint."""

    def __post_init__(self) -> None:
        require(self, above="alpha budget", share="hints")

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter, and the branch."""
        classifier = classifier_of(model, "loss:Confidence")
        branch = ConfidenceBranch(
            classifier.feature_dim, alpha=self.alpha, budget=self.budget, hints=self.hints
        )
        watched = Watched(classifier, branch)
        return Plan(model=watched, id_loss=watched.seeing(branch.term), finish=plain)


@dataclass(frozen=True, kw_only=True)
class MCHAD(Adapter):
    """Multi-class hyperspheres: logits are points near a trained centre of their class.

    In the end the centres become part of the head, whose softmax is then that of the negative
    squared distances.
    """

    sets_id_loss: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = paper_of(pytorch_ood.loss.MCHADLoss)

    radius: float = 0.0
    """Of the spheres; points within are not drawn to the centre."""
    weight_center: float = 0.05
    """Weight of the squared distance to the own centre."""
    weight_nll: float = 1.0
    """Weight of the cross-entropy of the negative squared distances."""

    def __post_init__(self) -> None:
        require(self, at_least="radius weight_center", above="weight_nll")

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter, and the centres, which start at the classes' mean logits."""
        classifier = classifier_of(model, "loss:MCHAD")
        loss = partial(
            hypersphere_term,
            radius=self.radius,
            weight_center=self.weight_center,
            weight_nll=self.weight_nll,
        )

        def id_loss(logits: Tensor, labels: Tensor) -> Tensor:
            return loss(-logits, labels)

        spheres = settled(classifier, train)
        return Plan(model=spheres, id_loss=id_loss, finish=folded)


@dataclass(frozen=True, kw_only=True)
class GMCHAD(MCHAD):
    """`loss:MCHAD`, and outliers kept away from every sphere."""

    needs_outliers: ClassVar[bool] = True

    weight_center: float = 0.1
    """Weight of the squared distance to the own centre."""
    weight_nll: float = 1.5
    """Weight of the cross-entropy of the negative squared distances."""
    margin: float = 4.0
    """Distance to each sphere that outliers should keep."""
    weight_oe: float = 0.00256
    """Weight of the outliers' term."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, above="margin weight_oe")

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter, and the centres, on ID images and outliers."""
        plan = super().prepare(model, train)

        def outlier_loss(logits: Tensor, labels: Tensor) -> Tensor:
            reach = self.radius + self.margin
            return self.weight_oe * sphere_margin_term(-logits, labels, reach=reach)

        return Plan(
            model=plan.model, id_loss=plan.id_loss, outlier_loss=outlier_loss, finish=plan.finish
        )


@dataclass(frozen=True, kw_only=True)
class VOS(Adapter):
    """Cross-entropy, and an energy that tells ID images from outliers made in feature space."""

    sets_id_loss: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = paper_of(pytorch_ood.loss.VirtualOutlierSynthesizingRegLoss)

    alpha: float = 0.1
    """Weight of the regression that tells them apart."""
    sample_number: int = 1000
    """Features kept of each class; at most as many as the smallest class has images."""
    select: int = 1
    """Outliers made of each class in a batch."""
    sample_from: int = 10000
    """Draws of which they are the least likely."""

    def __post_init__(self) -> None:
        require(self, above="alpha sample_number select")
        if self.sample_from < self.select:
            raise UsageError(
                f"select ({self.select}) outliers are the least likely of sample_from "
                f"({self.sample_from}) draws: there must be at least as many"
            )

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter, and the regression; no outliers until enough was seen.

        Raises:
            UsageError: if a class has fewer than two images.
        """
        classifier = classifier_of(model, "loss:VOS")
        smallest = int(torch.bincount(train.data.labels, minlength=classifier.num_classes).min())
        if smallest < 2:
            raise UsageError(
                f"loss:VOS fits a Gaussian to each class: {train.data.name} must have two images "
                f"of each of {classifier.num_classes} classes; of one it has {smallest}"
            )
        outliers = VirtualOutliers(
            classifier.num_classes,
            classifier.feature_dim,
            alpha=self.alpha,
            kept=min(self.sample_number, smallest),
            select=self.select,
            sample_from=self.sample_from,
        )
        watched = Watched(classifier, outliers)
        virtual = partial(outliers.virtual_term, classifier.head)

        def term(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(logits, labels) + virtual(logits, features, labels)

        return Plan(model=watched, id_loss=watched.seeing(term), finish=plain)


@dataclass(frozen=True, kw_only=True)
class VOSReg(Adapter):
    """The regression of `loss:VOS`, on auxiliary outliers in place of made ones."""

    needs_outliers: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = paper_of(pytorch_ood.loss.VOSRegLoss)

    alpha: float = 0.1
    """Weight of the regression that tells ID images from outliers."""

    def __post_init__(self) -> None:
        require(self, above="alpha")

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter, and the regression, with its term beside the ID loss."""
        regression = EnergyRegression(classes_of(model, train), alpha=self.alpha)
        beside = Beside(model, regression)
        return Plan(model=beside, outlier_loss=regression.term, finish=plain)


@dataclass(frozen=True, kw_only=True)
class Entropic(Adapter):
    """Entropic open-set: the prediction for outliers is drawn to the uniform distribution.

    The term is that of `oe`.
    """

    needs_outliers: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = paper_of(pytorch_ood.loss.EntropicOpenSetLoss)

    alpha: float = 1.0
    """Weight of the outlier term."""

    def __post_init__(self) -> None:
        require(self, above="alpha")

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter, with `entropic_term` beside the ID loss."""

        def outlier_loss(logits: Tensor, labels: Tensor) -> Tensor:
            return self.alpha * entropic_term(logits, labels)

        return Plan(model=model, outlier_loss=outlier_loss)


@dataclass(frozen=True, kw_only=True)
class Objectosphere(Adapter):
    """`loss:Entropic`, with long features for ID images and short ones for outliers."""

    needs_outliers: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = paper_of(pytorch_ood.loss.ObjectosphereLoss)

    alpha: float = 0.0001
    """Weight of the term on the features' norms."""
    xi: float = 50.0
    """Norm that the features of ID images should have at least."""

    def __post_init__(self) -> None:
        require(self, above="alpha xi")

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter, with both terms beside the ID loss."""
        watched = Watched(classifier_of(model, "loss:Objectosphere"), nn.Module())

        def term(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
            lengths = magnitude_term(features, labels, xi=self.xi)
            return entropic_term(logits, labels) + self.alpha * lengths

        return Plan(model=watched, outlier_loss=watched.seeing(term), finish=plain)
