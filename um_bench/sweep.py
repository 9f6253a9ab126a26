"""What the jobs of one run share: the suite bound to its plugins, its data, and a device."""

import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from um_bench import detectors, registry, starting_points
from um_bench.adapters import Adapter, NoAdapter, cited
from um_bench.adapters import create as create_adapter
from um_bench.data import ImageSet, leakage, load_set
from um_bench.data.leakage import NO_FILES, Files
from um_bench.data.overlap import require_disjoint
from um_bench.detectors import Binding
from um_bench.environment import provenance, threads_for
from um_bench.errors import MissingDataError, PluginError, UmBenchError, UsageError
from um_bench.events import require_tensorboard
from um_bench.identity import base_key
from um_bench.models import Model, base_model
from um_bench.papers import Cited
from um_bench.progress import Meter, Report
from um_bench.records import Provenance, suite_folder, write_atomically
from um_bench.scoring import Passes
from um_bench.suite import Cell, Job, OodSet, Suite, parse_adapter, parse_choice, parts_of
from um_bench.tracking import NOT_AT_ALL, Track, TrackedSets, Tracking, Watching, trackable
from um_bench.training import stages_of
from um_bench.trajectories import BASE


class Sets(NamedTuple):
    """The data of a suite. In the place of an OOD set that cannot be had stands the reason."""

    train: ImageSet
    test: ImageSet
    validation: ImageSet
    ood: Mapping[str, ImageSet | UmBenchError]
    shifted: Mapping[str, ImageSet | UmBenchError]
    """Covariate-shifted ID sets, which count as ID in full-spectrum cells."""
    validation_ood: ImageSet | UmBenchError | None
    """OOD images on which hyperparameters are searched; never those of a test set."""
    auxiliary: ImageSet | UmBenchError | None
    """Outliers to train with, where an adapter of the suite does."""
    files: Files = NO_FILES
    """What nothing may read that trains or tunes, and which files belong to which set."""


@dataclass(frozen=True)
class Sweep:
    """What every job of one run shares."""

    suite: Suite
    folder: Path
    """`results/<suite>`."""
    models: Path
    sets: Sets | MissingDataError
    data_seconds: float
    """Time that loading the sets took."""
    adapters: Mapping[str, Adapter | PluginError]
    tracks: Mapping[str, str]
    """Adapter -> the auxiliary outliers that its models have seen."""
    detectors: Mapping[str, Binding | PluginError]
    device: str
    retry_failed: bool
    provenance: Provenance
    meter: Meter
    base: Callable[[int], Model]
    """Seed -> base classifier; the last one is kept."""
    base_accuracy: Callable[[int], float]
    """Seed -> the base classifier's accuracy on the ID test set."""
    tracking: Tracking | None = None
    """How trainings are watched, if they are."""

    def work(self, job: Job) -> float:
        """Return a job's work in images forwarded; a training step on an image is three."""
        if not isinstance(self.sets, Sets):
            return 1.0
        work = len(self.sets.train) + sum(map(self.scoring_work, self.suite.detectors))
        if job.adapter == self.suite.adapters[0] and self.suite.trains_base:
            work += sum(_base_work(self.suite, self.sets, self.tracking))
        return work + sum(self.epochs_work(job))

    def epochs_work(self, job: Job) -> list[float]:
        """Return the work of each epoch in which a job's adapter trains."""
        adapter = self.adapters[job.adapter]
        if not isinstance(self.sets, Sets) or not isinstance(adapter, Adapter):
            return []
        if isinstance(adapter, NoAdapter):
            return []
        work = []
        for stage in stages_of(adapter, self.suite.recipe, self.suite.outlier_recipe):
            images = len(self.sets.train) * (2 if stage.adapter.needs_outliers else 1)
            work += stage.recipe.epochs * [3.0 * images]
        return self.tracking.work(work) if self.tracking else work

    def track(self, job: Job, key: str) -> Track | None:
        """Return what watches a job's training, whose model has this key; None = nothing does."""
        watched = self.tracking and not isinstance(self.adapters[job.adapter], NoAdapter)
        return self.tracking.track(job, key) if self.tracking and watched else None

    def scoring_work(self, label: str) -> float:
        """Return one detector's share of a job's work."""
        if not isinstance(self.sets, Sets):
            return 0.0
        here = sum(len(data) for data in self.sets.ood.values() if isinstance(data, ImageSet))
        binding = self.detectors[label]
        each = 0.1
        if isinstance(binding, Binding) and binding.spec.reads == "images":
            each = binding.spec.cost
        return each * (len(self.sets.test) + here)

    def ood_set(self, cell: Cell) -> OodSet:
        """Return what the suite says of a cell's OOD set."""
        return next(ood for ood in self.suite.ood if ood.name == cell.ood_set)

    def obstacle(self, cell: Cell) -> UmBenchError | None:
        """Return why a cell can have no numbers, where that is known before anything runs."""
        assert isinstance(self.sets, Sets)
        adapter = self.adapters[cell.job.adapter]
        parts: list[object] = [self.sets.ood[cell.ood_set], self.detectors[cell.detector]]
        if isinstance(adapter, Adapter) and adapter.needs_outliers:
            parts.append(self.sets.auxiliary)
        if self.ood_set(cell).full_spectrum:
            parts += self.sets.shifted.values()
        binding = self.detectors[cell.detector]
        if isinstance(binding, Binding) and binding.searched:
            parts.append(self.sets.validation_ood)
        return next((part for part in parts if isinstance(part, UmBenchError)), None)


def prepare(
    suite: Suite,
    *,
    results: Path,
    data_dir: Path,
    device: str,
    retry_failed: bool,
    deterministic: bool,
    on_progress: Report,
    watching: Watching = NOT_AT_ALL,
) -> Sweep:
    """Return a suite ready to run; arguments as in `run_suite`.

    Raises:
        UsageError: if a name or setting is unknown, or the ID data cannot be used.
    """
    device = choose_device(device, deterministic=deterministic)
    _require_checkpoints(suite)
    adapters = bind_adapters(suite)
    suite, bindings = bind_detectors(suite)
    start = time.perf_counter()
    sets = open_sets(suite, data_dir, auxiliary=bool(with_outliers(adapters)))
    data_seconds = time.perf_counter() - start
    models, meter = results / "models", Meter(on_progress)
    folder = suite_folder(results, suite.folder)
    made = _provenance(suite, device, deterministic=deterministic)
    tracking = _tracking(suite, sets, bindings, watching, folder, device, made)
    base = functools.lru_cache(maxsize=1)(
        functools.partial(_base, suite, sets, models, device, meter, tracking)
    )
    sweep = Sweep(
        suite=suite,
        folder=folder,
        models=models,
        sets=sets,
        data_seconds=data_seconds,
        adapters=adapters,
        tracks=tracks(suite, adapters),
        detectors=bindings,
        device=device,
        retry_failed=retry_failed,
        provenance=made,
        meter=meter,
        base=base,
        base_accuracy=functools.lru_cache(maxsize=1)(
            functools.partial(_base_accuracy, base, sets, device)
        ),
        tracking=tracking,
    )
    meter.total = sum(sweep.work(job) for job in suite.jobs())
    _write_suite(sweep)
    return sweep


def bind_adapters(suite: Suite) -> dict[str, Adapter | PluginError]:
    """Return the adapters that a suite's labels stand for.

    Raises:
        UsageError: if a name or setting is wrong, or an adapter needs auxiliary outliers and the
            suite names none.
    """
    adapters = _bind(suite.adapters, lambda label: create_adapter(parse_adapter(label)))
    exposed = with_outliers(adapters)
    if exposed and suite.auxiliary is None:
        raise UsageError(
            f"{', '.join(exposed)}: trained with auxiliary outliers, and suite {suite.name} names "
            "none. Set auxiliary in its file, or give --auxiliary SET: any images that are in no "
            "test set, as in folder/FOLDER_BELOW_THE_DATA."
        )
    return adapters


def with_outliers(adapters: Mapping[str, Adapter | PluginError]) -> tuple[str, ...]:
    """Return the labels of the adapters that train with auxiliary outliers."""
    return tuple(
        label
        for label, adapter in adapters.items()
        if isinstance(adapter, Adapter) and adapter.needs_outliers
    )


def tracks(suite: Suite, adapters: Mapping[str, Adapter | PluginError]) -> dict[str, str]:
    """Return the outliers that each adapter's model has seen in training, the base's included.

    Empty where it has seen none. Of a base classifier from a file nothing is known, which counts
    as none.
    """
    known = {point.backbone: point for point in starting_points.listed()}
    base = known.get(suite.backbone_of(suite.seeds[0]))
    of_base = [suite.backbone] if base and base.uses_outliers and not suite.checkpoint else []
    exposed = with_outliers(adapters)
    return {
        label: " and ".join(of_base + [suite.auxiliary or ""] * (label in exposed))
        for label in adapters
    }


def bind_detectors(suite: Suite) -> tuple[Suite, dict[str, Binding | PluginError]]:
    """Return a suite with its detectors named as they are shown, and what these names stand for.

    Raises:
        UsageError: if a name or setting is wrong, two names mean the same, or a setting is to be
            searched and the suite declares nothing to search it on.
    """
    given = _bind(suite.detectors, detectors.prepare)
    shown = [
        binding.label if isinstance(binding, Binding) else label for label, binding in given.items()
    ]
    suite = suite.replace(detectors=tuple(shown))
    bindings: dict[str, Binding | PluginError] = dict(zip(shown, given.values(), strict=True))
    searched = [
        label for label, found in bindings.items() if isinstance(found, Binding) and found.searched
    ]
    if searched and not (suite.id.validation and suite.validation_ood):
        raise UsageError(
            f"{', '.join(searched)}: hyperparameters are searched on held-out ID images and on OOD "
            f"images that no test uses; suite {suite.name} does not name both. Set validation "
            "below [id], and validation_ood."
        )
    return suite, bindings


def _require_checkpoints(suite: Suite) -> None:
    """Refuse a suite one of whose seeds has no checkpoint, before hours go into another."""
    if suite.checkpoint is None:
        return
    for path in map(suite.checkpoint_of, suite.seeds):
        if not path.exists():
            raise UsageError(
                f"no checkpoint at {path}; every seed of {', '.join(map(str, suite.seeds))} needs "
                "one ({seed} in the path is replaced)"
            )


def choose_device(name: str, *, deterministic: bool = False) -> str:
    """Return the device to compute on; `auto` is a GPU where there is one.

    Raises:
        UsageError: if it is unknown or not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if deterministic:
        # Read by cuBLAS when it starts; without it, its products are not the same every time.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used: {reason}. Try --device auto.") from error
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    return name


def _bind(labels: Sequence[str], make: Callable[[str], Any]) -> dict[str, Any]:
    """Return what each label stands for; a broken plugin breaks only its own cells."""
    bound: dict[str, Any] = {}
    for label in labels:
        try:
            bound[label] = make(label)
        except PluginError as error:
            bound[label] = error
    return bound


def _distributions(suite: Suite) -> set[str]:
    """Return the distributions that the suite's adapters and detectors come from."""
    adapters = {p.name for label in suite.adapters for p in parts_of(parse_adapter(label))}
    names = {parse_choice(label).name for label in suite.detectors}
    known_adapters, known_detectors = registry.plugins("adapter"), registry.plugins("detector")
    return {known_adapters[n].distribution for n in adapters} | {
        known_detectors[n].distribution for n in names
    }


def open_sets(suite: Suite, data_dir: Path, *, auxiliary: bool) -> Sets | MissingDataError:
    """Return the suite's data, or why its ID data is not here.

    Args:
        suite: its sets and its preprocessing.
        data_dir: folder of the image sets.
        auxiliary: whether the auxiliary outliers are needed too; reading them may take a while.

    Raises:
        UsageError: if the ID data is here and cannot be used, or an auxiliary outlier is in a set
            that is tested on.
    """
    load = functools.partial(
        load_set, data_dir=data_dir, preprocessing=suite.preprocessing, limit=suite.limit
    )

    read: dict[str, set[str]] = {}

    def reading(reference: str, *, ood: bool = False, every_class: bool = True) -> ImageSet:
        with leakage.recorded() as files:
            read[reference] = files
            return load(reference, ood=ood, every_class=every_class)

    @functools.cache
    def attempt(reference: str, *, ood: bool) -> ImageSet | UmBenchError:
        try:
            return reading(reference, ood=ood, every_class=ood)
        except UmBenchError as error:
            return error

    try:
        train, test = reading(suite.id.train), reading(suite.id.test)
        validation = reading(suite.id.validation) if suite.id.validation else train
    except MissingDataError as error:
        return error
    for data in (test, validation):
        if data.num_classes > train.num_classes:
            raise UsageError(
                f"{data.name} has labels up to {data.num_classes - 1}, but {train.name} only the "
                f"classes 0 to {train.num_classes - 1}; they do not belong together"
            )
    sets = Sets(
        train,
        test,
        validation,
        {name: attempt(source, ood=True) for name, _, source in suite.ood},
        {name: attempt(source, ood=False) for name, source in suite.id.shifted.items()},
        attempt(suite.validation_ood, ood=True) if suite.validation_ood else None,
        attempt(suite.auxiliary, ood=True) if auxiliary and suite.auxiliary else None,
    )
    owners = {path: reference for reference, paths in read.items() for path in paths}
    folder = os.path.realpath(data_dir)
    sets = sets._replace(files=Files(_not_to_be_read(suite, read), owners, folder))
    if isinstance(sets.auxiliary, ImageSet):
        require_disjoint(sets.auxiliary, _tested(suite, sets))
    return sets


def _not_to_be_read(suite: Suite, read: Mapping[str, set[str]]) -> dict[str, str]:
    """Return the names and files of the test sets; what other sets have too is left out.

    Args:
        suite: names the sets.
        read: the files that were opened for each.
    """
    named = {f"{suite.id.name} (ID test)": suite.id.test, **suite.id.shifted}
    named |= {ood.name: ood.source for ood in suite.ood}
    others = read.keys() - set(named.values())
    allowed = set[str]().union(*(read[reference] for reference in others))
    found = {reference.lower(): name for name, reference in named.items()}
    for name, reference in named.items():
        found |= dict.fromkeys(read.get(reference, set()) - allowed, name)
    return found


def _tested(suite: Suite, sets: Sets) -> dict[str, ImageSet]:
    """Return every set that is tested on and is here, once, by the name that a suite gives it."""
    named = {f"{suite.id.name} (ID)": sets.test, **sets.shifted, **sets.ood}
    found: dict[str, tuple[str, ImageSet]] = {}
    for name, data in named.items():
        if isinstance(data, ImageSet):
            found.setdefault(data.fingerprint, (name, data))
    return dict(found.values())


def _base(
    suite: Suite,
    sets: Sets | MissingDataError,
    folder: Path,
    device: str,
    meter: Meter,
    tracking: Tracking | None,
    seed: int,
) -> Model:
    assert isinstance(sets, Sets)
    job = Job(suite.id.name, suite.backbone, seed, BASE)
    work = _base_work(suite, sets, tracking)
    return base_model(
        suite,
        seed,
        sets.train,
        folder,
        files=sets.files,
        device=device,
        on_epoch=meter.epochs("training the base classifier", job, work),
        track=tracking.track(job, base_key(suite, seed, sets.train)) if tracking else None,
    )


def _base_work(suite: Suite, sets: Sets, tracking: Tracking | None) -> list[float]:
    """Return the work of each epoch in which the base classifier is trained."""
    work = suite.base.epochs * [3.0 * len(sets.train)]
    return tracking.work(work) if tracking else work


def _tracking(
    suite: Suite,
    sets: Sets | MissingDataError,
    bindings: Mapping[str, Binding | PluginError],
    watching: Watching,
    folder: Path,
    device: str,
    made: Provenance,
) -> Tracking | None:
    """Return how trainings are watched; None where they are not, or there will be none.

    Raises:
        UsageError: if what is asked for cannot be had.
    """
    if isinstance(sets, MissingDataError) or not (watching.every or watching.events):
        return None
    if watching.events:
        require_tensorboard()
    # Over the full spectrum they are the same sets again.
    once = [ood for ood in suite.ood if not ood.full_spectrum]
    here = {o.name: data for o in once if isinstance(data := sets.ood[o.name], ImageSet)}
    groups = {ood.name: ood.group for ood in once if ood.name in here}
    return Tracking(
        watching=watching,
        suite=suite.folder,
        folder=folder,
        detectors=trackable(bindings.values()) if watching.every else (),
        sets=TrackedSets(sets.train, sets.test, here, groups),
        device=device,
        provenance=made,
    )


def _provenance(suite: Suite, device: str, *, deterministic: bool) -> Provenance:
    return provenance(
        device,
        _distributions(suite),
        deterministic=deterministic,
        threads=threads_for(suite.preprocessing.size),
    )


def _base_accuracy(
    base: Callable[[int], Model], sets: Sets | MissingDataError, device: str, seed: int
) -> float:
    assert isinstance(sets, Sets)
    return Passes(base(seed).classifier.to(device), device).id_accuracy(sets.test)


def _write_suite(sweep: Sweep) -> None:
    """Write what the leaderboard shows around the numbers."""
    suite = sweep.suite
    shown = {
        "name": suite.folder,
        "title": suite.title,
        "description": suite.description,
        "fpr95": suite.fpr95,
        "id": {part: getattr(suite.id, part) for part in ("train", "test", "validation")},
        "ood": [ood._asdict() for ood in suite.ood],
        "shifted": suite.id.shifted,
        "seeds": suite.seeds,
        "adapters": suite.adapters,
        "tracks": sweep.tracks,
        "detectors": suite.detectors,
        "papers": [
            {"kind": one.kind, "name": one.name, **one.paper._asdict()}
            for one in dict.fromkeys(_cited(sweep))
        ],
    }
    text = f"{json.dumps(shown, indent=1)}\n"
    write_atomically(sweep.folder / "suite.json", text.encode())


def _cited(sweep: Sweep) -> Iterator[Cited]:
    """Yield the papers of the adapters, then of the detectors, in the suite's order."""
    for label, adapter in sweep.adapters.items():
        if isinstance(adapter, Adapter):
            yield from cited(label, adapter)
    for found in sweep.detectors.values():
        if isinstance(found, Binding) and found.spec.paper is not None:
            yield Cited("detector", found.choice.name, found.spec.paper)
