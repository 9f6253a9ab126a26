"""Records against published numbers: the difference in SDs, or every reason why there is none.

A number is compared only if everything that decides it is known on both sides and agrees. What
cannot be verified from records is not passed over: it is in the entry's `let_pass`, and is shown.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from um_bench.leaderboard import Info, RowKey, Spread, newest, over_seeds
from um_bench.published.entries import ID, NOT_STATED, Entry, PublishedDetector, PublishedSet
from um_bench.records import Record
from um_bench.suite import OodSet, parse_choice

MAX_SDS = 3.0
"""How many SDs a number may be away before `check` says so by its exit status."""
HARDLY_TIE = ("energy", "maxlogit")
"""Detectors whose scores hardly tie. For them the rules for FPR95's threshold agree to one image,
and both areas under precision over recall to 0.0001, at 5,000 images a set or more."""
_RULES = {"fpr95": "at least 95 %", "aupr_in": "trapezoid", "aupr_out": "trapezoid"}
"""How um-bench computes a metric where there are several ways."""
_SEARCH = "search"


@dataclass(frozen=True, kw_only=True)
class MeasuredRow:
    """One (ID set, backbone, adapter, detector) of the records."""

    key: RowKey
    adapter: str
    """The bare name."""
    detector: str
    suite: str
    sets: Mapping[str, OodSet]
    """What suite.json says of the OOD sets, by name; empty where there is no such file."""
    id_test: str
    """The same of the ID test set."""
    seeds: tuple[int, ...]
    cells: Mapping[tuple[str, int], Record]
    """By (OOD set, seed)."""

    @property
    def done(self) -> list[Record]:
        """Return the cells that have numbers."""
        return [record for record in self.cells.values() if record.state == "done"]

    @property
    def label(self) -> str:
        """Return its names in one line."""
        key = self.key
        return f"{key.adapter_label} + {key.detector_label}, {key.id_set}, {key.backbone}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A published number beside the measured one."""

    entry: Entry
    row: MeasuredRow
    metric: str
    """As the records name it."""
    measured: Spread
    """Over seeds, fractions."""
    sd: float | None
    """What the difference is divided by, a fraction; None = the published spread is not known."""
    basis: str
    """How `sd` was made, or why there is none."""
    let_pass: tuple[str, ...]

    @property
    def difference(self) -> float:
        """Return measured minus published, a fraction."""
        assert self.measured.mean is not None
        return self.measured.mean - self.entry.mean

    @property
    def sds(self) -> float | None:
        """Return the difference in SDs."""
        return self.difference / self.sd if self.sd else None


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A published number that no row can be compared with."""

    entry: Entry
    nearest: str
    """The row with the fewest reasons against it; empty = there is none at all."""
    reasons: tuple[str, ...]
    """Why not that row; never empty."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `um-bench check --against published` found."""

    suite: str
    compared: tuple[Comparison, ...]
    refused: tuple[Refusal, ...]
    max_sds: float = MAX_SDS

    @property
    def outside(self) -> tuple[Comparison, ...]:
        """Return the comparisons that are further away than `max_sds`."""
        return tuple(c for c in self.compared if c.sds is not None and abs(c.sds) > self.max_sds)

    @property
    def exit_status(self) -> int:
        """Return 1 if a comparison is outside, else 0, also where nothing is comparable."""
        return 1 if self.outside else 0


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One entry and one row, with what both are about."""

    entry: Entry
    row: MeasuredRow
    same_weights: bool
    matched: Mapping[str, str] = field(init=False)
    """Published set -> the row's name of the same images."""
    used: Sequence[Record] = field(init=False)
    """The done cells on those sets, or all, where no set decides the number."""

    def __post_init__(self) -> None:
        matched = dict(_matched(self.entry.sets, self.row))
        names = set(matched.values())
        done = self.row.done
        used = [record for record in done if record.ood_set in names] or done
        object.__setattr__(self, "matched", matched)
        object.__setattr__(self, "used", used)

    def values(self, of: Callable[[Record], Any]) -> list[Any]:
        """Return the distinct values that a function has on the cells that are used."""
        found: list[Any] = []
        for record in self.used:
            value = of(record)
            if value not in found:
                found.append(value)
        return found

    def counts(self, role: str) -> list[Any]:
        """Return the distinct numbers of images in a role."""
        return self.values(lambda record: record.counts.get(role))

    def settings(self, group: str) -> list[dict[str, Any]]:
        """Return the distinct hyperparameters of a group, as the records have them."""
        return self.values(lambda record: record.hyperparameters.get(group) or {})


def check_records(
    records: Iterable[Record],
    info: Info | None,
    entries: Iterable[Entry],
    *,
    max_sds: float = MAX_SDS,
    same_weights: bool = False,
) -> Report:
    """Return each published number's comparison with the records, or why there is none.

    Args:
        records: of one suite.
        info: the suite's own words; without them no OOD set's list is known, and all is refused.
        entries: the published numbers.
        max_sds: further away than that is `outside`.
        same_weights: whether the user vouches that base classifiers which were given, not trained
            here, are the ones behind the published numbers. Records cannot show it.
    """
    rows = list(_rows(records, info))
    compared: list[Comparison] = []
    refused: list[Refusal] = []
    for entry in entries:
        near = _nearest(entry, rows)
        pairs = [_Pair(entry=entry, row=row, same_weights=same_weights) for row in near]
        judged = [(pair, tuple(_reasons(pair))) for pair in pairs]
        good = [pair for pair, reasons in judged if not reasons]
        if good:
            # ID accuracy is in the rows of all detectors: one is enough
            compared += map(_compare, good[:1] if entry.over == ID else good)
        else:
            refused.append(_refuse(entry, judged))
    suite = info.name if info else ", ".join(sorted({row.suite for row in rows}))
    return Report(suite=suite, compared=tuple(compared), refused=tuple(refused), max_sds=max_sds)


def _rows(records: Iterable[Record], info: Info | None) -> Iterator[MeasuredRow]:
    latest, _ = newest(records)
    cells: dict[tuple[str, RowKey], dict[tuple[str, int], Record]] = {}
    for record in latest:
        key = RowKey(
            record.id_set,
            record.backbone,
            record.auxiliary,
            record.adapter_label,
            record.detector_label,
        )
        cells.setdefault((record.suite, key), {})[record.ood_set, record.seed] = record
    named = {record.seed for record in latest} | set(info.seeds if info else ())
    for (suite, key), of_row in cells.items():
        first = next(iter(of_row.values()))
        yield MeasuredRow(
            key=key,
            adapter=first.adapter,
            detector=first.detector,
            suite=suite,
            sets={ood.name: ood for ood in info.ood} if info else {},
            id_test=info.id_test if info else "",
            seeds=tuple(sorted(named)),
            cells=of_row,
        )


def _nearest(entry: Entry, rows: Sequence[MeasuredRow]) -> Sequence[MeasuredRow]:
    """Return the rows that agree with an entry in the most names, the weightiest name first.

    A row that can be compared agrees in all of them, so that none is lost.
    """
    agree: list[Callable[[MeasuredRow], bool]] = [
        lambda row: row.key.id_set == entry.protocol.id_set,
        lambda row: row.key.backbone == entry.protocol.backbone,
        lambda row: entry.detector is None or row.detector == entry.detector.detector,
        lambda row: row.key.adapter_label == entry.training.adapter,
    ]
    for agrees in agree:
        rows = [row for row in rows if agrees(row)] or rows
    return rows


def _matched(sets: Sequence[PublishedSet], row: MeasuredRow) -> Iterator[tuple[str, str]]:
    here = {name for name, _ in row.cells}
    for wanted in sets:
        for name, ood in row.sets.items():
            # the part of a data set's name is known in any case
            same = wanted.source and ood.source.lower() == wanted.source.lower()
            if same and name in here and not ood.full_spectrum:
                yield wanted.name, name
                break


def _refuse(entry: Entry, judged: Sequence[tuple[_Pair, tuple[str, ...]]]) -> Refusal:
    if not judged:
        return Refusal(entry=entry, nearest="", reasons=("there are no records",))
    pair, reasons = min(judged, key=lambda one: len(one[1]))
    return Refusal(entry=entry, nearest=pair.row.label, reasons=reasons)


# --- Why not ---


def _reasons(pair: _Pair) -> Iterator[str]:
    for check in _CHECKS:
        yield from check(pair)


def _differing(what: str, found: Iterable[Any], published: Any) -> Iterator[str]:
    """Yield a reason for each value that is not the published one; None was not published."""
    if published is None:
        yield f"{what}: not stated by the source"
        return
    for value in found:
        if not _same(value, published):
            here = "not recorded" if value is None or value == "" else f"{value} here"
            yield f"{what}: {here}, published with {published}"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        # channel means and SDs, which everybody rounds to three or four digits
        return len(one) == len(other) and all(
            math.isclose(a, b, abs_tol=5e-4) for a, b in zip(one, other, strict=True)
        )
    numbers = all(isinstance(v, int | float) and type(v) is not bool for v in (one, other))
    return math.isclose(one, other) if numbers else bool(one == other)


def _differing_settings(
    what: str, found: Iterable[Mapping[str, Any]], published: Mapping[str, Any]
) -> Iterator[str]:
    for given, (name, value) in itertools.product(found, published.items()):
        yield from _differing(f"{what} {name}", [given.get(name)], value)


def _unknown(pair: _Pair) -> Iterator[str]:
    yield from (f"not known of the published number: {what}" for what in pair.entry.unknown)


def _whole(pair: _Pair) -> Iterator[str]:
    if "@limit=" in pair.row.suite:
        yield f"limit: {pair.row.suite} took only some images of each set"


def _id_set(pair: _Pair) -> Iterator[str]:
    protocol = pair.entry.protocol
    yield from _differing("ID set", [pair.row.key.id_set], protocol.id_set)
    counts = {"ID test images": ("id", protocol.id_images)}
    if not protocol.weights:
        counts["training images"] = ("train", protocol.train_images)
    for what, (role, published) in counts.items():
        yield from _differing(what, pair.counts(role), published)
    if protocol.id_test:
        # the part of a data set's name is known in any case
        here = pair.row.id_test.lower()
        yield from _differing("ID test set", [here], protocol.id_test.lower())


def _backbone(pair: _Pair) -> Iterator[str]:
    protocol = pair.entry.protocol
    if pair.row.key.backbone != protocol.backbone:
        ours = f" ({protocol.backbone})" if protocol.backbone else ""
        yield f"backbone: {pair.row.key.backbone} here, published with {protocol.network}{ours}"
    options = pair.settings("backbone")
    yield from _differing_settings("backbone option", options, protocol.backbone_options)


def _preprocessing(pair: _Pair) -> Iterator[str]:
    published = dict(pair.entry.protocol.preprocessing)
    if not published:
        yield "preprocessing: not stated by the source"
    used = [
        # a short side that is not given is the size
        {**given, "resize_to": given.get("resize_to") or given.get("size")}
        for given in pair.settings("preprocessing")
    ]
    yield from _differing_settings("preprocessing:", used, published)


def _recipe(pair: _Pair) -> Iterator[str]:
    protocol, training = pair.entry.protocol, pair.entry.training
    for base in [] if protocol.weights else pair.settings("base"):
        if base:
            yield from _base_recipe(base, protocol.recipe)
        elif not pair.same_weights:
            yield (
                "training recipe: the base classifier was given, not trained here; records do not "
                "show that it is the published one"
            )
    if training.adapter in ("", "none"):
        return
    if not protocol.adapter_recipe:
        yield f"training recipe of {training.name}: not stated by the source"
    used = pair.values(
        lambda record: (
            record.hyperparameters.get("outlier_recipe")
            or record.hyperparameters.get("recipe")
            or {}
        )
    )
    yield from _differing_settings("adapter's recipe:", used, protocol.adapter_recipe)


def _base_recipe(base: Mapping[str, Any], published: Mapping[str, Any]) -> Iterator[str]:
    if not published:
        yield "training recipe: not stated by the source"
    yield from _differing_settings("training recipe:", [base], published)


def _adapter(pair: _Pair) -> Iterator[str]:
    training, label = pair.entry.training, pair.row.key.adapter_label
    if label != training.adapter:
        ours = training.adapter or "which um-bench does not have"
        yield f"adapter: {label} here, published with {training.name} ({ours})"
    if pair.row.key.auxiliary:
        yield (
            f"auxiliary outliers: {pair.row.key.auxiliary} here; that the published number was "
            "made with the same is not known"
        )
    if training.from_scratch:
        yield (
            f"training: {training.name} trained the classifier from the start; an adapter starts "
            "from a trained one"
        )


def _detector(pair: _Pair) -> Iterator[str]:
    published, row = pair.entry.detector, pair.row
    if published is None:
        return
    if row.detector != published.detector:
        ours = published.detector or "which um-bench does not have"
        yield f"detector: {row.detector} here, published with {published.name} ({ours})"
        return
    used = pair.settings("detector")
    yield from _differing_settings("detector setting", used, published.settings)
    yield from _searched(pair, published)
    if published.fit_images is not None:
        what = "images that the detector is fitted on"
        yield from _differing(what, pair.counts("fit"), published.fit_images)


def _searched(pair: _Pair, published: PublishedDetector) -> Iterator[str]:
    given = {
        name.lower(): value
        for name, value in parse_choice(pair.row.key.detector_label).settings.items()
    }
    alone = given == {"": _SEARCH} and len(published.searched) == 1
    fixed = [
        name for name in published.searched if not alone and given.get(name.lower()) != _SEARCH
    ]
    for name in fixed:
        found = ", ".join(str(used.get(name)) for used in pair.settings("detector"))
        yield (
            f"detector setting {name}: fixed here ({found}), published as chosen among "
            f"{list(published.searched[name])} on validation sets for each run"
        )
    if published.searched and not fixed:
        combinations = math.prod(map(len, published.searched.values()))
        for chosen in pair.settings("chosen"):
            tried, skipped = chosen.get("search_tried"), chosen.get("search_skipped")
            if (tried, skipped) != (combinations, 0):
                yield (
                    f"detector search: {tried} combinations, {skipped} of them skipped here, "
                    f"published with {combinations}"
                )


def _sets(pair: _Pair) -> Iterator[str]:
    entry, row = pair.entry, pair.row
    if entry.over == ID:
        return
    if not entry.sets:
        yield "OOD sets: not stated by the source"
    if not row.sets:
        yield "OOD sets: there is no suite.json, which says what images they are"
    for wanted in entry.sets:
        name = pair.matched.get(wanted.name)
        if name is None:
            yield from _absent(wanted, row)
            continue
        found = {r.counts.get("ood") for r in pair.used if r.ood_set == name}
        yield from _differing(f"images of {wanted.name}", found, wanted.images)


def _absent(wanted: PublishedSet, row: MeasuredRow) -> Iterator[str]:
    other = row.sets.get(wanted.name)
    if not wanted.source:
        yield f"OOD set {wanted.name}: which images is not stated by the source"
    elif other and other.source.lower() != wanted.source.lower():
        yield (
            f"OOD set {wanted.name}: {other.source or 'unknown images'} here, published with "
            f"{wanted.source}"
        )
    else:
        yield f"OOD set {wanted.name} ({wanted.source}): not in these results, in the published"


def _seeds(pair: _Pair) -> Iterator[str]:
    entry, row = pair.entry, pair.row
    if len(pair.matched) < len(entry.sets) or not _metric(entry):
        return  # said already, and there is no number to count
    seeds = _values(pair).n
    if seeds == 0:
        yield f"{entry.metric}: no seed has it on all sets"
        return
    if seeds < len(row.seeds):
        yield f"seeds: only {seeds} of the suite's {len(row.seeds)} are done on all sets"
    yield from _checkpoints(pair, seeds)


def _checkpoints(pair: _Pair, seeds: int) -> Iterator[str]:
    entry = pair.entry
    bases = {record.weights.get("base") for record in pair.used}
    if not all(bases):
        yield "checkpoints: the records do not name the base weights"
    elif entry.protocol.weights:
        if not all(given.get("pretrained") for given in pair.settings("backbone")):
            yield f"weights: published with {entry.protocol.weights}, which were not asked for here"
    elif entry.runs == 1:
        yield "single checkpoint: the published number is of one run, whose spread is not known"
    elif seeds < 2:
        yield f"single checkpoint: one seed here, published over {_runs(entry)}"
    elif len(bases) < seeds:
        yield (
            f"single checkpoint: {seeds} seeds start from {len(bases)} base classifiers here, "
            f"published over {_runs(entry)}"
        )


def _runs(entry: Entry) -> str:
    return f"{entry.runs} runs" if entry.runs else "an unknown number of runs"


def _convention(pair: _Pair) -> Iterator[str]:
    entry = pair.entry
    if not _metric(entry):
        yield "convention: the source does not state which class is positive in FPR95"
    rule = _published_rule(entry)
    if rule == NOT_STATED:
        yield f"convention: the source does not state how {entry.metric} is computed"
    elif rule != _RULES.get(entry.metric, rule) and pair.row.detector not in HARDLY_TIE:
        yield (
            f"convention: {entry.metric} is by {_RULES[entry.metric]!r} here, published by "
            f"{rule!r}; scores of {pair.row.detector} may tie, and then the two differ"
        )


def _published_rule(entry: Entry) -> str | None:
    if entry.metric == "fpr95":
        return entry.protocol.fpr95_rule
    return entry.protocol.aupr_rule if entry.metric.startswith("aupr") else None


_CHECKS: tuple[Callable[[_Pair], Iterator[str]], ...] = (
    _unknown,
    _whole,
    _id_set,
    _backbone,
    _preprocessing,
    _recipe,
    _adapter,
    _detector,
    _sets,
    _seeds,
    _convention,
)


# --- The difference ---


def _metric(entry: Entry) -> str:
    """Return the records' name of an entry's metric; empty where it is not known which it is."""
    if entry.metric != "fpr95":
        return entry.metric
    positive = entry.protocol.fpr95_positive
    return "" if positive == NOT_STATED else f"fpr95_{positive}"


def _values(pair: _Pair) -> Spread:
    """Return the measured number over seeds: each seed's unweighted mean over the sets."""
    entry, row, metric = pair.entry, pair.row, _metric(pair.entry)
    numbers: dict[str, dict[int, float]] = {}
    of_any_set: dict[int, float] = {}
    for (ood_set, seed), record in row.cells.items():
        number = record.metrics.get(metric, -1)
        if record.state == "done" and 0 <= number <= 1:
            numbers.setdefault(ood_set, {})[seed] = number
            of_any_set.setdefault(seed, number)
    if entry.over != ID:
        return over_seeds(numbers, list(pair.matched.values()), row.seeds)
    return over_seeds({ID: of_any_set}, [ID], row.seeds)


def _compare(pair: _Pair) -> Comparison:
    entry, measured = pair.entry, _values(pair)
    sd, basis = _spread_of_difference(entry, measured)
    notes = [*entry.source.let_pass, *(entry.detector.let_pass if entry.detector else ())]
    rule = _published_rule(entry)
    if rule and rule != _RULES[entry.metric]:
        notes.append(
            f"{entry.metric} is by {_RULES[entry.metric]!r} here, published by {rule!r}: without "
            "ties in the scores the two agree to less than a rounded digit."
        )
    if pair.same_weights and not all(pair.settings("base")):
        notes.append("That the base classifiers are the published ones is the user's word.")
    return Comparison(
        entry=entry,
        row=pair.row,
        metric=_metric(entry),
        measured=measured,
        sd=sd,
        basis=basis,
        let_pass=tuple(notes),
    )


def _spread_of_difference(entry: Entry, measured: Spread) -> tuple[float | None, str]:
    published = entry.sample_sd
    if published is None or entry.sd is None:
        return None, "the published SD is not known: points only"
    if measured.sd is None:
        return None, "one seed here: points only"
    over = f"over {_runs(entry)}"
    if published != entry.sd:
        over += f", by n; {100 * published:.2f} by n - 1"
    basis = (
        f"root of the sum of squares of the published SD ({100 * entry.sd:.2f} points {over}) and "
        f"the SD here ({100 * measured.sd:.2f} over {measured.n} seeds, by n - 1)"
    )
    combined = math.hypot(published, measured.sd)
    return (combined, basis) if combined else (None, "no spread on either side: points only")
