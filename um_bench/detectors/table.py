"""The table of detectors: one row for each of pytorch-ood's, and what is needed to build it.

A new class in pytorch-ood is one row here and its name in pyproject.toml's entry points.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytorch_ood import detector as pod
from torch import Tensor, nn

from um_bench.detectors import images, layers
from um_bench.detectors.corrected import NNGuide, OpenMax
from um_bench.detectors.feature_ensemble import FeatureEnsemble
from um_bench.detectors.guard import device_of
from um_bench.detectors.spec import DetectorSpec
from um_bench.errors import UnsupportedError
from um_bench.suite import Settings

if TYPE_CHECKING:
    from um_bench.backbones import Classifier

Build = Callable[["Classifier", Settings], Any]


def _alone(kind: Callable[..., Any]) -> Build:
    """Return a build for a class that needs nothing of the classifier."""
    return lambda model, settings: kind(None, **settings)


def _tempered(kind: Callable[..., Any]) -> Build:
    """Return a build for a class that calls its temperature t."""
    return lambda model, settings: kind(None, t=settings["T"])


def _with_head(kind: Callable[..., Any]) -> Build:
    """Return a build for a class that maps features to logits."""
    return lambda model, settings: kind(None, _head(model), **settings)


def _with_layer(kind: Callable[..., Any]) -> Build:
    """Return a build for a class that reads the weights of a linear head."""
    return lambda model, settings: kind(None, _head_layer(model), **settings)


def _of_head(kind: Callable[..., Any], **fixed: Any) -> Build:
    """Return a build for a class that differentiates, of the head alone, as a network of its own.

    The gradient with respect to the last layer's parameters needs no image: features are enough.
    """
    return lambda model, settings: kind(_head_layer(model), **fixed, **settings)


def _head(model: Classifier) -> Callable[[Tensor], Tensor]:
    """Return the classifier's head: features (N, D) or (N, D, 1, 1) on any device -> logits (N, K).

    A plain function: from a module or a bound method, pytorch-ood would infer a device and move
    the whole classifier there.
    """
    return lambda features: model.head(features.flatten(1).to(device_of(model))).to(features.device)


def _head_layer(model: Classifier) -> nn.Linear:
    """Return a copy of the linear head on the CPU, with a bias of zeros where it has none.

    Raises:
        UnsupportedError: if the head is not linear.
    """
    layer: nn.Module = model.head_layer
    if not isinstance(layer, nn.Linear):
        raise UnsupportedError(
            f"needs the weights of a linear head; this classifier's is {type(layer).__name__}"
        )
    copied = copy.deepcopy(layer).cpu()
    bias: Tensor | None = copied.bias
    if bias is None:
        copied.bias = nn.Parameter(copied.weight.new_zeros(copied.out_features))
    return copied


def _weights(model: Classifier) -> tuple[Tensor, Tensor]:
    """Return copies of the head's weight (K, D) and bias (K,), zeros where it has none."""
    layer = _head_layer(model)
    return layer.weight.detach(), layer.bias.detach()


def _vim_dimension(model: Classifier) -> int:
    """Return the principal subspace's dimension.

    Source: Wang et al., CVPR 2022, arXiv:2203.10807; haoqiwang/vim benchmark.py:230-235 (dabf9e5).
    """
    if model.feature_dim >= 2048:
        return 1000
    return 512 if model.feature_dim >= 768 else model.feature_dim // 2


def _vim(model: Classifier, settings: Settings) -> Any:
    # pytorch-ood replaces a d that is too large by D // 2, and the record would be wrong; at
    # d = D the residual is empty and every score NaN
    if not 1 <= settings["d"] < model.feature_dim:
        raise UnsupportedError(
            f"ViM's d must be from 1 to below the number of features, {model.feature_dim}; "
            f"got {settings['d']}"
        )
    weight, bias = _weights(model)
    return pod.ViM(None, w=weight, b=bias, **settings)


def _dice(model: Classifier, settings: Settings) -> Any:
    return pod.DICE(None, *_weights(model), **settings)


def _ash(variant: str) -> DetectorSpec:
    def build(model: Classifier, settings: Settings) -> Any:
        return pod.ASH(None, _head(model), variant=variant, **settings)

    # OpenOOD v1.5's percentile; pytorch-ood's own default is 0.65
    return DetectorSpec(
        kind=pod.ASH,
        reads="feature_maps",
        build=build,
        defaults={"percentile": 0.9},
        values={"percentile": "fraction"},
        short="percentile",
    )


MSP = DetectorSpec(
    kind=pod.MaxSoftmax,
    reads="logits",
    build=_tempered(pod.MaxSoftmax),
    defaults={"T": 1.0},
    values={"T": "positive"},
)
MAXLOGIT = DetectorSpec(kind=pod.MaxLogit, reads="logits", build=_alone(pod.MaxLogit))
ENERGY = DetectorSpec(
    kind=pod.EnergyBased,
    reads="logits",
    build=_tempered(pod.EnergyBased),
    defaults={"T": 1.0},
    values={"T": "positive"},
)
ENTROPY = DetectorSpec(kind=pod.Entropy, reads="logits", build=_alone(pod.Entropy))
GEN = DetectorSpec(
    kind=pod.GEN,
    reads="logits",
    build=_alone(pod.GEN),
    defaults={"gamma": 0.1, "M": None},
    values={"gamma": "positive", "M": "count"},
    # the paper's 100 for ImageNet; None = all. Not min(100, classes): another order of summation
    # moved AUROC by 2e-4, as the scores of confident images differ by float32 rounding only
    derived={"M": lambda model: 100 if model.num_classes > 100 else None},
)
TEMPERATURE_SCALING = DetectorSpec(
    kind=pod.TemperatureScaling,
    reads="logits",
    build=_alone(pod.TemperatureScaling),
    fits_on="validation",
)
KLMATCHING = DetectorSpec(
    kind=pod.KLMatching,
    reads="logits",
    build=_alone(pod.KLMatching),
    fits_on="validation",
)
OPENMAX = DetectorSpec(
    kind=pod.OpenMax,
    reads="logits",
    build=_alone(OpenMax),
    defaults={"tailsize": 25, "alpha": 10, "euclid_weight": 1.0},
    values={"tailsize": "count", "alpha": "count", "euclid_weight": "non-negative"},
    fits_on="train",
    every_class=True,
)
WEIGHTED_EBO = DetectorSpec(
    kind=pod.WeightedEBO,
    reads="logits",
    build=_alone(pod.WeightedEBO),
    unsupported="needs a weight for each class, which training with VOS learns",
)
MAHALANOBIS = DetectorSpec(
    kind=pod.Mahalanobis,
    reads="features",
    build=_alone(pod.Mahalanobis),
    fits_on="train",
    every_class=True,
)
RMD = DetectorSpec(
    kind=pod.RMD,
    reads="features",
    build=_alone(pod.RMD),
    fits_on="train",
    every_class=True,
)
GMM = DetectorSpec(
    kind=pod.GMM,
    reads="features",
    build=_alone(pod.GMM),
    defaults={"reg": 1e-6},
    values={"reg": "positive"},
    fits_on="train",
    every_class=True,
)
KNN = DetectorSpec(
    kind=pod.KNN,
    reads="features",
    build=_alone(pod.KNN),
    defaults={"k": 50, "normalize": True},
    values={"k": "count"},
    fits_on="train",
)
NNGUIDE = DetectorSpec(
    kind=pod.NNGuide,
    reads="features",
    build=_with_head(NNGuide),
    defaults={"k": 10},
    values={"k": "count"},
    fits_on="train",
)
VIM = DetectorSpec(
    kind=pod.ViM,
    reads="features",
    build=_vim,
    defaults={"d": None},
    values={"d": "count"},
    derived={"d": _vim_dimension},
    fits_on="train",
)
FDBD = DetectorSpec(
    kind=pod.fDBD,
    reads="features",
    build=_with_layer(pod.fDBD),
    fits_on="train",
    scratch=lambda model: model.num_classes * model.feature_dim,
)
NCI = DetectorSpec(
    kind=pod.NCI,
    reads="features",
    build=_with_layer(pod.NCI),
    defaults={"alpha": 0.0},
    values={"alpha": "non-negative"},
    fits_on="train",
)
PNML = DetectorSpec(
    kind=pod.PNML,
    reads="features",
    build=_with_head(pod.PNML),
    fits_on="train",
)
LTS = DetectorSpec(
    kind=pod.LTS,
    reads="features",
    build=_with_head(pod.LTS),
    defaults={"p": 0.05},
    values={"p": "positive"},
)
DICE = DetectorSpec(
    kind=pod.DICE,
    reads="features",
    build=_dice,
    defaults={"p": 0.9},
    values={"p": "fraction"},
    fits_on="train",
    scratch=lambda model: model.num_classes * model.feature_dim,
)
SHE = DetectorSpec(
    kind=pod.SHE,
    reads="features",
    build=_with_head(pod.SHE),
    fits_on="train",
    every_class=True,
)
MCM = DetectorSpec(
    kind=pod.MCM,
    reads="features",
    build=_alone(pod.MCM),
    unsupported="needs embeddings of the class names, which come with vision-language models",
)
GRADNORM = DetectorSpec(
    kind=pod.GradNorm,
    reads="features",
    # the paper's parameters: the weights of the last layer
    build=_of_head(pod.GradNorm, param_filter=lambda name: name == "weight", micro_batch_size=4096),
    defaults={"temperature": 1.0},
    values={"temperature": "positive"},
    gradients=True,
    scratch=lambda model: model.num_classes * model.feature_dim,
)
GRADUNCERTAINTY = DetectorSpec(
    kind=pod.GradUncertainty,
    reads="features",
    # OpenOOD's parameters: the whole last layer
    build=_of_head(pod.GradUncertainty),
    gradients=True,
    scratch=lambda model: model.num_classes * model.feature_dim,
)
REACT = DetectorSpec(
    kind=pod.ReAct,
    reads="feature_maps",
    build=_with_head(pod.ReAct),
    defaults={"percentile": 0.9},
    values={"percentile": "fraction"},
    short="percentile",
    fits_on="train",
)
ASH_S, ASH_P, ASH_B = _ash("ash-s"), _ash("ash-p"), _ash("ash-b")
SCALE = DetectorSpec(
    kind=pod.SCALE,
    reads="feature_maps",
    build=_with_head(pod.SCALE),
    defaults={"percentile": 0.65},
    values={"percentile": "fraction"},
    short="percentile",
)
VRA = DetectorSpec(
    kind=pod.VRA,
    reads="feature_maps",
    build=_with_head(pod.VRA),
    defaults={"lower_percentile": 0.01, "upper_percentile": 0.99},
    values={"lower_percentile": "fraction", "upper_percentile": "fraction"},
    fits_on="train",
)
MULTI_MAHALANOBIS = DetectorSpec(
    kind=pod.MultiMahalanobis,
    reads="layers",
    build=layers.multi_mahalanobis,
    digest=layers.layer_means,
    fits_on="train",
    every_class=True,
    # the class multiplies all rows of a block with each other
    scratch=lambda model: 2**16,
)
GRAM = DetectorSpec(
    kind=pod.Gram,
    reads="layers",
    build=layers.gram,
    digest=layers.gram_vectors,
    defaults={"poles": None},
    values={"poles": "count"},
    derived={"poles": layers.stage_count},
    fits_on="train",
    every_class=True,
)
RANKFEAT = DetectorSpec(
    kind=pod.RankFeat,
    reads="layers",
    build=lambda model, settings: layers.RankFeatOfLogits(),
    digest=layers.without_rank_one,
)
ODIN = DetectorSpec(
    kind=pod.ODIN,
    reads="images",
    build=images.odin,
    defaults={"temperature": 1000.0, "eps": 0.0014},
    values={"temperature": "positive", "eps": "non-negative"},
)
MAHALANOBIS_ODIN = DetectorSpec(
    kind=pod.MahalanobisODIN,
    reads="images",
    fit_reads="features",
    build=images.mahalanobis_odin,
    defaults={"eps": 0.002},
    values={"eps": "non-negative"},
    fits_on="train",
    every_class=True,
)
FEATURE_ENSEMBLE = DetectorSpec(
    kind=FeatureEnsemble,
    reads="images",
    build=lambda model, settings: FeatureEnsemble(model, **settings),
    fits_on="train",
    tunes=True,
    defaults={"fgsm": 0.05, "held_out": 0.2, "tune_on": 1000},
    values={"fgsm": "positive", "held_out": "fraction", "tune_on": "count"},
    cost=20,
    every_class=True,
)
NAC = DetectorSpec(
    kind=pod.NACUE,
    reads="images",
    build=images.nac,
    defaults={"m_bins": 50, "alpha": 100.0, "o_star": 50},
    values={"m_bins": "count", "alpha": "positive", "o_star": "count"},
    fits_on="train",
)
MCD = DetectorSpec(
    kind=pod.MCD,
    reads="images",
    build=lambda model, settings: images.Dropout(model, **settings),
    cost=30,
    defaults={"samples": 30, "mode": "var"},
    values={"samples": "count"},
)
