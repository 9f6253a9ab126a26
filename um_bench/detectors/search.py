"""A detector's hyperparameters, chosen on declared validation sets as OpenOOD's APS does it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from um_bench.detectors.scorer import Scorer, fit
from um_bench.detectors.spec import Binding
from um_bench.errors import UnsupportedError, UsageError
from um_bench.metrics import ood_metrics
from um_bench.outputs import Outputs

if TYPE_CHECKING:
    from um_bench.backbones import Classifier
    from um_bench.data import Loader


class Scored(NamedTuple):
    """A set as detectors score it."""

    outputs: Outputs
    loader: Loader


class Found(NamedTuple):
    """A detector with the settings that a search chose."""

    scorer: Scorer
    notes: dict[str, float]
    """`search_auroc`: of the choice, on the validation sets, a fraction; `search_tried`: how many
    combinations were compared; `search_skipped`: how many of them this classifier cannot do."""


def search(
    binding: Binding,
    model: Classifier,
    *,
    fit_outputs: Outputs | None,
    fit_loader: Loader | None,
    known: Scored,
    unknown: Scored,
) -> Found:
    """Return the detector, fitted, with the settings that detect best on the validation sets.

    Every combination of the values to be searched is fitted and compared by AUROC; of equal ones
    the first is taken. Each is scored on outputs that are there already.

    Args:
        binding: with `search` as a value.
        model: the classifier, in eval mode.
        fit_outputs: as in `fit`.
        fit_loader: as in `fit`.
        known: held-out ID images.
        unknown: OOD images for validation; never those of a test set.

    Raises:
        UsageError: if the validation sets hold the wrong kind of images.
        UnsupportedError: if this classifier can do none of the combinations.
        DetectorError: as `fit` and `Scorer.score` raise it.

    Source:
        Zhang et al., OpenOOD v1.5, arXiv:2306.09301, "automatic parameter search".
    """
    if (known.outputs.labels < 0).any() or (unknown.outputs.labels >= 0).any():
        raise UsageError(f"{binding.label}: validation needs ID images and, apart, OOD images")
    best: tuple[float, Scorer] | None = None
    skipped, reason, tried = 0, "", 0
    for values in _combinations(binding.searched):
        tried += 1
        try:
            scorer = fit(binding.chosen(values), model, fit_outputs, fit_loader)
            auroc = _auroc(scorer, known, unknown)
        except UnsupportedError as error:
            skipped, reason = skipped + 1, str(error)
            continue
        if best is None or auroc > best[0]:
            best = auroc, scorer
    if best is None:
        raise UnsupportedError(f"{binding.label}: no value can be used: {reason}")
    notes = {"search_auroc": best[0], "search_tried": tried, "search_skipped": skipped}
    return Found(best[1], {name: float(value) for name, value in notes.items()})


def _combinations(space: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*space.values()):
        yield dict(zip(space, values, strict=True))


def _auroc(scorer: Scorer, known: Scored, unknown: Scored) -> float:
    return ood_metrics(scorer.score(*known), scorer.score(*unknown))["auroc"]
