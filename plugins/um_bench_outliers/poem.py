"""The adapter `poem`: outliers near the boundary, mined anew each epoch by posterior sampling."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from um_bench.adapters import Exposure, Loader, Paper, Plan, draw
from um_bench.data import ImageSet
from um_bench.errors import UnsupportedError, UsageError
from um_bench.training import some_of
from um_bench_outliers.energy import Energy
from um_bench_outliers.posterior import Posterior, Sums, posterior, weighted_sums


@dataclass(frozen=True, kw_only=True)
class POEM(Energy):
    """`energy` on the outliers that a random linear boundary between ID and outliers lies nearest.

    The boundary is drawn from the posterior of a Bayesian linear regression on the penultimate
    features (Thompson sampling), so that it differs most where least is known.
    """

    paper: ClassVar[Paper | None] = Paper(
        "POEM: Out-of-Distribution Detection with Posterior Sampling",
        "ICML",
        2022,
        "https://arxiv.org/abs/2206.13687",
    )

    conf: float = 3.9
    """Target of the regression: -conf for ID images, +conf for outliers."""
    sigma: float = 20.0
    """Variance of each weight before any image is seen."""
    sigma_n: float = 0.5
    """Variance of a target."""
    pool: int = 8
    """Candidates per ID image; one in so many is mined."""
    buffer: int = 4
    """Epochs whose outliers the posterior remembers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("conf", "sigma", "sigma_n"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name} must be a positive number, got {getattr(self, name)}")
        for name in ("pool", "buffer"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter, with `energy_term` on mined outliers beside the ID loss.

        Raises:
            UnsupportedError: if the model has no penultimate features.
        """
        _features_of(model)
        return dataclasses.replace(super().prepare(model, train), exposure=Mining(self))


class Mining(Exposure):
    """Chooses the candidates whose score by a drawn boundary is nearest 0.

    Source:
        Ming et al., ICML 2022, arXiv:2206.13687; train_poem.py `select_ood_opt` and
        neural_linear_opt.py of deeplearning-wisc/poem (976b8d0).
    """

    def __init__(self, settings: POEM) -> None:
        self.settings = settings
        self.seen: deque[Tensor] = deque(maxlen=settings.buffer)
        """Positions in the auxiliary set, of each epoch that is remembered."""

    def choose(
        self, model: nn.Module, train: Loader, outliers: ImageSet, generator: torch.Generator
    ) -> Tensor:
        """Return the positions of mined outliers, repeated where there are fewer than ID images."""
        count, size = len(train.data), len(outliers)
        candidates = draw(min(self.settings.pool * count, size), size, generator)
        boundary = self.posterior(model, train, outliers).draw(generator)
        images = some_of(outliers, candidates)
        scores = torch.cat([z @ boundary.to(z) for z in _features(model, images, train)])
        nearest = scores.abs().argsort(stable=True).cpu()
        mined = candidates[nearest[: max(1, len(candidates) // self.settings.pool)]]
        chosen = mined[draw(count, len(mined), generator)]
        self.seen.append(chosen)
        return chosen

    def posterior(self, model: nn.Module, train: Loader, outliers: ImageSet) -> Posterior:
        """Return the posterior by the model's features of all ID images and of outliers seen.

        An outlier counts as often as it was seen, and all ID images once for each epoch that is
        remembered. Before the first epoch it is the prior.
        """
        epochs = len(self.seen)
        known = weighted_sums(_features(model, train.data, train), torch.ones(len(train.data)))
        unknown = Sums(torch.zeros_like(known.gram), torch.zeros_like(known.total))
        if epochs:
            times = torch.bincount(torch.cat(list(self.seen)))
            positions = times.nonzero()[:, 0]
            images = some_of(outliers, positions)
            unknown = weighted_sums(_features(model, images, train), times[positions])
        return posterior(
            epochs * known.gram + unknown.gram,
            self.settings.conf * (unknown.total - epochs * known.total),
            prior=self.settings.sigma,
            noise=self.settings.sigma_n,
        )


def _features(model: nn.Module, data: ImageSet, like: Loader) -> Iterator[Tensor]:
    """Yield the features (B, D), float64, of all images in their order, not augmented."""
    features = _features_of(model)
    # A training step forwards as many at once.
    size = 2 * like.batch_size
    for images, _ in dataclasses.replace(
        like, data=data, batch_size=size, shuffle=False, augmentation="none"
    ):
        yield features(images).double()


def _features_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    features: Callable[[Tensor], Tensor] | None = getattr(model, "features", None)
    if features is None:
        raise UnsupportedError(
            f"poem needs a model's penultimate features, and {type(model).__name__} has no method "
            "`features`; um_bench.backbones.Classifier has it"
        )
    return features
