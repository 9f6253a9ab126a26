"""Benchmark classes of pytorch-ood, and anybody's, as suites and as a family of data sets.

`pytorch-ood:CIFAR10_ODIN` is a suite, `pytorch-ood/CIFAR10_ODIN/test` one of its sets; a class of
your own is `pytorch-ood:my_package.MyBenchmark`.

The constructor of such a class makes all of its sets at once and downloads what is absent. Here it
runs with stand-ins in the place of the data set classes that its module names: each keeps what it
is given, and the one set that is asked for is made from that, without downloading. So a set that is
not here takes no other with it.
"""

import contextlib
import dataclasses
import functools
import importlib
import inspect
import pickle
import shlex
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from um_bench.data import sources
from um_bench.data.sets import Pairs
from um_bench.errors import (
    MissingDataError,
    PluginError,
    UmBenchError,
    UnsupportedError,
    UsageError,
    unknown_name,
)
from um_bench.suite import (
    BENCHMARKS,
    IdData,
    OodSet,
    Preprocessing,
    Suite,
    load_suite,
    with_full_spectrum,
)

FAMILY = "pytorch-ood"


# --- Suites ---


class Settings(NamedTuple):
    """Where everything comes from that a benchmark class does not prescribe."""

    like: str = "imagenet200-openood"
    """A shipped suite: its backbone, recipes, adapters, detectors and preprocessing."""
    size: int | None = None
    """Height and width in pixels, without a larger size before the crop; None = as that suite."""
    id_name: str = ""
    """What the ID set is called; empty = as the class."""


_CIFAR10 = Settings("cifar10-far-ood", id_name="cifar10")
_CIFAR100 = Settings("cifar100-far-ood", id_name="cifar100")
_SETTINGS = {
    "CIFAR10_ODIN": _CIFAR10,
    "CIFAR10_OpenOOD": _CIFAR10,
    "CIFAR100_ODIN": _CIFAR100,
    "CIFAR100_OpenOOD": _CIFAR100,
    "ImageNet200_OpenOOD": Settings(id_name="imagenet200"),
    "ImageNet_OpenOOD": Settings("imagenet1k-openood", id_name="imagenet1k"),
    "MIDOG_OpenMIBOOD": Settings(size=50, id_name="midog"),
    "PhaKIR_OpenMIBOOD": Settings(id_name="phakir"),
    "CUB_SSB": Settings(id_name="cub"),
    "StanfordCars_SSB": Settings(id_name="stanford-cars"),
    "Aircraft_SSB": Settings(id_name="fgvc-aircraft"),
}
"""Class -> its settings; a class that is derived from one of these has the same."""
_OTHERS = Settings(size=224)

_UNSUPPORTED = {
    "OASIS3_OpenMIBOOD": "its images are NIfTI volumes, which um-bench cannot read. A subclass of "
    "yours that gives the class a `loader` can be run: pytorch-ood:my_package.MyOASIS3",
}


class Layout(NamedTuple):
    """What a benchmark class says of its sets before any of them is here."""

    near: tuple[str, ...]
    far: tuple[str, ...]
    shifted: tuple[str, ...]
    """Covariate-shifted ID sets."""
    validation: bool
    """Whether it has held-out ID data."""
    validation_ood: bool
    grouped: bool
    """Whether the class itself tells near from far."""


def suite_of(name: str) -> Suite:
    """Return a benchmark class as a suite; nothing of its data has to be here.

    ID data, OOD sets and their groups are the class's own, everything else that of a shipped suite
    for images of that size (`_SETTINGS`; for a class of your own, ResNet-18 and 224 pixels).

    The covariate-shifted ID sets of OpenMIBOOD, which pytorch-ood labels as OOD, are in
    `id.shifted`, with their class labels.

    Args:
        name: a class of pytorch_ood.benchmark, or the dotted path of another one.

    Raises:
        UsageError: if there is no such class, or it does not say what its sets are called.
        UnsupportedError: if um-bench cannot read its images.
    """
    kind = benchmark_class(name)
    layout = _layout(kind, name)
    settings = _settings(kind)
    like = load_suite(settings.like)
    ood = [
        OodSet(one, group, _reference(name, one))
        for group, members in (("near", layout.near), ("far", layout.far))
        for one in members
    ]
    id_data = IdData(
        name=settings.id_name or kind.__name__,
        train=_reference(name, "train"),
        test=_reference(name, "test"),
        validation=_reference(name, "validation") if layout.validation else None,
        shifted={one: _reference(name, one) for one in layout.shifted},
    )
    return like.replace(
        name=f"{FAMILY}:{name}",
        title=f"{kind.__name__} (pytorch-ood)",
        description=_description(kind, layout, settings),
        fpr95="ood",
        id=id_data,
        ood=with_full_spectrum(ood) if layout.shifted else tuple(ood),
        validation_ood=_reference(name, "validation-ood") if layout.validation_ood else None,
        preprocessing=_preprocessing(like, settings),
    )


def benchmark_class(name: str) -> type[Any]:
    """Return the class of pytorch_ood.benchmark of that name, or at that dotted path.

    Raises:
        UsageError: if there is none; near names are suggested.
    """
    home, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(home or BENCHMARKS)
    except Exception as error:
        raise UsageError(
            f"{FAMILY}:{name}: the module {home} cannot be imported ({type(error).__name__}: "
            f"{error}). Install it, or name its folder in PYTHONPATH."
        ) from error
    base = importlib.import_module(BENCHMARKS).Benchmark
    known = {
        given: value
        for given, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }
    if attribute not in known:
        shown = [given for given in known if not given.startswith("_")]
        raise unknown_name(f"benchmark in {module.__name__}", attribute, shown)
    return known[attribute]


def _reference(name: str, part: str) -> str:
    return f"{FAMILY}/{name}/{part}"


def _settings(kind: type[Any]) -> Settings:
    names = (one.__name__ for one in kind.__mro__)
    return next((_SETTINGS[one] for one in names if one in _SETTINGS), _OTHERS)


def _preprocessing(like: Suite, settings: Settings) -> Preprocessing:
    if settings.size is None:
        return like.preprocessing
    return dataclasses.replace(like.preprocessing, size=settings.size, resize_to=None)


def _layout(kind: type[Any], name: str) -> Layout:
    """Return what a class says of its sets, or what an object of it does without any data."""
    _require_supported(kind)
    made, reason = None, ""
    with tempfile.TemporaryDirectory() as nothing:
        try:
            made = _made(kind, f"{FAMILY}:{name}", Path(nothing), _no_splits)
        except UmBenchError as error:
            reason = str(error)
    said = kind if made is None else made
    near = _names(said, "_near_ood", "near_ood_names")
    far = _names(said, "_far_ood", "far_ood_names")
    shifted = _names(said, "cs_id_names")
    if not near and _is_a(kind, "img.ssb", "_SSBBase"):
        near = ("Hard",)
    everything = _names(said, "ood_names") or (*near, *far)
    if not everything:
        raise UsageError(
            f"{FAMILY}:{name}: which OOD sets it has cannot be told without its data. Give the "
            f"class an attribute ood_names, or near_ood_names and far_ood_names. ({reason})"
        )
    listed = _is_listed(kind)
    return Layout(
        near=tuple(one for one in everything if one in near),
        far=tuple(one for one in everything if one not in (*near, *shifted)),
        shifted=shifted,
        validation=listed or getattr(made, "val_in", None) is not None,
        validation_ood=listed or getattr(made, "val_ood", None) is not None,
        grouped=bool(near or far),
    )


def _names(said: Any, *attributes: str) -> tuple[str, ...]:
    found = (getattr(said, attribute, None) for attribute in attributes)
    return next((tuple(names) for names in found if names), ())


def _require_supported(kind: type[Any]) -> None:
    if kind.__name__ in _UNSUPPORTED and kind.__module__.startswith(BENCHMARKS):
        raise UnsupportedError(f"{FAMILY}:{kind.__name__}: {_UNSUPPORTED[kind.__name__]}")


def _is_a(kind: type[Any], module: str, base: str) -> bool:
    return issubclass(kind, getattr(importlib.import_module(f"{BENCHMARKS}.{module}"), base))


def _is_listed(kind: type[Any]) -> bool:
    """Return whether a benchmark's sets are OpenOOD's image lists."""
    return _is_a(kind, "img.openood", "_OpenOOD_Imglist")


def _description(kind: type[Any], layout: Layout, settings: Settings) -> str:
    paper = getattr(getattr(kind, "info", None), "paper", None)
    protocol = (
        f", by the protocol of {paper.title} ({paper.venue} {paper.year}, {paper.url})"
        if paper
        else ""
    )
    groups = [
        f"{group}-OOD: {', '.join(members)}."
        for group, members in (("Near", layout.near), ("Far", layout.far))
        if members
    ]
    if not layout.grouped:
        groups.append("The class does not tell near from far: all of its sets count as far.")
    if layout.shifted:
        groups.append(
            f"The class labels {', '.join(layout.shifted)} as OOD; they are ID images under a "
            "covariate shift, and here they count as ID, in the full-spectrum groups."
        )
    size = f", for images of {settings.size}x{settings.size} pixels" if settings.size else ""
    return (
        f"The benchmark {kind.__name__} of pytorch-ood{protocol}. ID: its own training and test "
        f"set. {' '.join(groups)}\n\n"
        "The class prescribes sets and groups only. Backbone, recipes, detectors and "
        f"preprocessing are those of the suite {settings.like}{size}. The FPR95 that is shown is "
        "the one of pytorch-ood's metrics: OOD is the positive class.\n"
    )


# --- Data sets ---


@dataclass(frozen=True)
class BenchmarkSets:
    """The sets of benchmark classes: `pytorch-ood/CIFAR10_ODIN/test`.

    Parts: `train`, `test`, `validation` and `validation-ood` where the class has them (`val_in`,
    `val_ood`), and the names in its `ood_names`. Files are where the class looks for them with the
    data folder as its root; OpenOOD's as `um_bench.data.sources.OpenOODSet` has them, OpenMIBOOD's
    in the data folder's `midog`, `phakir` and `oasis3`.

    Noise that a class draws without a seed is drawn with that of CIFAR10_ODIN: it would be another
    set in every run.
    """

    name: str = FAMILY

    def __call__(self, part: str, data_dir: Path, preprocessing: Preprocessing) -> Pairs:
        """Return one set of one benchmark; only its own files have to be here.

        Raises:
            MissingDataError: if it is not here; says how to get it.
            UsageError: if there is no such benchmark or part.
            UnsupportedError: if um-bench cannot or will not read its files.
        """
        name, _, own = part.partition("/")
        kind = benchmark_class(name)
        _require_supported(kind)
        if _is_listed(kind):
            return _listed_sets(kind, name)(own, data_dir, preprocessing)
        reference = _reference(name, own)
        made = _made(kind, reference, _root(kind, reference, data_dir), _splits)
        parts = _parts(made, reference)
        if own not in parts:
            raise unknown_name(f"part of {FAMILY}/{name}", own, parts)
        with _naming(reference):
            chosen = parts[own]()
        if not isinstance(chosen, _Deferred):
            found: Pairs = chosen
            return found
        if own in _names(made, "cs_id_names"):
            chosen.keep_labels()
        pairs = chosen.pairs(reference)
        _require_images(pairs, kind, reference)
        return pairs


BENCHMARK_SETS = BenchmarkSets()


def _listed_sets(kind: type[Any], name: str) -> sources.OpenOODSet:
    """Return the family that reads an OpenOOD benchmark by its lists."""
    ours = (
        sources.OPENOOD_CIFAR10,
        sources.OPENOOD_CIFAR100,
        sources.OPENOOD_IMAGENET200,
        sources.OPENOOD_IMAGENET1K,
    )
    large = _is_a(kind, "img.openood", "_OpenOOD_ImageNet")
    like = next((one for one in ours if one.kind == kind.__name__), None) or sources.OpenOODSet(
        "", kind.__name__, "images_largescale" if large else "images_classic"
    )
    return dataclasses.replace(like, name=f"{FAMILY}/{name}", module=_home(kind))


def _root(kind: type[Any], reference: str, data_dir: Path) -> Path:
    """Return the folder that a benchmark is told to look in."""
    folder = getattr(kind, "_dataset_subdir", None)
    if folder is None:
        return data_dir
    root = data_dir / str(folder)
    lists = root / "imglists" / str(folder)
    if not lists.is_dir():
        raise MissingDataError(
            f"{reference}: there is no folder {lists}. To get it: prepare the images in {root} as "
            f"{kind.info.paper.code} says, then fetch the image lists: {_by_hand(kind, root)}"
        )
    return root


def _require_images(pairs: Pairs, kind: type[Any], reference: str) -> None:
    """Refuse an image list that names images which are not here."""
    images = importlib.import_module("pytorch_ood.dataset.img")
    files = getattr(pairs, "files", ()) if isinstance(pairs, images.ImageListDataset) else ()
    absent = [file for file in files if not Path(file).exists()]
    if absent:
        paper = getattr(getattr(kind, "info", None), "paper", None)
        raise MissingDataError(
            f"{reference}: {len(absent)} of the {len(files)} images on its list are missing, the "
            f"first is {absent[0]}. To get it: prepare them as "
            f"{paper.code if paper and paper.code else 'the authors of the benchmark'} says"
        )


def _parts(made: Any, reference: str) -> dict[str, Callable[[], Any]]:
    """Return part -> a function that returns the set; one that cannot be had hides no other."""
    names = [str(name) for name in made.ood_names]
    own: dict[str, Callable[[], Any]] = {
        "train": made.train_set,
        "test": lambda: made.test_sets(known=True, unknown=False)[0],
    }
    for part, attribute in (("validation", "val_in"), ("validation-ood", "val_ood")):
        if getattr(made, attribute, None) is not None:
            own[part] = functools.partial(getattr, made, attribute)
    taken = own.keys() & set(names)
    if taken:
        raise UsageError(
            f"{reference}: an OOD set called {', '.join(sorted(taken))} cannot be told from the ID "
            "data of that name; rename it in ood_names"
        )

    def ood(place: int) -> Any:
        return made.test_sets(known=False, unknown=True)[place]

    return own | {name: functools.partial(ood, place) for place, name in enumerate(names)}


# --- A benchmark without its data ---


_BUILDING = threading.RLock()


def _made(kind: type[Any], reference: str, root: Path, splits: Callable[[str, str], Any]) -> Any:
    """Return a benchmark whose sets are stand-ins.

    Args:
        kind: its class.
        reference: what was asked for; errors begin with it.
        root: the folder that it looks in.
        splits: what takes the place of pytorch-ood's `load_ssb_splits`, which runs a pickle.

    Raises:
        MissingDataError: if it needs files that are not here.
        UsageError: if it cannot be made.
    """
    with _naming(reference):
        arguments = _arguments(kind, root)
        with _BUILDING, _stand_ins(kind, splits), _offline(kind, root):
            return kind(**arguments)


def _arguments(kind: type[Any], root: Path) -> dict[str, Any]:
    known = {"root": str(root), "transform": sources.as_it_is, "download": False}
    parameters = inspect.signature(kind).parameters
    for parameter in parameters.values():
        optional = parameter.default is not parameter.empty or parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if parameter.name not in known and not optional:
            raise UsageError(
                f"{kind.__name__} needs the argument {parameter.name}, which um-bench does not "
                "know (it gives root, transform and download); give it a default in a subclass"
            )
    return {given: value for given, value in known.items() if given in parameters}


@contextlib.contextmanager
def _stand_ins(kind: type[Any], splits: Callable[[str, str], Any]) -> Iterator[None]:
    """Put stand-ins in the place of the data set classes that a benchmark's modules name."""
    before = []
    for module in {sys.modules[one.__module__] for one in kind.__mro__ if one is not object}:
        for name, value in list(vars(module).items()):
            other = _stand_in(value, splits)
            if other is not None:
                before.append((module, name, value))
                setattr(module, name, other)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _stand_in(value: Any, splits: Callable[[str, str], Any]) -> Any:
    if inspect.isfunction(value) and value.__name__ == "load_ssb_splits":
        return splits
    own = isinstance(value, type) and issubclass(value, Dataset)
    # Subset and its kin take sets that exist; what they are given is a stand-in already.
    return _deferred(value) if own and not value.__module__.startswith("torch.") else None


@functools.cache
def _deferred(kind: type[Any]) -> type["_Deferred"]:
    return type(kind.__name__, (_Deferred,), {"kind": kind})


class _Deferred(Dataset[Any]):
    """A data set that is made when it is read. Its class has the name of the real one."""

    kind: type[Any]

    def __init__(self, *args: Any, **options: Any) -> None:
        self._given = inspect.signature(self.kind).bind(*args, **options)
        _set_option(self._given, "download", False)
        if _is_noise(self.kind) and self._given.arguments.get("seed") is None:
            _set_option(self._given, "seed", sources.NOISE_SEED)
        self._lock = threading.Lock()
        self._real: Any = None

    def __len__(self) -> int:
        return len(self.real())

    def __getitem__(self, index: Any) -> Any:
        return self.real()[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_given", "_lock", "_real"):
            raise AttributeError(name)
        return getattr(self.real(), name)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process gets the set itself: it does not know this class.
        return _as_made, (self.real(),)

    def keep_labels(self) -> None:
        """Let the set have the labels of its files, whatever the benchmark makes of them."""
        _set_option(self._given, "target_transform", None)

    def pairs(self, reference: str) -> Pairs:
        """Return the real set; noise is read in order only."""
        real: Pairs = self.real(reference)
        return sources.Drawn(self._make, len(real)) if _is_noise(self.kind) else real

    def real(self, reference: str = "") -> Any:
        """Return the real set, made without downloading.

        Raises:
            MissingDataError: if its files are not here; says how to get them.
        """
        with self._lock:
            if self._real is None:
                self._real = self._found(reference or self.kind.__name__)
        return self._real

    def _make(self) -> Any:
        kind: Callable[..., Any] = self.kind
        return kind(*self._given.args, **self._given.kwargs)

    def _found(self, reference: str) -> Any:
        root = Path(self._given.arguments.get("root", ""))
        try:
            with _naming(reference), _offline(self.kind, root):
                return self._make()
        except MissingDataError as error:
            raise MissingDataError(
                f"{reference} is not in {root}. {self._how(root, error)}"
            ) from error

    def _how(self, root: Path, error: MissingDataError) -> str:
        """Return how to get the set: the command that downloads it, or the library's own words."""
        if "download" not in inspect.signature(self.kind).parameters:
            return str(error.__cause__ or error)
        plain = (str, int, float, type(None))
        left_out = ("root", "transform", "target_transform", "download")
        shown = {
            name: value
            for name, value in self._given.arguments.items()
            if name not in left_out and isinstance(value, plain)
        }
        shown["download"] = True
        needs = "gdown" if self.kind.__module__ == "pytorch_ood.dataset.img.openood" else None
        command = sources.command_to_make(_home(self.kind), self.kind.__name__, root, shown, needs)
        return f"To get it: {command}"


def _as_made(real: Any) -> Any:
    """Return what it is given: what a stand-in is in another process."""
    return real


def _set_option(given: inspect.BoundArguments, name: str, value: Any) -> None:
    """Set one argument of a call, if what is called has it."""
    if name in given.signature.parameters:
        given.arguments[name] = value
    for parameter in given.signature.parameters.values():
        gathered = given.arguments.get(parameter.name, {})
        if parameter.kind is parameter.VAR_KEYWORD and name in gathered:
            gathered[name] = value


def _is_noise(kind: type[Any]) -> bool:
    noise = importlib.import_module("pytorch_ood.dataset.img.noise")
    return issubclass(kind, noise.NoiseDataset)


def _by_hand(kind: type[Any], root: Path) -> str:
    """Return the command by which the user makes a benchmark or a data set, downloads included."""
    known = {"transform": None, "download": True}
    parameters = inspect.signature(kind).parameters
    given = {name: value for name, value in known.items() if name in parameters}
    return sources.command_to_make(_home(kind), kind.__name__, root, given)


def _home(kind: type[Any]) -> str:
    """Return the shortest name of a package from which a class can be imported."""
    parts = kind.__module__.split(".")
    for count in range(1, len(parts)):
        package = ".".join(parts[:count])
        if getattr(sys.modules.get(package), kind.__name__, None) is kind:
            return package
    return kind.__module__


@contextlib.contextmanager
def _naming(reference: str) -> Iterator[None]:
    """Turn what a library raises into an error that names the set and says what it is."""
    try:
        yield
    except UmBenchError as error:
        if reference in str(error):
            raise
        raise type(error)(f"{reference}: {error}") from error
    # The libraries raise RuntimeError where a set is absent or a checksum is wrong.
    except (RuntimeError, FileNotFoundError, _NoFolderError) as error:
        raise MissingDataError(f"{reference}: {error}") from error
    except OSError as error:
        raise UsageError(f"{reference} cannot be read: {error}") from error
    except Exception as error:
        raise PluginError(f"{reference} failed: {type(error).__name__}: {error}") from error


# --- What may not happen on the way ---


def _no_splits(dataset: str, root: str) -> dict[str, Any]:
    """Return splits without classes: enough to tell which sets there are."""
    return {"known_classes": [], "unknown_classes": {"Easy": [], "Medium": [], "Hard": []}}


def _splits(dataset: str, root: str) -> dict[str, Any]:
    """Return the class splits of the Semantic Shift Benchmark, numbered from 0.

    The file is a pickle. It holds numbers, lists and text, and is read as that: a pickle that names
    a function or a class is refused, before anything of it is run.

    pytorch-ood 0.4.0 takes the cars' classes for numbered from 1. They are numbered from 0, as in
    the authors' code, which adds 1: there one class is lost, and known and unknown ones are mixed.

    Source:
        Visual-AI/Dissect-OOD-OSR, data/open_set_splits/*.pkl and data/stanford_cars.py:75.
    """
    ssb = importlib.import_module(f"{BENCHMARKS}.img.ssb")
    name = ssb._SSB_SPLIT_FILES[dataset]
    file = Path(root) / "ssb_splits" / name
    if not file.is_file():
        raise MissingDataError(
            f"there is no file {file}. To get it: curl -L --create-dirs -o "
            f"{shlex.quote(str(file))} {ssb._SSB_SPLIT_BASE}/{name}"
        )
    try:
        with file.open("rb") as stream:
            content = _PlainUnpickler(stream).load()
        known = [int(number) for number in content["known_classes"]]
        unknown = {
            str(level): [int(number) for number in numbers]
            for level, numbers in content["unknown_classes"].items()
        }
    except UmBenchError:
        raise
    except Exception as error:
        raise UsageError(f"{file} does not hold class splits: {error!r}") from error
    return {"known_classes": known, "unknown_classes": unknown}


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, text, lists and dictionaries, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse."""
        raise _refused_pickle(module, name)


def _refused_pickle(module: str, name: str) -> UnsupportedError:
    return UnsupportedError(
        f"a file is a pickle that calls {module}.{name}; um-bench runs no code out of data files"
    )


_ARRAYS = frozenset(
    (module, name)
    for module, names in {
        "numpy": ("ndarray", "dtype"),
        "numpy.core.multiarray": ("_reconstruct", "scalar"),
        "numpy._core.multiarray": ("_reconstruct", "scalar"),
        "_codecs": ("encode",),
    }.items()
    for name in names
)
"""What pickles of arrays name. torchvision's CIFAR files are such, and known by their checksum."""


class _Allowed(threading.local):
    """What this thread is doing; `root` is None while it may do anything."""

    kind: type[Any] | None = None
    root: Path | None = None


_allowed = _Allowed()


@contextlib.contextmanager
def _offline(kind: type[Any], root: Path) -> Iterator[None]:
    """Let this thread neither use the network, nor run pickled code, nor make folders in `root`.

    A second lock: classes are told not to download, and some have no argument for it.
    """
    _watch()
    before = _allowed.kind, _allowed.root
    _allowed.kind, _allowed.root = kind, root
    try:
        yield
    finally:
        _allowed.kind, _allowed.root = before


@functools.cache
def _watch() -> None:
    # A hook stays for good; it does nothing outside of `_offline`.
    sys.addaudithook(_check)


class _NoFolderError(PermissionError):
    """A folder is not here, and is not made."""


_NETWORK = {"urllib.Request": 0, "socket.getaddrinfo": 0, "socket.connect": 1}
"""Event -> which of its arguments says where to."""


def _check(event: str, arguments: tuple[Any, ...]) -> None:
    kind, root = _allowed.kind, _allowed.root
    if kind is None or root is None:
        return
    if event in _NETWORK:
        raise MissingDataError(
            f"{kind.__name__} would download ({arguments[_NETWORK[event]]}), which um-bench leaves "
            f"to you. To get it: {_by_hand(kind, root)}"
        )
    if event == "pickle.find_class" and arguments[:2] not in _ARRAYS:
        raise _refused_pickle(*arguments[:2])
    if event == "os.mkdir":
        folder = Path(str(arguments[0]))
        if folder.is_relative_to(root) or root.is_relative_to(folder):
            # Not "not found", at which pathlib would go on to make the folders above.
            raise _NoFolderError(
                f"there is no folder {folder}. To get it, and what belongs there: "
                f"{_by_hand(kind, root)}"
            )
