"""What in the records calls for a second look before a number is believed.

An alarm is no verdict: a number below may be right. It says what was seen and where to look. Some
are raised from records alone, here; those that only the run can see (`um_bench.watch`) are stored
in the record of each cell and collected here.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from um_bench.records import Record
from um_bench.suite import FULL_SPECTRUM, GROUPS, Cell, is_full_spectrum

NOT_FINITE = "not-finite"
CONSTANT = "constant-scores"
TRAIN_MODE = "train-mode"
CHANGED = "changed-by-evaluation"
UNCHANGED = "unchanged-weights"
BELOW_START = "constraint-below-start"
UNREACHED = "constraint-not-reached"
ACCURACY_LOST = "accuracy-lost"
IDENTICAL = "identical-ranking"
BELOW_CHANCE = "below-chance"
NEAR_EASIER = "near-easier-than-far"

MEANINGS = {
    NOT_FINITE: "a score or a metric is NaN or infinite",
    CONSTANT: "most images of a set have one and the same score",
    TRAIN_MODE: "a part of the model was in training mode while images were scored",
    CHANGED: "scoring changed a weight or a BatchNorm statistic of the model",
    UNCHANGED: "the adapter left the weights as they were",
    BELOW_START: "the constraint is not above the loss that training starts from",
    UNREACHED: "training did not come near the constraint in any epoch",
    ACCURACY_LOST: "the adapter cost more ID accuracy than methods usually do",
    IDENTICAL: "two detectors put the images in the same order",
    BELOW_CHANCE: "AUROC is below 50 %",
    NEAR_EASIER: "near-OOD sets are easier than far-OOD sets",
}
"""Name of each alarm -> what it says, for a legend; the most serious ones first."""

CONSTANT_SHARE = 0.5
"""Alarm where more than this share of a set's images has one score. The softmax of a classifier
that was trained long rounds to 1 for a third of the ID images (measured on CIFAR-10: 0.33)."""
LOST = 0.02
"""Alarm where ID accuracy fell by more than 2 points. The published rows of the method lose up to
1.4 (OE, 94.01 to 92.59 %).

Source:
    ZFancy/Unleashing-Mask, README.md:153-158 (1640ce6).
"""
EASIER = 0.01
"""Alarm where near-OOD has an AUROC of more than 1 point above far-OOD, in the mean over seeds: a
smaller difference may be chance."""
REACHED = 0.8
"""A constraint c counts as reached once an epoch's mean of |beta * CE - c| is at most this share of
c. Runs that settled on c had 0.2 to 0.6, as the loss differs from batch to batch; one that never
moved from a loss close to 0 has 1, and one that stays above 2c has more than 1."""
STARTING_LOSS = "starting_loss"
"""The note of an adapter that says, beside `constraint`, what mean training cross-entropy in nats
the classifier had that it was given."""

_SHOWN = 4
_OF_MODEL = (TRAIN_MODE, CHANGED)
"""Stored alarms that are about a model, whatever the detector."""


class Where(NamedTuple):
    """What an alarm concerns, each in the order of the records."""

    id_set: str
    backbone: str
    adapters: tuple[str, ...]
    """Labels."""
    detectors: tuple[str, ...]
    """Labels."""
    ood_sets: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def line(self) -> str:
        """One line for a page; where there are many of a kind, how many."""
        kinds = {"adapter": self.adapters, "detector": self.detectors, "OOD set": self.ood_sets}
        parts = [_listed(names, kind) for kind, names in kinds.items()]
        return "; ".join([*parts, _listed(tuple(map(str, self.seeds)), "seed")])


class Alarm(NamedTuple):
    """One thing that was seen, in all cells where it was."""

    name: str
    """A key of `MEANINGS`, or what a later version stored."""
    where: Where
    text: str
    """What was seen, with the numbers of the worst place, and what to look at."""
    cells: tuple[Cell, ...]

    @property
    def line(self) -> str:
        """The whole alarm in one line."""
        count = len(self.cells)
        return f"{self.where.line} ({count} cell{'s' if count > 1 else ''}): {self.text}"


class Hit(NamedTuple):
    """One finding, before those that belong together are put in one alarm."""

    badness: float
    """The finding with the largest gives the alarm's numbers."""
    words: Callable[[], str]
    """Called for the worst finding only: there may be as many as there are cells."""
    cells: Sequence[Record]


Found = tuple[str, str, Hit]
"""Name of the alarm; what its findings have in common, which make one alarm; a finding."""


def of_records(records: Iterable[Record]) -> tuple[Alarm, ...]:
    """Return what the records raise, the most serious first.

    Findings of one kind that have a cause in common are one alarm, whose numbers are those of the
    worst: the adapter for what is about a model, the detector for what is about scores, the ID set
    and backbone for AUROCs. Stale records raise nothing.
    """
    places: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.state != "stale":
            places.setdefault((record.id_set, record.backbone), []).append(record)
    found = [alarm for of_one in places.values() for alarm in _of_place(of_one)]
    order = {name: position for position, name in enumerate(MEANINGS)}
    return tuple(sorted(found, key=lambda alarm: order.get(alarm.name, len(order))))


def by_cell(alarms: Iterable[Alarm]) -> dict[Cell, tuple[Alarm, ...]]:
    """Return the alarms of each cell that has any, in their order."""
    found: dict[Cell, list[Alarm]] = {}
    for alarm in alarms:
        for cell in alarm.cells:
            found.setdefault(cell, []).append(alarm)
    return {cell: tuple(its) for cell, its in found.items()}


def _of_place(records: Sequence[Record]) -> Iterator[Alarm]:
    """Yield the alarms of the records of one ID set and backbone."""
    done = [record for record in records if record.state == "done"]
    found: dict[tuple[str, str], list[Hit]] = {}
    of_scores = (_not_finite, _below_chance, _near_easier, _identical)
    models = _models(done)
    hits = itertools.chain(
        _stored(records),
        *(find(done) for find in of_scores),
        *(find(models) for find in (_unchanged, _accuracy_lost, _constraints)),
    )
    for name, cause, hit in hits:
        found.setdefault((name, cause), []).append(hit)
    known: dict[int, Cell] = {}
    for (name, _), its in found.items():
        yield _alarm(name, its, known)


def _alarm(name: str, hits: Sequence[Hit], known: dict[int, Cell]) -> Alarm:
    """Return one alarm of several findings.

    `known` has the cells of records by their `id`: making one takes longer than all else.
    """
    worst = max(hits, key=lambda hit: hit.badness)
    cells = list(itertools.chain.from_iterable(hit.cells for hit in hits))
    known |= {id(record): record.cell for record in cells if id(record) not in known}
    first = worst.cells[0]
    where = Where(
        first.id_set,
        first.backbone,
        tuple(dict.fromkeys(record.adapter_label for record in cells)),
        tuple(dict.fromkeys(record.detector_label for record in cells)),
        tuple(dict.fromkeys(record.ood_set for record in cells)),
        tuple(sorted({record.seed for record in cells})),
    )
    return Alarm(name, where, worst.words(), tuple(known[id(record)] for record in cells))


def _listed(names: Sequence[str], kind: str) -> str:
    if len(names) > _SHOWN:
        return f"{len(names)} {kind}s"
    return f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _place(record: Record) -> str:
    """Return where a number is from, below a detector."""
    return f"{record.adapter_label}, {record.ood_set}, seed {record.seed}"


def _stored(records: Sequence[Record]) -> Iterator[Found]:
    """Yield what was raised while cells were computed, also where a cell then failed."""
    for record in records:
        for name in record.alarms:
            cause = record.adapter_label if name in _OF_MODEL else record.detector_label
            yield name, cause, Hit(0.0, partial(_stored_words, record, name), [record])


def _stored_words(record: Record, name: str) -> str:
    place = f"seed {record.seed}" if name in _OF_MODEL else _place(record)
    return f"{place}: {record.alarms[name]}"


def _not_finite(done: Sequence[Record]) -> Iterator[Found]:
    """Yield stored metrics that are no numbers. Scores that are none end a cell before that."""
    for record in done:
        # One test for all: a sum of fractions is finite where each of them is.
        if not math.isfinite(sum(record.metrics.values())):
            words = partial(_not_finite_words, record)
            yield NOT_FINITE, record.detector_label, Hit(0.0, words, [record])


def _not_finite_words(record: Record) -> str:
    wrong = [name for name, value in record.metrics.items() if not math.isfinite(value)]
    return (
        f"{', '.join(wrong)} of {_place(record)} is not finite. um-bench writes no such number: "
        "the record was edited, or made by something else. Compute the cell again."
    )


def _below_chance(done: Sequence[Record]) -> Iterator[Found]:
    for record in done:
        auroc = record.metrics.get("auroc", 1.0)
        if auroc < 0.5:
            yield BELOW_CHANCE, "", Hit(-auroc, partial(_below_chance_words, record), [record])


def _below_chance_words(record: Record) -> str:
    return (
        f"AUROC is below 50 %, lowest {record.metrics['auroc']:.1%} ({_place(record)}): OOD images "
        "look more familiar than ID images. Check the score's sign (higher = more OOD); if it is "
        "right, the detector fails on these images."
    )


def _near_easier(done: Sequence[Record]) -> Iterator[Found]:
    """Yield rows whose mean AUROC on near-OOD is above that on far-OOD.

    Only seeds count on which every set is done that the row has anywhere.
    """
    rows: dict[tuple[str, str, bool], list[Record]] = {}
    for record in done:
        row = (record.adapter_label, record.detector_label, is_full_spectrum(record.group))
        rows.setdefault(row, []).append(record)
    for (_, _, full), members in rows.items():
        cells = _of_whole_seeds(members)
        near, far = (_by_set(cells, group + FULL_SPECTRUM * full) for group in GROUPS)
        gap = _mean(near.values()) - _mean(far.values()) if near and far else 0.0
        if gap > EASIER:
            words = partial(_near_easier_words, cells, near, far)
            yield NEAR_EASIER, str(full), Hit(gap, words, cells)


def _near_easier_words(
    cells: Sequence[Record], near: Mapping[str, float], far: Mapping[str, float]
) -> str:
    gap, seeds = _mean(near.values()) - _mean(far.values()), len({r.seed for r in cells})
    row = f"{cells[0].adapter_label}, {cells[0].detector_label}"
    return (
        f"near-OOD is easier than far-OOD by {gap * 100:.1f} points of AUROC ({row}), in the mean "
        f"over {seeds} seed{'s' if seeds > 1 else ''}: near {_percents(near)}; far "
        f"{_percents(far)}. Check that the sets are in the groups that they belong to, and how "
        "they are resized."
    )


def _of_whole_seeds(row: Sequence[Record]) -> Sequence[Record]:
    count = len({record.ood_set for record in row})
    seeds = Counter(record.seed for record in row)
    if min(seeds.values()) == count:
        return row
    return [record for record in row if seeds[record.seed] == count]


def _by_set(cells: Iterable[Record], group: str) -> dict[str, float]:
    """Return the mean AUROC over seeds of each set of a group."""
    values: dict[str, list[float]] = {}
    for record in cells:
        if record.group == group and "auroc" in record.metrics:
            values.setdefault(record.ood_set, []).append(record.metrics["auroc"])
    return {ood_set: _mean(its) for ood_set, its in values.items()}


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def _percents(by_set: Mapping[str, float]) -> str:
    lowest_first = sorted(by_set.items(), key=lambda item: item[1])
    return ", ".join(f"{name} {value:.1%}" for name, value in lowest_first)


def _identical(done: Sequence[Record]) -> Iterator[Found]:
    """Yield detectors that put the images of a model and a set in the same order.

    `Record.ranking` has two parts: of some images, and of all. Detectors count as the same where
    the first part is: multiplying float32 scores by a constant makes neighbours equal, or equal
    ones neighbours, somewhere among thousands.
    """
    places: dict[tuple[str, int, str, str], list[Record]] = {}
    for record in done:
        if record.ranking:
            some = record.ranking.partition(".")[0]
            place = (record.adapter_label, record.seed, record.ood_set, some)
            places.setdefault(place, []).append(record)
    for members in places.values():
        if len(members) < 2:
            continue
        exact = len({record.ranking for record in members}) == 1
        cause = "\n".join(sorted(record.detector_label for record in members))
        yield IDENTICAL, cause, Hit(float(exact), partial(_identical_words, members), members)


def _identical_words(members: Sequence[Record]) -> str:
    exact = len({record.ranking for record in members}) == 1
    labels = tuple(record.detector_label for record in members)
    return (
        f"{_listed(labels, 'detector')} put the images in the same order"
        f"{'' if exact else ', but for close neighbours'} ({_place(members[0])}). One does nothing "
        "that another does not; look at its settings."
    )


def _models(done: Sequence[Record]) -> list[list[Record]]:
    """Return the done cells of each model."""
    models: dict[tuple[str, int], list[Record]] = {}
    for record in done:
        models.setdefault((record.adapter_label, record.seed), []).append(record)
    return list(models.values())


def _unchanged(models: Sequence[Sequence[Record]]) -> Iterator[Found]:
    for cells in models:
        one = cells[0]
        base = one.weights.get("base")
        if one.adapter != "none" and base and one.weights.get("adapted") == base:
            text = (
                f"{one.adapter_label} left every weight as it was (seed {one.seed}): its numbers "
                "are those of none. Look at the learning rate, at what the adapter trains, and "
                "whether it has a loss at all."
            )
            yield UNCHANGED, one.adapter_label, Hit(0.0, text.__str__, cells)


def _accuracy_lost(models: Sequence[Sequence[Record]]) -> Iterator[Found]:
    for cells in models:
        one = cells[0]
        before, after = (one.metrics.get(name) for name in ("base_id_accuracy", "id_accuracy"))
        if before is None or after is None or not before - after > LOST:
            continue
        text = (
            f"{one.adapter_label} lost {(before - after) * 100:.1f} points of ID accuracy (from "
            f"{before:.1%} to {after:.1%}, seed {one.seed}; more than {LOST * 100:.0f} is much). "
            "Look at the learning rate and the number of epochs, and at the constraint where "
            "there is one: a better AUROC of a worse classifier is no gain."
        )
        yield ACCURACY_LOST, one.adapter_label, Hit(before - after, text.__str__, cells)


class _Constraint(NamedTuple):
    """One stage's loss constraint, and how its training went."""

    value: float
    """c in nats."""
    losses: Sequence[float]
    """Mean of |beta * CE - c| + c of each epoch; empty where it cannot be told."""
    start: float | None
    """beta * CE, in the mean over the training images, of the classifier that the stage was
    given; None where the adapter does not say."""


def _constraints(models: Sequence[Sequence[Record]]) -> Iterator[Found]:
    """Yield constraints that had no part in the training.

    UM minimises |beta * CE - c| + c. A constraint c above the loss of the base classifier is no
    alarm: the loss must rise to c for anything to be forgotten, and the estimate, the loss without
    some weights, is above by construction. These are alarms:

    - c is at or below the loss that training starts from. Then UM begins as plain fine-tuning,
      and there is nothing yet below c to be forgotten.
    - c is never reached: in every epoch the mean of |beta * CE - c| stays a large share of c. If
      the mean loss stays above 2c, cross-entropy does too (below c the distance is at most c), and
      UM was plain fine-tuning till the end. If it is about 2c, cross-entropy most likely stayed
      near 0: steps were too small to climb.
    """
    for cells in models:
        one = cells[0]
        for key in one.notes:
            if key != "constraint" and not key.endswith(".constraint"):
                continue
            constraint = _constraint(one, key)
            for name, words in _of_constraint(constraint):
                text = f"{one.adapter_label}, seed {one.seed}: {words}"
                yield name, one.adapter_label, Hit(0.0, text.__str__, cells)


def _constraint(record: Record, key: str) -> _Constraint:
    place, value = key.removesuffix("constraint"), record.notes[key]
    start = record.notes.get(f"{place}{STARTING_LOSS}")
    if start is not None:
        beta = _settings(record.hyperparameters.get("adapter", {}), place).get("beta", 1.0)
        start *= beta
    return _Constraint(value, _own_losses(record, place), start)


def _of_constraint(constraint: _Constraint) -> Iterator[tuple[str, str]]:
    c, losses, start = constraint
    if start is not None and start >= c:
        yield (
            BELOW_START,
            (
                f"training starts from a loss of {start:.3g} nats, which is not below the "
                f"constraint of {c:.3g}: nothing is forgotten until it has fallen to that. "
                "Estimate the constraint anew, or give a larger one."
            ),
        )
    lowest = min(losses, default=c)
    if lowest - c > REACHED * c:
        above = lowest > 2 * c
        yield (
            UNREACHED,
            (
                f"the constraint of {c:.3g} nats was not reached: the mean loss was at least "
                f"{lowest:.3g} in each of {len(losses)} epochs, and {c:.3g} is where it settles. "
                + (
                    "It stayed above, which is plain fine-tuning. Train longer, or give a larger "
                    "constraint."
                    if above
                    else "Look at the learning rate: too small to climb to the constraint, or so "
                    "large that it jumps across."
                )
            ),
        )


def _settings(given: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """Return the hyperparameters of the part of an adapter whose notes begin with `place`."""
    for name, inner in given.items():
        if isinstance(inner, Mapping) and place.startswith(f"{name}."):
            return _settings(inner, place.removeprefix(f"{name}."))
    return given


def _own_losses(record: Record, place: str) -> Sequence[float]:
    """Return the losses of the epochs of the stage whose notes begin with `place`.

    There are none for a part of a composition, whose loss has other terms, nor for a stage in the
    middle, whose first epoch is not known.
    """
    stages = record.adapter_label.split(">")
    if len(stages) == 1:
        return () if place else record.losses
    epochs = record.hyperparameters.get("recipe", {}).get("epochs", 0)
    if not 0 < epochs <= len(record.losses):
        return ()
    if place == f"1.{stages[0]}.":
        return record.losses[:epochs]
    if place == f"{len(stages)}.{stages[-1]}.":
        return record.losses[-epochs:]
    return ()
