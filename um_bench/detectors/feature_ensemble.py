"""The Mahalanobis detector as its paper has it: perturbed inputs, every stage, learned weights.

The weights of the layers and the size of the perturbation are chosen on held-out ID images against
adversarial versions of the same images. No OOD image is ever seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pytorch_ood.api import (
    DetectorInfo,
    GradientDetector,
    Paper,
    RequiresFittingException,
    Task,
)
from torch import Tensor

from um_bench.data import Loader
from um_bench.outputs import require_eval

if TYPE_CHECKING:
    from um_bench.backbones import Classifier, Inner

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images (B, C, H, W) in [0, 1] and labels (B,); the same images each time it is iterated."""

MAGNITUDES = (0.0, 0.0005, 0.001, 0.0014, 0.002, 0.005, 0.01)
"""As in both reference implementations, in pixel space."""

_FOLDS = 5
_FEWEST = 2 * _FOLDS
_ROUNDING = float(torch.finfo(torch.float32).eps)
"""Features are float32, whatever is computed from them."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """One normal distribution for each class, with a shared covariance, of one layer's features."""

    means: Tensor
    """(K, D) float64."""
    whitening: Tensor
    """(D, R) float64; R is the covariance's rank, 0 for a layer that is always the same."""
    centre: Tensor = field(init=False)
    """(D,): subtracted before whitening, so that differences keep their digits."""
    whitened: Tensor = field(init=False)
    """The class means after whitening, (K, R)."""

    def __post_init__(self) -> None:
        centre = self.means.mean(dim=0)
        object.__setattr__(self, "centre", centre)
        object.__setattr__(self, "whitened", (self.means - centre) @ self.whitening)

    @property
    def precision(self) -> Tensor:
        """The pseudo-inverse of the shared covariance, (D, D)."""
        return self.whitening @ self.whitening.T

    def to(self, device: str | torch.device) -> Gaussian:
        """Return the same distributions on a device."""
        return Gaussian(self.means.to(device), self.whitening.to(device))

    def confidence(self, features: Tensor) -> Tensor:
        """Return minus the squared Mahalanobis distance to the closest class: (N,) float64, <= 0.

        Differentiable with respect to the features (N, D); the choice of the class is not.
        """
        points = (features.double() - self.centre) @ self.whitening
        with torch.no_grad():
            closest = torch.cdist(points, self.whitened).argmin(dim=1)
        return -(points - self.whitened[closest]).square().sum(dim=1)


@dataclass(frozen=True, eq=False)
class Tuned:
    """What was chosen on held-out ID images."""

    magnitude: float
    """Of the perturbation, in units of a pixel in [0, 1]."""
    weights: Tensor
    """(L,) float64, for the layers' confidences as they are."""
    bias: float
    auroc: float
    """Held-out images against adversarial ones, cross-validated, at this magnitude."""


class _Moments:
    """Sums over one layer's features, from which its Gaussian follows: memory (K + D) * D.

    Args:
        features: the first rows (N, D); only their mean is used. The sums are of differences to
            it, as sums of squares lose digits where a mean is far from 0.
        num_classes: K.
    """

    def __init__(self, features: Tensor, num_classes: int) -> None:
        self.shift = features.detach().cpu().double().mean(dim=0)
        dim = len(self.shift)
        self.sums = torch.zeros(num_classes, dim, dtype=torch.float64)
        self.squares = torch.zeros(dim, dim, dtype=torch.float64)
        self.largest = 0.0

    def add(self, features: Tensor, labels: Tensor) -> None:
        rows = features.detach().cpu().double()
        self.largest = max(self.largest, float(rows.abs().max()))
        rows = rows - self.shift
        self.sums.index_add_(0, labels.cpu(), rows)
        self.squares.addmm_(rows.T, rows)

    def gaussian(self, counts: Tensor) -> Gaussian:
        """Return the distributions, given the number of rows of each class (K,).

        The covariance is within classes, divided by the number of rows. Its inverse is a
        pseudo-inverse: directions in which the features vary by less than float32 can tell (dead
        units, sums that a LayerNorm fixes, more features than images) are left out.
        """
        means = self.sums / counts[:, None]
        within = (self.squares - self.sums.T @ means) / counts.sum()
        variances, axes = torch.linalg.eigh((within + within.T) / 2)
        # The references leave out what float64 cannot tell. What is between the two is the noise of
        # features in float32, and would be the largest part of the inverse.
        kept = variances > len(variances) * (_ROUNDING * self.largest) ** 2
        return Gaussian(means + self.shift, axes[:, kept] / variances[kept].sqrt())


def gaussian(features: Tensor, labels: Tensor, num_classes: int) -> Gaussian:
    """Return the class distributions of features (N, D) with labels (N,) in 0..K-1.

    Source: Lee et al., NeurIPS 2018, arXiv:1807.03888, equation 1; sample_estimator in
        lib_generation.py (90c2105 of pokaxpoka/deep_Mahalanobis_detector).
    """
    moments = _Moments(features, num_classes)
    moments.add(features, labels)
    return moments.gaussian(torch.bincount(labels.cpu(), minlength=num_classes))


def layers(inner: Inner) -> list[Tensor]:
    """Return the mean over positions of every stage, and the pooled features: each (N, C)."""
    return [*(stage.flatten(2).mean(dim=2) for stage in inner.maps), inner.features]


def directions(model: Classifier, gaussians: Sequence[Gaussian], images: Tensor) -> list[Tensor]:
    """Return, for each layer, where every pixel has to go for that layer to be more confident.

    Each is the sign of a gradient: -1, 0 or 1, of the images' shape. One forward pass; the
    parameters' gradients are not touched.
    """
    with torch.enable_grad():
        moving = images.detach().clone().requires_grad_()
        seen = layers(model.inner(moving))
        # a sum, so that no image's gradient depends on the others
        sums = [g.confidence(seen[i]).sum() for i, g in enumerate(gaussians)]
        return [torch.autograd.grad(s, moving, retain_graph=True)[0].sign() for s in sums]


def layer_scores(
    model: Classifier, gaussians: Sequence[Gaussian], images: Tensor, magnitudes: Sequence[float]
) -> Tensor:
    """Return every layer's confidence in its own perturbed images, (N, M, L) float64 on the CPU.

    An image moves by a magnitude along the layer's direction and is not clipped to [0, 1]
    afterwards, as in both references. The original divides the step by the normalisation's std,
    because it moves normalised images; in pixels this is the same step.

    Args:
        model: the classifier, in eval mode.
        gaussians: of its L first `layers`.
        images: (N, 3, H, W) in [0, 1].
        magnitudes: M of them; 0 leaves the images alone and costs no gradient.

    Source: Lee et al., algorithm 1; get_Mahalanobis_score in lib_generation.py (90c2105) and in
        utils/mahalanobis_lib.py (1640ce6 of ZFancy/Unleashing-Mask).
    """
    if len(images) == 1:
        # Measured on a CPU: alone, an image goes another way through the convolutions, whose
        # rounding turned a ReLU in 1 of 75 images. In batches of 2 to 300 all scores were equal.
        return layer_scores(model, gaussians, torch.cat([images, images]), magnitudes)[:1]
    moves = directions(model, gaussians, images) if any(magnitudes) else []
    scores = torch.empty(len(images), len(magnitudes), len(gaussians), dtype=torch.float64)
    with torch.no_grad():
        for column, magnitude in enumerate(magnitudes):
            seen = _perturbed_layers(model, images, moves, magnitude)
            # not strict: the last of the layers may have no Gaussian
            for index, (one, rows) in enumerate(zip(gaussians, seen, strict=False)):
                scores[:, column, index] = one.confidence(rows).cpu()
    return scores


def _perturbed_layers(
    model: Classifier, images: Tensor, moves: Sequence[Tensor], magnitude: float
) -> Iterator[Tensor]:
    """Yield each layer's features of the images that were moved for it, (N, C)."""
    if magnitude == 0:
        yield from layers(model.inner(images))
        return
    for index, move in enumerate(moves):
        yield layers(model.inner(images + magnitude * move))[index]


def adversarial(model: Classifier, images: Tensor, labels: Tensor, step: float) -> Tensor:
    """Return the images (N, 3, H, W), each pixel moved by a step against its true class.

    That is the fast gradient sign method; the result is clipped to [0, 1], as in the references.

    Source: Goodfellow et al., ICLR 2015, arXiv:1412.6572; utils/mahalanobis_lib.py:200-228
        (1640ce6), which uses true labels too.
    """
    with torch.enable_grad():
        moving = images.detach().clone().requires_grad_()
        loss = F.cross_entropy(model(moving), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moving)
    return (images + step * gradient.sign()).clamp(0, 1)


def regression(clean: Tensor, moved: Tensor) -> tuple[Tensor, float]:
    """Return weights (L,) and bias: higher `scores @ weights + bias` = more likely adversarial.

    A logistic regression with scikit-learn's default strength, on standardised scores: those of
    different layers differ by orders of magnitude. The standardisation is folded into the result.

    Args:
        clean: confidences (N, L) of the images.
        moved: of their adversarial versions, (N, L).
    """
    # here, because it takes a second, and most runs do without
    from sklearn.linear_model import LogisticRegression

    scores = torch.cat([clean, moved])
    mean, spread = scores.mean(dim=0), scores.std(dim=0, correction=0)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    labels = torch.arange(len(scores)) >= len(clean)
    found = LogisticRegression(max_iter=1000).fit(
        ((scores - mean) / spread).numpy(), labels.numpy()
    )
    weights = torch.from_numpy(found.coef_[0]).double() / spread
    return weights, float(found.intercept_[0]) - float(weights @ mean)


def cross_validated(clean: Tensor, moved: Tensor, folds: Tensor) -> float:
    """Return the AUROC of `regression` for rows that it was not trained on.

    Args:
        clean: confidences (N, L) of the images.
        moved: of their adversarial versions, in the same order: both are in the same fold.
        folds: (N,), the fold that a row is scored in; it is trained on in all others.
    """
    from sklearn.metrics import roc_auc_score

    logits = torch.empty(2, len(folds), dtype=torch.float64)
    for fold in torch.unique(folds):
        out = folds == fold
        weights, bias = regression(clean[~out], moved[~out])
        logits[0, out] = clean[out] @ weights + bias
        logits[1, out] = moved[out] @ weights + bias
    labels = torch.arange(2).repeat_interleave(len(folds))
    return float(roc_auc_score(labels.numpy(), logits.flatten().numpy()))


def tune(clean: Tensor, moved: Tensor, magnitudes: Sequence[float], seed: int) -> Tuned:
    """Return the magnitude with the highest cross-validated AUROC, and its regression on all rows.

    Args:
        clean: confidences (N, M, L) of held-out ID images, from `layer_scores`.
        moved: of their adversarial versions, in the same order.
        magnitudes: M of them. Of several that are equally good, the smallest is chosen.
        seed: of the folds.
    """
    order = torch.randperm(len(clean), generator=torch.Generator().manual_seed(seed))
    folds = torch.empty_like(order)
    folds[order] = torch.arange(len(order)) % _FOLDS
    auroc = [cross_validated(clean[:, m], moved[:, m], folds) for m in range(len(magnitudes))]
    best = max(range(len(magnitudes)), key=lambda m: (auroc[m], -magnitudes[m]))
    weights, bias = regression(clean[:, best], moved[:, best])
    return Tuned(magnitudes[best], weights, bias, auroc[best])


class FeatureEnsemble(GradientDetector):  # type: ignore[misc]  # pytorch-ood has no types
    """Mahalanobis distances in all layers, of perturbed images, weighted by a logistic regression.

    Scores are the regression's logit, not its probability, which is 1.0 for all far images.

    The authors of UM choose on ID test images, by FPR95 on a second half of them; here it is the
    cross-validated AUROC on images that are used for nothing else. The regression's strength is
    fixed, on standardised scores, where they search it on raw ones. A pixel whose gradient is 0
    stays where it is, as in the paper's formula; in both codes it counts as positive.

    Args:
        model: a classifier with `inner`, in eval mode. It is read and run, never changed.
        magnitudes: of the perturbation, to choose from, in units of a pixel in [0, 1].
        fgsm: step of the adversarial images that the choice is made against, in the same unit.
        held_out: fraction of the images given to `fit` that the choice is made on. The Gaussians
            come from the others.
        tune_on: held-out images, at most; the others are left to the Gaussians.
        seed: of the draw of held-out images, and of the folds.

    Raises:
        ValueError: if an argument is out of range.

    Source: Lee et al., NeurIPS 2018, arXiv:1807.03888, algorithm 1 and section 2.2.
        The other code: utils/mahalanobis_lib.py (1640ce6 of ZFancy/Unleashing-Mask).
    """

    requires_fit = True
    info = DetectorInfo(
        paper=Paper(
            title="A Simple Unified Framework for Detecting Out-of-Distribution Samples and "
            "Adversarial Attacks",
            venue="NeurIPS",
            year=2018,
            url="https://arxiv.org/abs/1807.03888",
            code="https://github.com/pokaxpoka/deep_Mahalanobis_detector",
        ),
        tasks={Task.CLASSIFICATION},
    )

    def __init__(
        self,
        model: Classifier,
        *,
        magnitudes: Sequence[float] = MAGNITUDES,
        fgsm: float = 0.05,
        held_out: float = 0.2,
        tune_on: int = 1000,
        seed: int = 0,
    ) -> None:
        if not magnitudes or min(magnitudes) < 0:
            raise ValueError(f"magnitudes must be at least 0, and one given; got {magnitudes}")
        if fgsm <= 0:
            raise ValueError(f"fgsm must be above 0, got {fgsm}")
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must be a fraction above 0 and below 1, got {held_out}")
        if tune_on < _FEWEST:
            raise ValueError(f"tune_on must be at least {_FEWEST} images, got {tune_on}")
        self.model = model
        self.magnitudes, self.fgsm = tuple(magnitudes), fgsm
        self.held_out, self.tune_on, self.seed = held_out, tune_on, seed
        self.gaussians: list[Gaussian] = []
        self.tuned: Tuned | None = None
        self.fit_images = self.tuning_images = 0
        self._batch = 1

    def fit(self, loader: Batches, validation: Batches | None = None) -> FeatureEnsemble:
        """Fit the Gaussians, then choose magnitude and weights; returns the detector itself.

        Args:
            loader: ID training images with their labels. It is gone through twice, once for the
                labels alone unless it is a um_bench Loader; each image is forwarded once.
            validation: held-out ID images with their labels, at most `tune_on` of which are used.
                Without them, a part of `loader` is held out, the same share of each class.

        Raises:
            ValueError: if an image is OOD or of a class that the model does not have, a class has
                fewer than 2 images, fewer than 10 can be held out, or the model's loss has no
                gradient.
            UnsupportedError: if the network does not show its inner layers.
        """
        require_eval(self.model)
        counts = _class_counts(loader, self.model.num_classes)
        _require_two_of_each(counts)
        held: list[tuple[Tensor, Tensor]] = []
        if validation is None:
            chosen = _drawn(counts, self.held_out, self.tune_on, spare=2, seed=self.seed)
            rest = _split(loader, chosen, held)
        else:
            among = _class_counts(validation, self.model.num_classes)
            chosen = _drawn(among, 1.0, self.tune_on, spare=0, seed=self.seed)
            for _ in _split(validation, chosen, held):
                pass
            rest = _split(loader, [torch.zeros(n, dtype=torch.bool) for n in counts.tolist()], [])
        self._fit_gaussians(rest)
        self._tune(*(torch.cat(parts) for parts in zip(*held, strict=True)))
        return self

    def predict(self, x: Tensor) -> Tensor:
        """Return outlier scores (B,) float32 of images (B, 3, H, W) in [0, 1].

        Higher = more OOD, any range; 0 is where ID and adversarial images are equally likely.

        Raises:
            RequiresFittingException: if it is not fitted.
        """
        tuned = self._fitted()
        scores = layer_scores(self.model, self.gaussians, x.to(self.device), (tuned.magnitude,))
        return (scores[:, 0] @ tuned.weights + tuned.bias).float()

    def to(self, device: str | torch.device) -> FeatureEnsemble:
        """Move the model and the Gaussians to a device; returns the detector itself."""
        super().to(device)
        self.gaussians = [one.to(device) for one in self.gaussians]
        return self

    @property
    def chosen(self) -> dict[str, float]:
        """What was chosen on held-out images, and how many images it rests on, for the record.

        `magnitude` in units of a pixel, `tuning_auroc` as in `Tuned`, the number of images that the
        Gaussians (`fit_images`) and the choice (`tuning_images`) come from, and the weight of
        each layer's confidence, from the input on.

        Raises:
            RequiresFittingException: if it is not fitted.
        """
        tuned = self._fitted()
        return {
            "magnitude": tuned.magnitude,
            "tuning_auroc": tuned.auroc,
            "fit_images": float(self.fit_images),
            "tuning_images": float(self.tuning_images),
            "bias": tuned.bias,
            **{f"weight_{i}": weight for i, weight in enumerate(tuned.weights.tolist())},
        }

    def _fitted(self) -> Tuned:
        if self.tuned is None:
            raise RequiresFittingException
        return self.tuned

    def _fit_gaussians(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        moments: list[_Moments] = []
        counts = torch.zeros(self.model.num_classes, dtype=torch.int64)
        for images, labels in batches:
            with torch.no_grad():
                seen = layers(self.model.inner(images.to(self.device)))
            if not moments:
                moments = [_Moments(rows, len(counts)) for rows in _distinct(seen)]
            counts += torch.bincount(labels.cpu(), minlength=len(counts))
            self._batch = max(self._batch, len(labels))
            # not strict: a layer that repeats the one before it is left out
            for sums, rows in zip(moments, seen, strict=False):
                sums.add(rows, labels)
        self.fit_images = int(counts.sum())
        self.gaussians = [sums.gaussian(counts).to(self.device) for sums in moments]

    def _tune(self, images: Tensor, labels: Tensor) -> None:
        clean: list[Tensor] = []
        moved: list[Tensor] = []
        some_moved = False
        # in batches of the loader's size, which is what fits into memory
        for batch in zip(
            *(torch.split(part, self._batch) for part in (images, labels)), strict=True
        ):
            here, their = (part.to(self.device) for part in batch)
            against = adversarial(self.model, here, their, self.fgsm)
            some_moved |= not torch.equal(here, against)
            clean.append(layer_scores(self.model, self.gaussians, here, self.magnitudes))
            moved.append(layer_scores(self.model, self.gaussians, against, self.magnitudes))
        if not some_moved:
            raise ValueError(
                "no adversarial image can be made to choose weights against: the classifier's loss "
                "has no gradient, as where its head is all zeros"
            )
        self.tuning_images = len(images)
        self.tuned = tune(torch.cat(clean), torch.cat(moved), self.magnitudes, self.seed)


def _distinct(seen: list[Tensor]) -> list[Tensor]:
    """Return the layers without the last, where it is the mean of the last stage.

    As in every ResNet: weighted together, two equal layers are one, at twice the cost.
    """
    if len(seen) > 1 and seen[-1].shape == seen[-2].shape and torch.allclose(seen[-1], seen[-2]):
        return seen[:-1]
    return seen


def _class_counts(loader: Batches, num_classes: int) -> Tensor:
    """Return how many images of each class a loader has, (K,) int64."""
    # labels alone: to decode the images of a streamed set takes longer than the network does
    if isinstance(loader, Loader):
        labels = loader.data.labels
    else:
        labels = torch.cat([torch.empty(0, dtype=torch.int64), *(y.cpu() for _, y in loader)])
    if len(labels) == 0:
        raise ValueError("there are no images to fit on")
    ood = int((labels < 0).sum())
    if ood:
        raise ValueError(f"{ood} of {len(labels)} images are OOD; only ID data may be used")
    if int(labels.max()) >= num_classes:
        raise ValueError(
            f"a label is {int(labels.max())}, but the model has the classes 0 to {num_classes - 1}"
        )
    return torch.bincount(labels, minlength=num_classes)


def _require_two_of_each(counts: Tensor) -> None:
    few = (counts < 2).nonzero().flatten().tolist()
    if few:
        named = ", ".join(map(str, few[:5])) + (", ..." if len(few) > 5 else "")
        raise ValueError(
            f"at least 2 images of each of the {len(counts)} classes are needed; there are fewer "
            f"of class {named}"
        )


def _drawn(counts: Tensor, fraction: float, most: int, *, spare: int, seed: int) -> list[Tensor]:
    """Return which images of each class are held out: for class c a mask over its n_c images.

    Args:
        counts: images of each class, (K,).
        fraction: of the images, as near as whole numbers of each class allow.
        most: images, at most.
        spare: images of each class that stay.
        seed: of the draw.
    """
    total = min(round(fraction * int(counts.sum())), most)
    share = total * counts.double() / counts.sum()
    quota = share.floor().long()
    left = torch.argsort(quota - share, stable=True)[: total - int(quota.sum())]
    quota[left] += 1
    quota = torch.minimum(quota, (counts - spare).clamp_min(0))
    if int(quota.sum()) < _FEWEST:
        raise ValueError(
            f"{int(quota.sum())} of {int(counts.sum())} images can be held out to choose magnitude "
            f"and weights; at least {_FEWEST} are needed"
        )
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randperm(count, generator=generator) < some
        for count, some in zip(counts.tolist(), quota.tolist(), strict=True)
    ]


def _split(
    loader: Batches, chosen: list[Tensor], held: list[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a loader's batches without the chosen images, which go to `held` instead.

    Args:
        loader: the n-th image of class c is chosen where `chosen[c][n]` is true, so that neither
            the batch size nor the order of the classes counts.
        chosen: for each class a mask over its images.
        held: is filled; on the CPU.

    Raises:
        ValueError: if there are other numbers of images in the classes than `chosen` says.
    """
    seen = [0] * len(chosen)
    for images, labels in loader:
        out = torch.zeros(len(labels), dtype=torch.bool)
        for label in torch.unique(labels).tolist():
            at = (labels == label).nonzero().flatten().cpu()
            mask = chosen[label][seen[label] : seen[label] + len(at)]
            seen[label] += len(at)
            out[at[: len(mask)]] = mask
        here = out.to(images.device)
        if out.any():
            held.append((images[here].cpu(), labels[here].cpu()))
        if not out.all():
            yield images[~here], labels[~here]
    if seen != [len(mask) for mask in chosen]:
        raise ValueError(
            f"the loader gave {sum(len(mask) for mask in chosen)} images at first and {sum(seen)} "
            "now, or of other classes; it has to give the same each time it is iterated"
        )
