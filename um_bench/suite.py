"""What a sweep consists of: Suite, Recipe, Job, Cell. Unknown keys in a TOML file are errors."""

import dataclasses
import itertools
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from um_bench import registry, starting_points
from um_bench.errors import PluginError, UmBenchError, UsageError, unknown_name

GROUPS = ("near", "far")
"""Groups of OOD sets that a suite names."""
FULL_SPECTRUM = "-fs"
"""What the name and the group of an OOD set end with where covariate-shifted images count as ID."""
BENCHMARKS = "pytorch_ood.benchmark"
"""The package whose classes are suites, as in `pytorch-ood:CIFAR10_ODIN`."""

_TABLES = ("base", "recipe", "outlier_recipe", "preprocessing")
"""Tables of a suite in which `--set` changes a value."""

T = TypeVar("T")
Settings = Mapping[str, Any]
"""Values given for hyperparameters, by name; what is not given has its default."""


class Job(NamedTuple):
    """One trained model: everything that decides its weights, by name."""

    id_set: str
    backbone: str
    seed: int
    adapter: str
    """As shown: `um`, `oe+um`, or with its settings `um@constraint=0.15`."""


class Cell(NamedTuple):
    """One row of numbers: a job's model, scored by one detector, on one OOD set."""

    job: Job
    detector: str
    """As shown: `knn`, or with its settings `knn@k=20`."""
    ood_set: str


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image file becomes a model's input; part of a cell's identity."""

    size: int
    """Height and width in pixels."""
    resize: str = "crop"
    """`crop`: short side to `size`, centre crop (OpenOOD); `squash`: both sides to `size` (UM's
    code); `none`: as they are, another size is an error."""
    resize_to: int | None = None
    """`crop` only: the short side before the centre crop (OpenOOD's ImageNet: 256 for a size of
    224); None = `size`."""
    mean: tuple[float, ...] = ()
    """Per channel, for pixels in [0, 1]; empty = the backbone's own."""
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.resize not in ("crop", "squash", "none"):
            raise unknown_name("resize", self.resize, ("crop", "squash", "none"))
        if self.size < 1:
            raise UsageError(f"size must be at least 1 pixel, got {self.size}")
        if self.resize_to is not None and (self.resize != "crop" or self.resize_to < self.size):
            raise UsageError(
                f"resize_to ({self.resize_to}) is the short side before a crop: it needs resize = "
                f"'crop' and at least size ({self.size})"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Training settings shared by every adapter of a suite, so that only the method differs."""

    epochs: int
    batch_size: int = 256
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    schedule: str = "cosine"
    """`cosine`: to 0, stepped per epoch; `constant`."""
    augmentation: str = "crop-flip"
    """`crop-flip`: pad 4, random crop, horizontal flip; `crop`: pad 1, random crop; `none`."""
    precision: str = "float32"
    """Of convolutions and matrix products in training: `float32`, or `bfloat16`, which is faster
    where the hardware has it and trains another model. Scoring is in float32 always."""

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise unknown_name("precision", self.precision, ("float32", "bfloat16"))
        if self.schedule not in ("cosine", "constant"):
            raise unknown_name("schedule", self.schedule, ("cosine", "constant"))
        if self.augmentation not in ("crop-flip", "crop", "none"):
            raise unknown_name("augmentation", self.augmentation, ("crop-flip", "crop", "none"))
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class IdData:
    """The in-distribution sets, each a data set's name with its part: `cifar10/train`."""

    name: str
    train: str
    test: str
    validation: str | None = None
    """For detectors that are fitted on held-out ID data; None = the training set."""
    shifted: dict[str, str] = field(default_factory=dict)
    """Name -> data set of test images that have the ID classes and look different (noise, blur,
    another camera): ID in the full-spectrum groups, and in no other."""

    def __post_init__(self) -> None:
        for name, source in self.shifted.items():
            if not isinstance(source, str):
                raise UsageError(f"shifted.{name} must be str, got {source!r}")


class OodSet(NamedTuple):
    """One OOD test set of a suite."""

    name: str
    group: str
    """`near` or `far`; `near-fs` or `far-fs`: the same images, scored against the full spectrum of
    ID images, which is the ID test set and the covariate-shifted sets together."""
    source: str
    """A data set's name with its part."""

    @property
    def full_spectrum(self) -> bool:
        """Whether covariate-shifted images count as ID."""
        return is_full_spectrum(self.group)


def is_full_spectrum(group: str) -> bool:
    """Return whether a group counts covariate-shifted images as ID."""
    return group.endswith(FULL_SPECTRUM)


def with_full_spectrum(sets: Iterable[OodSet]) -> tuple[OodSet, ...]:
    """Return the OOD sets, followed by each of them a second time for the full spectrum.

    `photos` in group `far` comes back as `photos-fs` in group `far-fs`, from the same source.

    Source:
        Yang et al., Full-Spectrum Out-of-Distribution Detection, arXiv:2204.05306;
        openood/evaluation_api/evaluator.py, `eval_ood(fsood=True)` (3c35632).
    """
    once = tuple(sets)
    again = (OodSet(o.name + FULL_SPECTRUM, o.group + FULL_SPECTRUM, o.source) for o in once)
    return (*once, *again)


class Choice(NamedTuple):
    """A registered name with the settings that it is given, as in `um@constraint=0.15:keep=0.9`."""

    name: str
    settings: dict[str, Any]

    @property
    def label(self) -> str:
        """The text that `parse_choice` reads back; settings in alphabetical order."""
        given = ":".join(
            f"{k}={format_value(v)}" if k else format_value(v)
            for k, v in sorted(self.settings.items())
        )
        return f"{self.name}@{given}" if given else self.name


def parse_value(text: str) -> Any:
    """Return `text` as TOML reads it (0.15, true, [0, 1]), or as a string where TOML does not."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def format_value(value: Any) -> str:
    """Return the text from which `parse_value` makes this value."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_choice(text: str) -> Choice:
    """Return name and settings of `name`, `name@key=value:key=value`, or `name@value`.

    A value without a key is under "": the thing that is named knows which setting that is.

    Raises:
        UsageError: if a setting is not of that form, or the name is empty.
    """
    name, _, given = text.strip().partition("@")
    settings = {}
    for item in given.split(":") if given else ():
        key, equals, value = item.partition("=") if "=" in item else ("", "", item)
        if not value.strip() or (equals and not key.strip()) or key.strip() in settings:
            raise UsageError(f"{text!r}: {item!r} is not KEY=VALUE, as in um@constraint=0.15")
        settings[key.strip()] = parse_value(value.strip())
    if not name:
        raise UsageError(f"{text!r} names nothing")
    return Choice(name, settings)


Stages = tuple[tuple[Choice, ...], ...]
"""An adapter as it is written: stages joined by ">", each of parts joined by "+"."""


def parse_adapter(text: str) -> Stages:
    """Return the stages of an adapter, first to last, each with its parts, left to right.

    `oe+um@constraint=0.15` is one stage of two parts, `um>oe` two stages of one part.

    Raises:
        UsageError: if a setting has no name or no value, or a stage or part is empty.
    """
    stages = text.split(">")
    if len(stages) > 1 and not all(stage.strip() for stage in stages):
        raise UsageError(f'{text!r}: one side of ">" is empty; name an adapter there, as in um>oe')
    parsed = tuple(tuple(parse_choice(p) for p in stage.split("+")) for stage in stages)
    for part in parts_of(parsed):
        if "" in part.settings:
            value = format_value(part.settings[""])
            raise UsageError(f"{text!r}: {value!r} is not KEY=VALUE, as in um@constraint=0.15")
    return parsed


def parts_of(stages: Stages) -> tuple[Choice, ...]:
    """Return the parts of all stages, in their order."""
    return tuple(itertools.chain.from_iterable(stages))


def adapter_label(stages: Stages) -> str:
    """Return the text that `parse_adapter` reads back."""
    return ">".join("+".join(part.label for part in stage) for stage in stages)


def adapter_name(stages: Stages) -> str:
    """Return an adapter's label without the settings: `um>oe+um`."""
    return ">".join("+".join(part.name for part in stage) for stage in stages)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A table to fill: every (seed, adapter, detector, OOD set) on one ID set and backbone."""

    name: str
    title: str = ""
    description: str = ""
    """Shown above the table: what its numbers mean and what they do not."""
    fpr95: str = "ood"
    """Which FPR95 the table shows: `ood` or `id` is the positive class. Both are always stored."""
    id: IdData
    ood: tuple[OodSet, ...]
    validation_ood: str | None = None
    """A data set's name with its part: OOD images on which hyperparameters may be chosen. Never one
    of the sets that are tested on."""
    auxiliary: str | None = None
    """A data set's name with its part: auxiliary outliers, for adapters that train with some. None
    of its images may be in a set that is tested on."""
    preprocessing: Preprocessing
    backbone: str
    """`{seed}` in the name is replaced, as in `pytorch-ood:wrn-40-2/cifar10/logitnorm/s{seed}`."""
    backbone_options: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    """Weights of the base classifier, `{seed}` in the path replaced; None = train it by `base`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    adapters: tuple[str, ...] = ("none", "finetune", "um", "umap")
    detectors: tuple[str, ...]
    base: Recipe
    """How the base classifier is trained where no checkpoint is given."""
    recipe: Recipe
    """How every adapter trains."""
    outlier_recipe: Recipe | None = None
    """How adapters that need auxiliary outliers train; None = by `recipe`, like the others."""
    limit: int | None = None
    """Take only so many images of each set: a quick look, kept apart from whole results."""

    def __post_init__(self) -> None:
        if self.fpr95 not in ("ood", "id"):
            raise unknown_name("positive class for fpr95", self.fpr95, ("ood", "id"))
        adapters = tuple(adapter_label(parse_adapter(a)) for a in self.adapters)
        object.__setattr__(self, "adapters", adapters)
        object.__setattr__(self, "detectors", tuple(parse_choice(d).label for d in self.detectors))
        names = {
            "seeds": [str(seed) for seed in self.seeds],
            "adapters": self.adapters,
            "detectors": self.detectors,
            "ood": [ood.name for ood in self.ood],
        }
        for what, given in names.items():
            if not given:
                raise UsageError(f"suite {self.name}: {what} is empty; give at least one")
            twice = sorted({name for name in given if given.count(name) > 1})
            if twice:
                raise UsageError(f"suite {self.name}: {what} names {', '.join(twice)} twice")
        self._check_sources()

    def _check_sources(self) -> None:
        """Refuse sets that are used for two things that must not be the same images."""
        alone = [ood.name for ood in self.ood if ood.full_spectrum]
        if alone and not self.id.shifted:
            raise UsageError(
                f"suite {self.name}: {', '.join(alone)} need covariate-shifted ID images; name "
                "their sets in [id.shifted]"
            )
        used = {f"OOD set {ood.name}": ood.source for ood in self.ood}
        for part in ("train", "test", "validation"):
            used[f"id.{part}"] = getattr(self.id, part) or ""
        for name, source in self.id.shifted.items():
            self._require_unused(f"id.shifted.{name}", source, used)
            used[f"id.shifted.{name}"] = source
        for what in ("validation_ood", "auxiliary"):
            source = getattr(self, what)
            if source is not None:
                self._require_unused(what, source, used)
                used[what] = source

    def _require_unused(self, what: str, source: str, used: Mapping[str, str]) -> None:
        # Parts of some families are known in any case: openood-cifar10/mnist is .../MNIST.
        other = next((k for k, v in used.items() if v.lower() == source.lower()), None)
        if other is not None:
            raise UsageError(
                f"suite {self.name}: {what} and {other} are the same set, {source}. What is "
                "trained, chosen or counted on one must not be tested on the other: name another "
                "set."
            )

    @property
    def folder(self) -> str:
        """Name of its results' folder, before it is made safe for a file system."""
        return f"{self.name}@limit={self.limit}" if self.limit else self.name

    @property
    def trains_base(self) -> bool:
        """Whether the base classifier is trained by `base`, or comes with weights."""
        given = self.checkpoint or self.backbone_options.get("pretrained")
        return not (given or self.backbone.startswith(starting_points.PREFIX))

    def backbone_of(self, seed: int) -> str:
        """Return the name of one seed's backbone."""
        return self.backbone.replace("{seed}", str(seed))

    def checkpoint_of(self, seed: int) -> Path:
        """Return the file of one seed's base classifier."""
        return Path((self.checkpoint or "").replace("{seed}", str(seed)))

    def jobs(self) -> Iterator[Job]:
        """Yield every job, seed by seed, so that a sweep cut short holds complete seeds."""
        for seed, adapter in itertools.product(self.seeds, self.adapters):
            yield Job(self.id.name, self.backbone, seed, adapter)

    def cells(self, job: Job) -> Iterator[Cell]:
        """Yield every cell of one job."""
        for detector, ood in itertools.product(self.detectors, self.ood):
            yield Cell(job, detector, ood.name)

    def with_ood_sets(self, names: tuple[str, ...] | None) -> "Suite":
        """Return this suite with only some of its OOD sets; None takes all.

        A set and its full-spectrum twin are two sets: `photos` takes the one, `photos-fs` the
        other. Without any of the latter, the covariate-shifted ID sets are left out too.

        Raises:
            UsageError: if it has no set of that name.
        """
        if names is None:
            return self
        known = {ood.name: ood for ood in self.ood}
        for name in names:
            if name not in known:
                raise unknown_name(f"OOD set in suite {self.name}", name, known)
        chosen = tuple(known[name] for name in dict.fromkeys(names))
        shifted = self.id.shifted if any(ood.full_spectrum for ood in chosen) else {}
        return self.replace(ood=chosen, id=dataclasses.replace(self.id, shifted=shifted))

    def replace(self, **changes: Any) -> "Suite":
        """Return this suite with some fields changed (and checked again)."""
        return dataclasses.replace(self, **changes)

    def with_setting(self, setting: str) -> "Suite":
        """Return this suite with one `NAME.KEY=VALUE` applied.

        NAME is an adapter or detector of the suite, or one of its tables: base, recipe,
        outlier_recipe, preprocessing, backbone.

        Raises:
            UsageError: if the form is wrong, or NAME or KEY is unknown.
        """
        path, equals, text = setting.partition("=")
        name, dot, key = path.rpartition(".")
        if not (equals and dot and name and key):
            raise UsageError(f"--set {setting!r} is not NAME.KEY=VALUE, as in um.constraint=0.15")
        value = parse_value(text)
        if name in _TABLES:
            # What is not given for adapters with outliers is as for all others.
            table = getattr(self, name) or self.recipe
            merged = {**dataclasses.asdict(table), key: value}
            return self.replace(**{name: build(type(table), merged, f"--set {name}")})
        if name == "backbone":
            return self.replace(backbone_options={**self.backbone_options, key: value})
        return self._with_choice_setting(name, key, value)

    def _with_choice_setting(self, name: str, key: str, value: Any) -> "Suite":
        def changed(choice: Choice) -> Choice:
            if choice.name != name:
                return choice
            return Choice(name, {**choice.settings, key: value})

        adapters = tuple(
            adapter_label(tuple(tuple(map(changed, stage)) for stage in parse_adapter(a)))
            for a in self.adapters
        )
        detectors = tuple(changed(parse_choice(d)).label for d in self.detectors)
        if (adapters, detectors) == (self.adapters, self.detectors):
            known = {part.name for a in self.adapters for part in parts_of(parse_adapter(a))}
            known |= {parse_choice(d).name for d in self.detectors}
            if name not in known:
                known |= {*_TABLES, "backbone"}
                raise unknown_name("adapter, detector or table in this suite", name, known)
        return self.replace(adapters=adapters, detectors=detectors)


def build(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Return the dataclass `kind` made from a table.

    Raises:
        UsageError: if a key is unknown or missing, or a value has the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key, value in table.items():
        if key not in fields:
            raise UsageError(f"{where}: {unknown_name('key', key, fields)}")
        _check_type(value, fields[key], f"{where}: {key}")
    required = dataclasses.MISSING
    missing = [
        name
        for name, f in fields.items()
        if f.default is required and f.default_factory is required and name not in table
    ]
    if missing:
        raise UsageError(f"{where}: {', '.join(missing)} missing")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    try:
        return kind(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


_TYPES: dict[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    bool: (bool,),
    str: (str,),
    str | None: (str, type(None)),
    float | None: (int, float, type(None)),
    int | None: (int, type(None)),
    dict[str, str]: (dict,),
}


def _check_type(value: Any, declared: "dataclasses.Field[Any]", where: str) -> None:
    allowed = _TYPES.get(declared.type)
    if allowed is None:
        return
    wrong_bool = isinstance(value, bool) and bool not in allowed
    if wrong_bool or not isinstance(value, allowed):
        kinds = " or ".join(sorted(t.__name__ for t in allowed if t is not type(None)))
        raise UsageError(f"{where} must be {kinds}, got {value!r}")


def shipped() -> dict[str, Path]:
    """Return the suites that come with um-bench: name -> TOML file."""
    folder = Path(str(resources.files("um_bench") / "suites"))
    return dict(sorted((path.stem, path) for path in folder.glob("*.toml")))


def listed() -> dict[str, str]:
    """Return every suite that can be named and is known beforehand: name -> what it is.

    Those that ship, the benchmarks of pytorch-ood, and a line for each family of suites of other
    distributions. pytorch-ood is not imported, which would take seconds: its source is read.
    """
    found = {name: load_suite(path).title for name, path in shipped().items()}
    for family, plugin in registry.plugins("suite").items():
        names = registry.names_in(BENCHMARKS, "Benchmark") if family == "pytorch-ood" else ()
        found |= {f"{family}:{name}": f"{BENCHMARKS}.{name}" for name in names}
        if not names:
            found[f"{family}:NAME"] = f"of {plugin.distribution}"
    return found


def load_suite(name_or_file: str | Path) -> Suite:
    """Return the shipped suite of that name, the one in that TOML file, or one of a family.

    `pytorch-ood:CIFAR10_ODIN` is the suite `CIFAR10_ODIN` of the family that is registered as
    `pytorch-ood` in the entry points `um_bench.suites`: a function that takes the name.

    Raises:
        UsageError: if there is none, or the file is not a valid suite (file and key are named).
        UnsupportedError: if a family has it, and it cannot be run here.
        PluginError: if the family is broken.
    """
    path = Path(name_or_file)
    if path.suffix != ".toml":
        known = shipped()
        family, colon, rest = str(name_or_file).partition(":")
        if colon:
            return _suite_of_family(family, rest)
        if str(name_or_file) not in known:
            raise unknown_name("suite", str(name_or_file), known)
        path = known[str(name_or_file)]
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    return parse_suite(table, str(path))


def _suite_of_family(family: str, name: str) -> Suite:
    known = registry.plugins("suite")
    if family not in known:
        raise unknown_name("family of suites", family, known)
    origin = f"suite family {family!r} of {known[family].distribution} {known[family].version}"
    make = registry.load("suite", family)
    try:
        suite = make(name)
    except UmBenchError:
        raise
    except Exception as error:
        raise PluginError(
            f"{origin} failed on {name!r}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(suite, Suite):
        raise PluginError(f"{origin} returned a {type(suite).__name__}, not a Suite")
    return suite


def parse_suite(table: Mapping[str, Any], where: str) -> Suite:
    """Return the suite that a TOML table describes; `where` is named in errors."""
    values = dict(table)
    kinds: dict[str, type] = {
        "id": IdData,
        "preprocessing": Preprocessing,
        "base": Recipe,
        "recipe": Recipe,
        "outlier_recipe": Recipe,
    }
    for key in kinds.keys() & values.keys():
        inner = _table(values[key], f"{where}: {key}")
        values[key] = build(kinds[key], inner, f"{where}: [{key}]")
    sets = _ood_sets(_table(values.get("ood", {}), f"{where}: ood"), where)
    id_data = values.get("id")
    shifted = isinstance(id_data, IdData) and id_data.shifted
    values["ood"] = with_full_spectrum(sets) if shifted else sets
    for key, kind in (("seeds", int), ("adapters", str), ("detectors", str)):
        given = values.get(key, [])
        if not isinstance(given, list) or any(type(v) is not kind for v in given):
            raise UsageError(f"{where}: {key} must be a list of {kind.__name__}, got {given!r}")
    return build(Suite, values, where)


def _ood_sets(groups: Mapping[str, Any], where: str) -> tuple[OodSet, ...]:
    sets = []
    for group, members in groups.items():
        if group not in GROUPS:
            raise UsageError(f"{where}: [ood] {unknown_name('group', group, GROUPS)}")
        for name, source in _table(members, f"{where}: ood.{group}").items():
            if not isinstance(source, str):
                raise UsageError(f"{where}: ood.{group}.{name} must be str, got {source!r}")
            sets.append(OodSet(name, group, source))
    return tuple(sets)


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} must be a table, got {value!r}")
    return value
