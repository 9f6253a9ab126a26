"""One adapted model, scored: every set forwarded once, every detector fed from these outputs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from um_bench.backbones import Classifier
from um_bench.data import ImageSet, Loader
from um_bench.detectors import Binding, Scorer, fit
from um_bench.errors import UmBenchError
from um_bench.metrics import accuracy, ood_metrics
from um_bench.outputs import Outputs, collect

BATCH_SIZE = 512


@dataclass
class Passes:
    """The outputs of one model, each set's collected when it is first asked for, and kept."""

    classifier: Classifier
    device: str
    seconds: dict[str, float] = field(default_factory=dict)
    """Fingerprint -> time of the pass over that set."""
    _outputs: dict[str, Outputs | UmBenchError] = field(default_factory=dict)
    _loaders: dict[str, Loader] = field(default_factory=dict)

    def loader(self, data: ImageSet) -> Loader:
        """Return a set's images in their order, unchanged; they go to the device once."""
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

    def _collected(self, data: ImageSet) -> Outputs | UmBenchError:
        try:
            return collect(self.classifier, self.loader(data))
        except UmBenchError as error:
            return error

    def id_accuracy(self, test: ImageSet) -> float:
        """Return the share of a test set that is classified correctly."""
        outputs = self.outputs(test)
        return accuracy(outputs.logits, outputs.labels)


@dataclass(frozen=True)
class IdScores:
    """A fitted detector and its scores for the ID test set."""

    scorer: Scorer
    scores: Tensor
    """(N,) float32, higher = more OOD."""
    id_accuracy: float
    seconds: Mapping[str, float]


class CellScores(NamedTuple):
    """What one cell comes to."""

    metrics: dict[str, float]
    """Fractions in [0, 1]."""
    scores: dict[str, Tensor]
    """`id` and `ood`: outlier scores (N,) float32, higher = more OOD."""
    settings: dict[str, Any]
    """The detector's hyperparameters, those that follow from the classifier included."""
    seconds: dict[str, float]


def score_id(passes: Passes, detector: Binding, fitted_on: ImageSet, test: ImageSet) -> IdScores:
    """Return a detector fitted on ID data, with its scores for the ID test set.

    Raises:
        UnsupportedError: if the detector cannot apply to this classifier.
        UmBenchError: if it breaks, or its scores are not finite.
    """
    outputs = passes.outputs(test)
    fits = detector.spec.fits_on != "nothing"
    needed = (passes.outputs(fitted_on), passes.loader(fitted_on)) if fits else ()
    start = time.perf_counter()
    scorer = fit(detector, passes.classifier, *needed)
    fitted = time.perf_counter()
    scores = scorer.score(outputs, passes.loader(test))
    seconds = {
        "outputs": passes.seconds[test.fingerprint],
        "fit": fitted - start,
        "score": time.perf_counter() - fitted,
    }
    return IdScores(scorer, scores, passes.id_accuracy(test), seconds)


def score_ood(passes: Passes, known: IdScores, ood: ImageSet) -> CellScores:
    """Return the metrics of a fitted detector on one OOD set, and the scores behind them.

    Raises:
        UmBenchError: if the scores are not finite.
    """
    outputs = passes.outputs(ood)
    start = time.perf_counter()
    scores = known.scorer.score(outputs, passes.loader(ood))
    seconds = time.perf_counter() - start
    metrics = ood_metrics(known.scores, scores)
    metrics["id_accuracy"] = known.id_accuracy
    return CellScores(
        metrics,
        {"id": known.scores, "ood": scores},
        dict(known.scorer.settings),
        {
            "outputs": known.seconds["outputs"] + passes.seconds[ood.fingerprint],
            "fit": known.seconds["fit"],
            "score": known.seconds["score"] + seconds,
        },
    )
