"""What may be compared with what, and what makes numbers less comparable than they look."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from um_bench.records import Record
from um_bench.suite import Job

References = Mapping[tuple[str, str], Mapping[str, str]]
"""(ID set, backbone) -> reference adapter -> the label under which it was run. A track without
references of its own is compared with these too."""


class Section(NamedTuple):
    """What rows have in common that are shown in one table, and ordered in it."""

    id_set: str
    backbone: str
    auxiliary: str = ""
    """The auxiliary outliers that their models, or the base, were trained with: a track of its own.
    Empty = with none."""


def same_base(one: Record, other: Record) -> bool:
    """Return whether two models were adapted from the same weights."""
    return bool(one.weights.get("base")) and one.weights["base"] == other.weights.get("base")


def same_start(one: Record, other: Record) -> bool:
    """Return whether two models come from one base and were tested on the same ID images."""
    return same_base(one, other) and one.fingerprints.get("id") == other.fingerprints.get("id")


def trained_alike(record: Record, reference: Record) -> bool:
    """Return whether the reference trained by the same recipe, where it trained at all."""
    if reference.adapter == "none":
        return True
    used = record.hyperparameters
    recipe = used.get("outlier_recipe", used.get("recipe"))
    one_stage = ">" not in record.adapter
    return one_stage and bool(recipe == reference.hyperparameters.get("recipe"))


def is_comparable(record: Record, reference: Record) -> bool:
    """Return whether two models differ in the method alone: one base, ID test set and recipe."""
    return same_start(record, reference) and trained_alike(record, reference)


def is_paired(record: Record, reference: Record) -> bool:
    """Return whether the difference of two cells is that of what they were adapted by.

    They are done, from one base, on the same ID and OOD images, and trained by one recipe.
    """
    if record.state != "done" or reference.state != "done":
        return False
    one, other = record.fingerprints, reference.fingerprints
    same = one.get("ood") == other.get("ood") and one.get("shifted") == other.get("shifted")
    return same and is_comparable(record, reference)


def of_sets(fingerprints: Iterable[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """Yield a warning for each set that is not the same images in all records."""
    for name, prints in fingerprints:
        if len(prints) > 1:
            yield (
                f"{name} is not the same images in every record (fingerprints "
                f"{', '.join(prints)}): rows on different images do not compare, and no "
                "difference is taken between them."
            )


def of_settings(done: Iterable[Record]) -> Iterator[str]:
    """Yield a warning for rows whose cells, and sweeps whose adapters, were not run alike."""
    within: dict[tuple[str, ...], list[Any]] = {}
    across: dict[tuple[str, ...], list[Any]] = {}
    rows = {
        # By identity: a row's cells mostly have one and the same table.
        (r.id_set, r.backbone, r.auxiliary, r.adapter_label, r.detector_label, id(used)): used
        for r in done
        for used in [r.hyperparameters]
    }
    for (*section, adapter, detector, _), used in rows.items():
        row = (*section, adapter, detector)
        _collect(within, row, (used.get("adapter"), used.get("detector")))
        for name in ("recipe", "outlier_recipe", "preprocessing"):
            if used.get(name):
                _collect(across, (*section, name), used[name])
    for (*_, adapter, detector), values in within.items():
        if len(values) > 1:
            yield f"{adapter} with {detector} did not have the same settings in all of its cells."
    for (*_, name), values in across.items():
        if len(values) > 1:
            yield (
                f"Not all cells were run with the same {name} ({len(values)} different ones): "
                "adapters differ in more than the method."
            )


def _collect(
    distinct: dict[tuple[str, ...], list[Any]], place: tuple[str, ...], value: Any
) -> None:
    # Values are dictionaries, which no set can hold; there are few different ones.
    values = distinct.setdefault(place, [])
    if value not in values:
        values.append(value)


def of_jobs(done: Iterable[Record]) -> Iterator[str]:
    """Yield a warning for each job whose cells cannot all come from one model."""
    distinct: dict[Job, set[tuple[Any, ...]]] = {}
    for record in done:
        facts = (
            record.weights.get("base"),
            record.weights.get("adapted"),
            record.metrics.get("id_accuracy"),
            record.metrics.get("base_id_accuracy"),
        )
        distinct.setdefault(record.job, set()).add(facts)
    names = ("base weights", "adapted weights", "ID accuracy", "base ID accuracy")
    for job, found in distinct.items():
        for name, values in zip(names, zip(*found, strict=True), strict=True):
            if len(set(values)) > 1:
                yield f"The cells of {job.adapter}, seed {job.seed}, do not agree on their {name}."


def of_references(models: Mapping[Job, Record], references: References) -> Iterator[str]:
    """Yield a warning for each job whose reference of the same seed it cannot be paired with.

    Args:
        models: one done record of each job.
        references: adapters to compare with.
    """
    for job, record, name, reference in _beside(models, references):
        if not same_base(record, reference):
            yield (
                f"{job.adapter}, seed {job.seed}, is not compared with {name}: it was not "
                "adapted from the same base weights."
            )


def of_recipes(models: Mapping[Job, Record], references: References) -> Iterator[str]:
    """Yield a line for each adapter that trains otherwise than its references; arguments as above.

    It is no fault: a method may need a recipe of its own.
    """
    found: dict[str, None] = {}
    for job, record, name, reference in _beside(models, references):
        if not trained_alike(record, reference):
            found[
                f"{job.adapter} is not compared with {name}: it was not trained by the same "
                "recipe, or in several stages."
            ] = None
    yield from found


def _beside(
    models: Mapping[Job, Record], references: References
) -> Iterator[tuple[Job, Record, str, Record]]:
    """Yield each job with its record, and the name and record of each reference of its seed."""
    for job, record in models.items():
        for name, label in references.get((job.id_set, job.backbone), {}).items():
            reference = models.get(job._replace(adapter=label))
            if reference:
                yield job, record, name, reference
