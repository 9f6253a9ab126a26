"""Every loss of pytorch_ood.loss: which adapter it is, or why it is none; the card's tables."""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytorch_ood.loss

from um_bench.adapters import Adapter
from um_bench_losses.adapters import (
    CAC,
    GMCHAD,
    II,
    MCHAD,
    VOS,
    Center,
    Confidence,
    Entropic,
    LogitNorm,
    Objectosphere,
    VOSReg,
)

OURS = ""
"""In place of a field's name: um-bench decides this argument."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A loss that is an adapter, or two."""

    adapters: tuple[type[Adapter], ...]
    reads: str
    """What of the classifier's output: `logits`, `features`, or both."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Each argument of pytorch-ood's class -> the field that it is, or OURS."""
    differs: str = ""
    """How its numbers differ from pytorch-ood's; empty where they are the same."""
    scored: str
    """What the paper takes for a score, and which detector reads that."""


@dataclass(frozen=True, kw_only=True)
class NoFit:
    """A loss that is no adapter of this plugin."""

    because: str


_NOT_DIVIDED = (
    "the ID images and the outliers are averaged apart; pytorch-ood divides both sums by the "
    "number of all rows"
)
_MCHAD_ARGUMENTS = {
    "n_classes": OURS,
    "n_dim": OURS,
    "radius": "radius",
    "margin": "margin",
    "weight_center": "weight_center",
    "weight_nll": "weight_nll",
    "weight_oe": "weight_oe",
}
_VOS_ARGUMENTS = {"logistic_regression": OURS, "weights_energy": OURS, "alpha": "alpha"}

LOSSES: Mapping[str, Fit | NoFit] = {
    "BackgroundClassLoss": NoFit(
        because="needs a logit more than there are classes, for the background. The classifier "
        "would have another head, and detectors would take that logit for a class."
    ),
    "CACLoss": Fit(
        adapters=(CAC,),
        reads="logits",
        arguments={"n_classes": OURS, "magnitude": "magnitude", "alpha": "alpha"},
        differs="pytorch-ood's tuplet term leaves out the last class and counts the true one, and "
        "its distances are squared; here as in the paper",
        scored="min over classes of d (1 - softmin(d)), anchors moved to the class means: no "
        "detector. The nearest anchor is the largest logit, so `maxlogit` comes nearest",
    ),
    "CenterLoss": Fit(
        adapters=(Center,),
        reads="features",
        arguments={
            "n_classes": OURS,
            "n_dim": OURS,
            "magnitude": OURS,
            "radius": "radius",
            "fixed": OURS,
        },
        differs="half the mean over images, as in the paper; pytorch-ood also divides by the "
        "number of classes and does not halve. The radius is a distance, not its square",
        scored="no OOD paper; compact features are read by `knn`, `mahalanobis`",
    ),
    "ConfidenceLoss": Fit(
        adapters=(Confidence,),
        reads="features, logits",
        arguments={"alpha": "alpha", "eps": OURS},
        differs="hints to some of the images and the budget, which pytorch-ood leaves to the user; "
        "with a hint for all, the same numbers",
        scored="the confidence c (with a perturbed image): no detector, the branch is not part of "
        "the classifier. What is left is its effect on features and logits",
    ),
    "CrossEntropyLoss": NoFit(because="is the adapter `finetune`."),
    "DeepSADLoss": NoFit(
        because="is for one class: its network has one centre, no logits, and nothing to classify."
    ),
    "DeepSVDDLoss": NoFit(because="is for one class, as `DeepSADLoss`."),
    "EnergyMarginLoss": NoFit(
        because="(SCONE) learns from unlabelled images of which some are ID, some shifted, some "
        "OOD; an auxiliary set has outliers alone. It is a constrained problem, whose multipliers "
        "are fitted to the whole training set after each epoch. The nearest are `energy` and "
        "`loss:VOSReg`."
    ),
    "EnergyRegularizedLoss": NoFit(because="is the adapter `energy`."),
    "EntropicOpenSetLoss": Fit(
        adapters=(Entropic,),
        reads="logits",
        arguments={"reduction": OURS},
        differs=_NOT_DIVIDED,
        scored="largest softmax: `msp`",
    ),
    "IILoss": Fit(
        adapters=(II,),
        reads="features",
        arguments={"n_classes": OURS, "n_embedding": OURS, "alpha": "alpha"},
        differs="divided by the number of dimensions; a batch of one class gives no separation, "
        "where pytorch-ood gives 1e24; no running centres, of which pytorch-ood keeps the graph "
        "of every batch in memory",
        scored="squared distance to the nearest class mean: `mahalanobis` comes nearest, whose "
        "distance is not Euclidean",
    ),
    "LogitNorm": Fit(
        adapters=(LogitNorm,),
        reads="logits",
        arguments={"t": "t", "reduction": OURS},
        scored="largest softmax: `msp`",
    ),
    "MCHADLoss": Fit(
        adapters=(MCHAD, GMCHAD),
        reads="logits",
        arguments=_MCHAD_ARGUMENTS,
        differs="pytorch-ood's outlier term squares the squared distances, leaves out the radius "
        "and sums over the batch; its centre term has the radius for its square and divides by "
        "the number of classes",
        scored="squared distance to the nearest centre: no detector. `msp` reads the softmin of "
        "the squared distances, `maxlogit` and `energy` that distance less the squared length of "
        "the point",
    ),
    "ObjectosphereLoss": Fit(
        adapters=(Objectosphere,),
        reads="features, logits",
        arguments={"alpha": "alpha", "xi": "xi", "reduction": OURS},
        differs=_NOT_DIVIDED,
        scored="softmax times length of the features: no detector; `gradnorm`, a product of the "
        "two with other norms, comes nearest. pytorch-ood's `score` takes the logits' length",
    ),
    "OutlierExposureLoss": NoFit(because="is the adapter `oe`."),
    "VOSRegLoss": Fit(
        adapters=(VOSReg,),
        reads="logits",
        arguments={**_VOS_ARGUMENTS, "reduction": OURS},
        scored="energy: `energy`; `weighted-ebo` would need the learned weights, which are not "
        "part of the classifier",
    ),
    "VirtualOutlierSynthesizingRegLoss": Fit(
        adapters=(VOS,),
        reads="features, logits",
        arguments={
            **_VOS_ARGUMENTS,
            "fc": OURS,
            "reduction": OURS,
            "sample_number": "sample_number",
            "select": "select",
            "sample_from": "sample_from",
        },
        scored="energy: `energy`; as `VOSRegLoss`",
    ),
}
"""By the name of the class: all that `pytorch_ood.loss` has, of version 0.4.0."""


def catalogue() -> str:
    """Return the method card's two tables in Markdown: what fits, and what does not."""
    fits = {name: fit for name, fit in LOSSES.items() if isinstance(fit, Fit)}
    rest = {name: no for name, no in LOSSES.items() if isinstance(no, NoFit)}
    shown = [row for name, fit in fits.items() for row in _rows(name, fit)]
    heads = ("adapter", "class", "reads", "outliers", "settings", "against pytorch-ood", "scored")
    first = _table(heads, shown)
    second = _table(
        ("class", "is no adapter of this plugin"),
        [(f"`{name}`", no.because) for name, no in rest.items()],
    )
    return f"{first}\n\n{second}"


def _rows(name: str, fit: Fit) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for adapter in fit.adapters:
        settings = ", ".join(f"{key} {value}" for key, value in defaults(adapter).items())
        outliers = "yes" if adapter.needs_outliers else ""
        against = fit.differs or "the same numbers"
        label = f"`loss:{adapter.__name__}`"
        rows.append((label, f"`{name}`", fit.reads, outliers, settings, against, fit.scored))
    return rows


def defaults(adapter: type[Adapter]) -> dict[str, Any]:
    """Return an adapter's hyperparameters and their defaults, by name."""
    return {f.name: f.default for f in dataclasses.fields(adapter)}  # type: ignore[arg-type]


def arguments_of(name: str) -> tuple[str, ...]:
    """Return the arguments of a class of pytorch_ood.loss, in their order."""
    return tuple(inspect.signature(getattr(pytorch_ood.loss, name)).parameters)


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
