"""Alarms that only the run can see: in the scores of a cell, and in the model they come from."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from um_bench.alarms import CHANGED, CONSTANT, CONSTANT_SHARE, NOT_FINITE, TRAIN_MODE

SAMPLED = 512
"""Images of each side whose order is hashed apart from that of all."""
_SHOWN = 3
_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def of_scores(id_scores: Tensor, ood_scores: Tensor) -> dict[str, str]:
    """Return the alarms of a cell's scores: name -> words; empty where there is none.

    Args:
        id_scores: outlier scores (N,), any values.
        ood_scores: outlier scores (M,).
    """
    sides = {"ID": id_scores, "OOD": ood_scores}
    broken = [words for side, scores in sides.items() if (words := _broken(side, scores))]
    if broken:
        look = "Look at the detector's settings, and whether the classifier's logits are finite."
        return {NOT_FINITE: f"{' and '.join(broken)}. {look}"}
    constant = [words for side, scores in sides.items() if (words := _constant(side, scores))]
    if not constant:
        return {}
    look = (
        "They cannot be told apart, and a threshold falls between none of them. The score may be "
        "rounded to a limit, as a softmax is to 1, or not depend on the image."
    )
    return {CONSTANT: f"{' and '.join(constant)}. {look}"}


def _broken(side: str, scores: Tensor) -> str:
    wrong = int((~scores.isfinite()).sum())
    if not wrong:
        return ""
    nan = int(scores.isnan().sum())
    return f"{wrong} of {len(scores)} {side} scores are not finite ({nan} of them NaN)"


def _constant(side: str, scores: Tensor) -> str:
    if not len(scores):
        return ""
    # What more than half of the images have is the median; finding that needs no sort.
    value = scores.median()
    same = int((scores == value).sum())
    if same <= CONSTANT_SHARE * len(scores) or len(scores) == 1:
        return ""
    share = "all" if same == len(scores) else f"{same} of"
    return f"{share} {len(scores)} {side} images have the score {value.item():.6g}"


def ranking_of(id_scores: Tensor, ood_scores: Tensor) -> str:
    """Return what is equal where two detectors put the same images in the same order.

    It is made from ranks, ties kept, so that it depends neither on the scores' dtype nor on their
    scale. It has two parts, "SOME.ALL": of up to 512 images of each side, spread evenly, and of
    all. The second is broken by rounding: of 80,000 float32 scores divided by 10, neighbours that
    become equal shift the ranks behind them (measured with 5 divisors: all but 2 broke it, none
    broke the first).

    Args:
        id_scores: outlier scores (N,).
        ood_scores: outlier scores (M,).

    Returns:
        33 characters; empty where a score is not finite, and so has no rank.
    """
    sides = [scores.detach().cpu().double() for scores in (id_scores, ood_scores)]
    if not all(bool(scores.isfinite().all()) for scores in sides):
        return ""
    some = [scores[_spread(len(scores))] for scores in sides]
    return f"{_order(some)}.{_order(sides)}"


def _spread(count: int) -> Tensor:
    taken = min(count, SAMPLED)
    return torch.arange(taken) * count // max(taken, 1)


def _order(sides: Sequence[Tensor]) -> str:
    # In numpy: 1.1 ms for 19,000 scores, where torch.unique takes 2.
    ranks = np.unique(torch.cat(list(sides)).numpy(), return_inverse=True)[1]
    digest = hashlib.sha256(str([len(scores) for scores in sides]).encode())
    digest.update(ranks.astype(np.int32).tobytes())
    return digest.hexdigest()[:16]


class Untouched:
    """Tells whether a model is what it was: no module in training mode, no tensor changed.

    It is compared by content, so that no way of changing a tensor is missed. Detectors that come
    through `um_bench.detectors` are guarded one by one; this is for all that runs besides.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
        >>> watched = Untouched(model)
        >>> _ = model(torch.zeros(4, 2))
        >>> watched.alarms()
        {}
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._training = _training(model)
        # Copies, where the model is: to hash it after each detector took as long as some of them.
        self._before = {name: tensor.clone() for name, tensor in _contents(model).items()}

    def alarms(self) -> dict[str, str]:
        """Return what is wrong with the model now, or was at first: name -> words."""
        found = {}
        training = list(dict.fromkeys([*self._training, *_training(self._model)]))
        if training:
            found[TRAIN_MODE] = (
                f"{_first(training)} in training mode: scores depend on the batch that an image is "
                "in, or on chance. Whoever handed the model over must call eval() on it."
            )
        changed = self._changed()
        if changed:
            found[CHANGED] = (
                f"{len(changed)} of {len(self._before)} weights and buffers changed since the "
                f"model was loaded: {_first(changed)}. {_cause(changed)} What was scored later is "
                "of another model: run the job again without the detector that does it."
            )
        return found

    def _changed(self) -> list[str]:
        now = _contents(self._model)
        names = dict.fromkeys([*self._before, *now])
        return [name for name in names if not _same(self._before.get(name), now.get(name))]


def _training(model: nn.Module) -> list[str]:
    return [name or "the model itself" for name, part in model.named_modules() if part.training]


def _contents(model: nn.Module) -> dict[str, Tensor]:
    """Return each parameter and buffer, of those too that a state dict leaves out."""
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach() for name, tensor in named}


def _same(before: Tensor | None, now: Tensor | None) -> bool:
    """Return whether a tensor is what it was, bit by bit: so NaN equals itself."""
    if before is None or now is None or before.dtype != now.dtype or before.shape != now.shape:
        return False
    return torch.equal(_bits(before), _bits(now.to(before.device)))


def _bits(tensor: Tensor) -> Tensor:
    # In words of its own size: byte by byte it takes three times as long.
    return tensor.contiguous().reshape(-1).view(_WORDS.get(tensor.itemsize, torch.uint8))


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _cause(changed: Sequence[str]) -> str:
    statistics = [name for name in changed if name.rpartition(".")[2] in _STATISTICS]
    if len(statistics) < len(changed):
        return "Something wrote to the weights."
    return "All are BatchNorm statistics: images passed through it in training mode."
