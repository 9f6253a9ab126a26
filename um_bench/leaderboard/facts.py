"""What the records know of the image sets, and what they were made with."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from um_bench.leaderboard.board import Info, SetFacts
from um_bench.records import Record
from um_bench.suite import OodSet


def set_facts(info: Info, done: Sequence[Record]) -> Iterator[SetFacts]:
    """Yield what the records know of each set, the ID sets first."""
    images: dict[tuple[str, str], set[int]] = {}
    prints: dict[tuple[str, str], set[str]] = {}
    shifted = ", ".join(name for name, _ in info.shifted) or "covariate-shifted images"
    for record in _differing(done):
        names = {"id": record.id_set, "shifted": shifted, "ood": record.ood_set}
        names["auxiliary"] = record.auxiliary
        for kind in names.keys() & {"id", "ood", *record.counts}:
            place = (kind, names[kind])
            images.setdefault(place, set()).add(record.counts.get(kind, 0))
            prints.setdefault(place, set()).add(_start(record.fingerprints.get(kind, "")))
    sources = ", ".join(source for _, source in info.shifted)
    own = [OodSet(name, kind, "") for kind, name in sorted(images) if kind == "id"]
    own += [OodSet(name, kind, sources) for kind, name in images if kind == "shifted"]
    own += [OodSet(name, kind, "") for kind, name in sorted(images) if kind == "auxiliary"]
    for known in (*own, *info.ood):
        place = (known.group if known in own else "ood", known.name)
        counts, hashes = images.get(place, set()) - {0}, prints.get(place, set()) - {""}
        yield SetFacts(*known, tuple(sorted(counts)), tuple(sorted(hashes)), place in images)


def _differing(done: Iterable[Record]) -> Iterable[Record]:
    """Return the records without those that say of their sets what another says."""
    return {
        # By identity: `read_folder` returns the same table where the same is in it.
        (r.id_set, r.ood_set, r.auxiliary, id(r.counts), id(r.fingerprints)): r
        for r in done
    }.values()


def _start(fingerprint: str) -> str:
    """Return the first digits of a fingerprint, or of each of several, joined by `+`."""
    return "+".join(one[:12] for one in fingerprint.split("+"))


def made_with(done: Sequence[Record]) -> dict[str, tuple[str, ...]]:
    """Return `device`, `platform` and distributions -> the values in the records."""
    found: dict[str, set[str]] = {"device": set(), "platform": set()}
    for made in {id(record.provenance): record.provenance for record in done}.values():
        found["device"].add(made.device)
        found["platform"].add(made.platform)
        for name, version in made.versions.items():
            found.setdefault(name, set()).add(version)
    known = {name: tuple(sorted(values)) for name, values in found.items() if values}
    return dict(sorted(known.items()))


def warnings_of_records(superseded: int, unnamed: Mapping[str, str]) -> Iterator[str]:
    """Yield what the reader of a page should know of the records themselves."""
    if superseded:
        yield f"Older records of the same cells were set aside: {superseded}."
    if unnamed:
        yield f"The records hold OOD sets that the suite does not name: {', '.join(unnamed)}."
