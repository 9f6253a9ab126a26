"""One adapted model, scored: every set forwarded once, every detector fed from these outputs."""

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from um_bench.backbones import Classifier, Inner
from um_bench.data import ImageSet, Loader, leakage
from um_bench.data.leakage import NO_FILES, Files
from um_bench.detectors import Binding, Scorer, fit, search
from um_bench.detectors.search import Scored
from um_bench.errors import UmBenchError
from um_bench.metrics import accuracy, ood_metrics
from um_bench.outputs import Digest, Outputs, collect

BATCH_SIZE = 512


class FitSets(NamedTuple):
    """What a detector may see before it scores; never a test set."""

    fit: ImageSet
    """ID images to be fitted on."""
    held_out: ImageSet | None = None
    """ID images, in no other set, on which a detector tunes itself."""
    validation: tuple[ImageSet, ImageSet] | None = None
    """Held-out ID images and OOD images, where hyperparameters are searched."""
    files: Files = NO_FILES
    """What it must not read, and what else is known."""


@dataclass
class Passes:
    """The outputs of one model, each set's collected when it is first asked for, and kept."""

    classifier: Classifier
    device: str
    readers: Mapping[str, Sequence[Binding]] = field(default_factory=dict)
    """Fingerprint -> the detectors that will read inner layers of that set."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Fingerprint -> time of the one pass over that set."""
    _outputs: dict[str, Outputs | UmBenchError] = field(default_factory=dict)
    _loaders: dict[str, Loader] = field(default_factory=dict)

    def loader(self, data: ImageSet) -> Loader:
        """Return a set's images in their order, unchanged; they go to the device once.

        Raises:
            LeakageError: if it is a test set, and a stage is at work that must not see it.
        """
        leakage.asked_for(data.name)
        if data.fingerprint not in self._loaders:
            loader = Loader(data, batch_size=BATCH_SIZE, device=self.device)
            self._loaders[data.fingerprint] = loader
        return self._loaders[data.fingerprint]

    def outputs(self, data: ImageSet) -> Outputs:
        """Return the outputs for a set; its images are forwarded at the first call only.

        Raises:
            UmBenchError: if the model has none, the same error each time.
        """
        if data.fingerprint not in self._outputs:
            start = time.perf_counter()
            self._outputs[data.fingerprint] = self._collected(data)
            self.seconds[data.fingerprint] = time.perf_counter() - start
        outputs = self._outputs[data.fingerprint]
        if isinstance(outputs, UmBenchError):
            raise outputs
        return outputs

    def scored(self, data: ImageSet) -> Scored:
        """Return a set as detectors score it."""
        return Scored(self.outputs(data), self.loader(data))

    def id_accuracy(self, test: ImageSet) -> float:
        """Return the share of a test set that is classified correctly."""
        outputs = self.outputs(test)
        return accuracy(outputs.logits, outputs.labels)

    def _collected(self, data: ImageSet) -> Outputs | UmBenchError:
        try:
            return collect(self.classifier, self.loader(data), self._digests(data))
        except UmBenchError as error:
            return error

    def _digests(self, data: ImageSet) -> dict[str, Digest]:
        readers = self.readers.get(data.fingerprint, ())
        return {binding.label: _digest(binding, self.classifier) for binding in readers}


def _digest(binding: Binding, classifier: Classifier) -> Digest:
    """Return what a detector keeps of inner layers; where that fails, it fails there."""
    assert binding.spec.digest is not None
    try:
        return binding.spec.digest(classifier, binding.settings)
    except Exception as error:
        return functools.partial(_fail, error)


def _fail(error: Exception, inner: Inner) -> tuple[Tensor, ...]:
    raise error


@dataclass(frozen=True)
class IdScores:
    """A fitted detector and its scores for the ID test sets."""

    scorer: Scorer
    scores: Tensor
    """Of the ID test set: (N,) float32, higher = more OOD."""
    shifted: Tensor
    """The same of the covariate-shifted ID sets, (M,); empty where there are none."""
    id_accuracy: float
    notes: Mapping[str, float]
    """What fitting or a search chose."""
    opened: tuple[str, ...]
    """What fitting and searching read, as `Stage.sets` has it."""
    seconds: Mapping[str, float]
    _ood: dict[str, tuple[Tensor, float]] = field(default_factory=dict)
    """Fingerprint -> scores, and the time they took: full-spectrum cells have the same sets."""

    def ood(self, passes: Passes, data: ImageSet) -> tuple[Tensor, float]:
        """Return the scores of an OOD set and the seconds that they took; computed once.

        Raises:
            UmBenchError: if the detector breaks, or a score is not finite.
        """
        if data.fingerprint not in self._ood:
            outputs = passes.outputs(data)
            start = time.perf_counter()
            scores = self.scorer.score(outputs, passes.loader(data))
            self._ood[data.fingerprint] = scores, time.perf_counter() - start
        return self._ood[data.fingerprint]


class CellScores(NamedTuple):
    """What one cell comes to."""

    metrics: dict[str, float]
    """Fractions in [0, 1]."""
    scores: dict[str, Tensor]
    """`id` and `ood`: outlier scores (N,) float32, higher = more OOD."""
    settings: dict[str, Any]
    """The detector's hyperparameters, those that follow from the classifier included."""
    notes: Mapping[str, float]
    opened: tuple[str, ...]
    """As in `IdScores`."""
    seconds: dict[str, float]


def score_id(
    passes: Passes,
    detector: Binding,
    sets: FitSets,
    test: ImageSet,
    shifted: Sequence[ImageSet] = (),
) -> IdScores:
    """Return a detector fitted on ID data, with its scores for the ID test sets.

    Raises:
        UnsupportedError: if the detector cannot apply to this classifier.
        LeakageError: if fitting it reads what it is tested on.
        UmBenchError: if it breaks, or its scores are not finite.
    """
    needed = [test, *shifted, *_fitted_on(detector, sets)]
    for data in needed:
        passes.outputs(data)
    start = time.perf_counter()
    with leakage.refusing(f"fitting {detector.label}", sets.files) as stage:
        scorer, notes = _fitted(passes, detector, sets)
    fitted = time.perf_counter()
    scores = scorer.score(*passes.scored(test))
    seconds = {
        "outputs": sum(passes.seconds[each] for each in {data.fingerprint for data in needed}),
        "fit": fitted - start,
        "score": time.perf_counter() - fitted,
    }
    more = [scorer.score(*passes.scored(data)) for data in shifted]
    return IdScores(
        scorer,
        scores,
        torch.cat([scores[:0], *more]),
        passes.id_accuracy(test),
        notes,
        stage.sets,
        seconds,
    )


def _fitted_on(detector: Binding, sets: FitSets) -> list[ImageSet]:
    """Return the sets whose outputs a detector is fitted and searched on."""
    fit_set = [sets.fit] if detector.spec.fits_on != "nothing" else []
    return [*fit_set, *(sets.validation or ())] if detector.searched else fit_set


def _fitted(passes: Passes, detector: Binding, sets: FitSets) -> tuple[Scorer, Mapping[str, float]]:
    outputs = loader = None
    if detector.spec.fits_on != "nothing":
        outputs, loader = passes.scored(sets.fit)
    if not detector.searched:
        held_out = passes.loader(sets.held_out) if sets.held_out else None
        scorer = fit(detector, passes.classifier, outputs, loader, held_out)
        return scorer, scorer.notes
    assert sets.validation is not None
    known, unknown = map(passes.scored, sets.validation)
    found = search(
        detector,
        passes.classifier,
        fit_outputs=outputs,
        fit_loader=loader,
        known=known,
        unknown=unknown,
    )
    return found.scorer, {**found.scorer.notes, **found.notes}


def score_ood(
    passes: Passes, known: IdScores, ood: ImageSet, *, full_spectrum: bool = False
) -> CellScores:
    """Return the metrics of a fitted detector on one OOD set, and the scores behind them.

    Args:
        passes: of the model.
        known: the detector, with its ID scores.
        ood: the OOD set.
        full_spectrum: whether covariate-shifted ID images count as ID.

    Raises:
        UmBenchError: if the scores are not finite.
    """
    scores, seconds = known.ood(passes, ood)
    id_scores = torch.cat([known.scores, known.shifted]) if full_spectrum else known.scores
    metrics = ood_metrics(id_scores, scores)
    metrics["id_accuracy"] = known.id_accuracy
    return CellScores(
        metrics,
        {"id": id_scores, "ood": scores},
        dict(known.scorer.settings),
        known.notes,
        known.opened,
        {
            "outputs": known.seconds["outputs"] + passes.seconds[ood.fingerprint],
            "fit": known.seconds["fit"],
            "score": known.seconds["score"] + seconds,
        },
    )
