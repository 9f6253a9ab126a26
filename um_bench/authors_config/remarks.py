"""What in a Config does something else than it says, and what becomes of it here.

Source:
    ZFancy/Unleashing-Mask (1640ce6), read and, where a remark is about an error or about weights,
    run. A remark names the lines.
"""

import textwrap
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from um_bench.authors_config.keys import KEYS
from um_bench.authors_config.reading import Config
from um_bench.authors_config.translation import KEEP, checkpoint_of, depth_of, detectors_of
from um_bench.errors import unknown_name
from um_bench.render.text import printable


class Matter(IntEnum):
    """How much it matters, most first; the order of the report."""

    METHOD = 0
    RESULT = 1
    STOPS = 2
    NOTHING = 3


HEADINGS = {
    Matter.METHOD: "It trains something else than it says",
    Matter.RESULT: "It changes the numbers",
    Matter.STOPS: "Their code stops there",
    Matter.NOTHING: "It does nothing",
}


class Remark(NamedTuple):
    """One thing to know about a file."""

    matter: Matter
    what: str
    """The keys, as they are in the file."""
    there: str
    """What the authors' code does with it."""
    here: str
    """What the suite has instead."""
    source: str = ""
    """Lines of their code."""


def remarks(config: Config) -> tuple[Remark, ...]:
    """Return the remarks on a file, those that matter most first."""
    topics = (_method, _masks, _start, _network, _sets, _training, _outliers, _scores, _keys)
    found = [remark for topic in topics for remark in topic(config)]
    return tuple(sorted(found, key=lambda remark: remark.matter))


def as_text(config: Config) -> str:
    """Return the remarks as a report."""
    lines = [f"{printable(config.file)}, read as a configuration of {config.script}.py"]
    last = None
    for remark in remarks(config):
        if remark.matter != last:
            lines += ["", f"{HEADINGS[remark.matter]}:"]
            last = remark.matter
        source = f" ({remark.source})" if remark.source else ""
        lines += _wrapped(f"`{remark.what}` - {remark.there}{source}.", "- ")
        lines += _wrapped(f"Here: {remark.here}.", "  ")
    return "\n".join(lines)


def description(config: Config) -> str:
    """Return what the suite says of itself: what of it is not as in the file, or in their code."""
    lines = [
        f"Made by um-bench import-config from the configuration {printable(config.file)} of the "
        "Unleashing Mask paper's authors, read for their "
        f"{config.script}.py. The protocol is that of the paper's suites; what the file says and "
        "their code does otherwise:",
        "",
    ]
    for remark in remarks(config):
        if remark.matter <= Matter.RESULT:
            text = f"`{remark.what}` - {remark.there}. Here: {remark.here}."
            lines += _wrapped(text, "- ")
    return "\n".join(lines) + "\n"


def _wrapped(text: str, first: str) -> list[str]:
    whole = printable(text)
    return textwrap.wrap(
        whole, 96, initial_indent=first, subsequent_indent="  ", break_on_hyphens=False
    )


def _method(config: Config) -> Iterator[Remark]:
    """Yield whether UM is on."""
    source = "utils/net_utils.py:318-327, utils/custom_loss.py:16-20"
    criterion, constraint = config["criterion"], config["UM"]
    run = "" if config.masked else "; `finetune` is what their code does with this file"
    if config.script == "estimate_loss":
        return
    if config.um_is_on:
        if criterion != "UM":
            there = "every criterion but CrossEntropyLoss is UM's loss there, whatever it is named"
            yield Remark(Matter.METHOD, f"criterion: {criterion}", there, "UM's loss", source)
        return
    given = f"criterion: {criterion}, UM: {constraint}"
    if config.smoothed:
        yield Remark(
            Matter.METHOD,
            f"label_smoothing: {config['label_smoothing']}",
            "takes the place of every other loss, so that UM is off",
            "no smoothing; UM is on in the adapters that have it in their name",
            source,
        )
    elif constraint > 0:
        there = "UM is off: with CrossEntropyLoss the constraint is never read"
        yield Remark(Matter.METHOD, given, there, f"UM is on, with this constraint{run}", source)
    elif config.script == "main":
        there = "UM is off: the loss is plain cross-entropy"
        here = f"`{'umap' if config.masked else 'um'}` has a constraint that is estimated{run}"
        yield Remark(Matter.METHOD, given, there, here, source)


def _masks(config: Config) -> Iterator[Remark]:
    """Yield what masks do otherwise than the words say."""
    rate = config["prune_rate"]
    if not config.masked:
        if config["freeze_weights"]:
            there = "without masks nothing is left to train, and the first step fails"
            here = "every weight is trained"
            yield Remark(
                Matter.STOPS, "freeze_weights: True", there, here, "utils/net_utils.py:354"
            )
        return
    if not rate:
        there = "keeps no weight at all: it is the share kept, and 0 where it is left out"
        here = f"keep = {KEEP}, as in the authors' files for UMAP"
        yield Remark(Matter.METHOD, "prune_rate: 0", there, here, "args.py:87, utils/conv_type.py")
    else:
        kept = f"{100 * rate:g} % of each layer's weights are kept, not pruned"
        name = "estimate_keep" if config.script == "estimate_loss" else "keep"
        here = f"{name} = {rate:g}, the same share"
        source = "args.py:87, utils/conv_type.py:13-23"
        yield Remark(Matter.RESULT, f"prune_rate: {rate:g}", kept, here, source)
    if config.script == "estimate_loss":
        there = "is one random mask without a seed, and the loss varies by a quarter with the mask"
        here = f"several seeded masks: um-bench estimate --suite FILE --keep {rate or KEEP:g}"
        yield Remark(Matter.RESULT, "the estimate", there, here, "estimate_loss.py:51-55, 79-100")
        return
    yield from _masks_in_training(config)


def _masks_in_training(config: Config) -> Iterator[Remark]:
    if not config.um_is_on:
        there = "the mask is learned by plain cross-entropy"
        here = "no adapter learns a mask so; `umap` has UM's loss"
        yield Remark(Matter.METHOD, f"conv_type: {config['conv_type']}", there, here)
    if "Subnet" not in config["linear_type"]:
        there = "the last layer has no mask; left out, it has none either"
        here = "`umap` masks it too"
        source = "args.py:62"
        yield Remark(Matter.RESULT, f"linear_type: {config['linear_type']}", there, here, source)
    if not config["freeze_weights"]:
        there = (
            "trains the weights with the mask, so that the first classifier is lost; the authors' "
            "CIFAR-10 file has True"
        )
        here = "train_weights = true, the same; leave it out to freeze them"
        source = "configs/smallscale/densenet_cifar100_UMAP.yaml:36"
        yield Remark(Matter.RESULT, "freeze_weights: False", there, here, source)
    for key in ("prune_type", "prune_subject"):
        if config["conv_type"] == "SubnetConv" and config[key] != KEYS[key].default:
            there = "is read by _SubnetConv alone, not by SubnetConv"
            source = "utils/conv_type.py:57, 105"
            what = f"{key}: {config[key]}"
            yield Remark(Matter.NOTHING, what, there, "as if it were left out", source)


def _start(config: Config) -> Iterator[Remark]:
    """Yield from which weights training starts."""
    path = checkpoint_of(config)
    if path is None:
        there = "fine-tunes a network with random weights"
        here = "a base classifier is trained first, by [base]"
        yield Remark(Matter.METHOD, "pretrained: none", there, here, "main.py:86")
        return
    given = f"pretrained: {config['pretrained']}"
    if not Path(path).is_file():
        there = "prints that there is no such file, and goes on with random weights"
        here = f"{path} has to be here when the suite runs, else nothing is run"
        yield Remark(Matter.METHOD, given, there, here, "utils/net_utils.py:273-306")
    else:
        there = "weights whose name or shape does not fit are left out with a line"
        here = "that is an error"
        yield Remark(Matter.RESULT, given, there, here, "utils/net_utils.py:293-303")
    if "_best" in Path(path).stem or "best" in Path(path).stem.split("_"):
        there = (
            "is a checkpoint from the middle of training, and where the code saves a best one, it "
            "is best on the ID test set; UM is for the last one"
        )
        here = "the file that is named; take the last one (`_last`) for the paper's method"
        source = "README.md:92, main.py:152-180"
        yield Remark(Matter.RESULT, given, there, here, source)
    if config["seed"] is None:
        there = "no seed: each run is another one"
        here = "seed 0; a single base classifier has no spread over seeds but that of fine-tuning"
        yield Remark(Matter.RESULT, "seed: none", there, here, "main.py:52-56")


def _network(config: Config) -> Iterator[Remark]:
    """Yield what network is built."""
    if config["arch"] == "cWideResNet" and config["layers"] != depth_of(config):
        there = f"depth is never read; layers is, and builds a WRN-{config['layers']}"
        here = f"depth {depth_of(config)}"
        what = f"depth: {config['depth']}, layers: {config['layers']}"
        yield Remark(Matter.METHOD, what, there, here, "models/wideresnet.py:199, args.py:14, 97")
    if config["droprate"]:
        there = "is in their files, and was not when the released checkpoint was trained"
        here = "the same, in fine-tuning and in [base]; --set backbone.drop_rate=0 is without"
        yield Remark(Matter.RESULT, f"droprate: {config['droprate']:g}", there, here)
    if config["bn_type"] is None:
        there = "has no default there, and building the network fails"
        here = "batch norm without weights, as in all of their files"
        yield Remark(Matter.STOPS, "bn_type: none", there, here, "utils/builder.py:159")
    if config["conv_type"] is None:
        there = "has no default there, and building the network fails"
        yield Remark(Matter.STOPS, "conv_type: none", there, "no masks", "utils/builder.py:158")
    classes = {"CIFAR10": 10, "CIFAR100": 100}.get(config["set"])
    if config["num_classes"] != classes:
        there = f"the network has {config['num_classes']} outputs for a set of {classes} classes"
        what = f"num_classes: {config['num_classes']}"
        yield Remark(Matter.RESULT, what, there, f"{classes}, from the images", "models/*.py")


def _sets(config: Config) -> Iterator[Remark]:
    """Yield on which OOD sets is tested."""
    names = config["ood_set"]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        once = len(set(names))
        there = (
            f"counts once and is divided by as if it were more: every average is {once}/"
            f"{len(names)} of the true one, FPR95 and AUROC alike"
        )
        here = "each set once, and their mean"
        what = f"ood_set with {', '.join(twice)} twice"
        yield Remark(Matter.RESULT, what, there, here, "utils/get_scores.py:402, 421-424")
    if "ood_set" in config.given:
        return
    if config.script == "estimate_loss":
        there, here = "needs none", "the seven of the paper, should the suite be run"
        yield Remark(Matter.NOTHING, "ood_set: none", there, here)
    else:
        there = "SVHN alone"
        yield Remark(Matter.RESULT, "ood_set: none", there, "the same", "args.py:26")


def _training(config: Config) -> Iterator[Remark]:
    """Yield what the recipe does not say."""
    if not config["nesterov"]:
        there = "is off; the paper's text says Nesterov"
        here = "off in fine-tuning, as in their code; --set recipe.nesterov=true switches it on"
        yield Remark(Matter.RESULT, "nesterov: False", there, here, "args.py:31")
    if config["pretrained"] is None and config["batch_size"] != 64:
        there = "trains from scratch with it; the released checkpoint was trained with 64"
        here = "[base] has 64, [recipe] what the file says"
        yield Remark(Matter.RESULT, f"batch_size: {config['batch_size']}", there, here)
    for key in sorted(config.as_text):
        there = "YAML reads it as text; the program fails, or takes it for a name"
        here = f"{config[key]}"
        yield Remark(Matter.STOPS, f"{key} as text", there, here, "args.py:164")


def _outliers(config: Config) -> Iterator[Remark]:
    """Yield what is known of training with auxiliary outliers."""
    if config.script != "main_OE":
        return
    method, factor = config["oe_ood_method"], config["ood_factor"]
    if isinstance(factor, float):
        there = "makes the batch of outliers a fraction (256 * 1.0), which DataLoader refuses"
        here = "as many outliers as ID images in a batch"
        source = "main_OE.py:172, 191, args.py:115"
        yield Remark(Matter.STOPS, f"ood_factor: {factor}", there, here, source)
    if factor != 1:
        there = f"{factor:g} outliers for an ID image"
        yield Remark(Matter.RESULT, f"ood_factor: {factor}", there, "one for one")
    if method == "poem":
        there = (
            "from the fifth epoch on only the first 256 of its 50,000 places are filled anew, and "
            "torch.symeig is gone from torch"
        )
        here = "the method of the POEM authors' code"
        source = "utils/neural_linear_opt.py:84-97, 366-370"
        yield Remark(Matter.METHOD, "oe_ood_method: poem", there, here, source)
    if method == "doe":
        there = "clips the gradient of the network that is not trained in that step"
        here = "that of the one that is"
        source = "utils/neural_linear_opt.py:269"
        yield Remark(Matter.METHOD, "oe_ood_method: doe", there, here, source)
    once = "drawn anew each epoch" if method == "poem" else "drawn once for all epochs"
    there = f"{once}, at a place without a seed, and may hold what is tested on"
    here = "seeded; an outlier that is in a test set is refused before anything runs"
    yield Remark(
        Matter.RESULT,
        f"auxiliary_dataset: {config['auxiliary_dataset']}",
        there,
        here,
        "main_OE.py:171-172, utils/net_utils.py:529",
    )


def _scores(config: Config) -> Iterator[Remark]:
    """Yield how detectors and metrics differ."""
    if config.script == "estimate_loss":
        return
    if not detectors_of(config):
        there, here = "no detector is on, so that nothing is scored", "energy"
        yield Remark(Matter.METHOD, "msp, energy, odin, mahalanobis: all off", there, here)
    elif not (config["final"] or config["evaluate"]):
        there = "without it no OOD set is scored after training"
        here = "all cells are always scored"
        yield Remark(Matter.METHOD, "final: False", there, here, "main.py:216, main_OE.py:250")
    if config["evaluate"]:
        there, here = "nothing is trained, the classifier is scored", "that is the adapter `none`"
        yield Remark(Matter.METHOD, "evaluate: True", there, here, "main.py:115")
    if config["msp"]:
        there = "softmax is taken twice"
        here = "once; the order of images is nearly the same"
        source = "utils/get_scores.py:608, 617-618"
        yield Remark(Matter.RESULT, "msp: True", there, here, source)
    if config["mahalanobis"]:
        there = "is tuned on the first 1,000 ID test images, which are then scored"
        here = "`feature-ensemble`, the same method, tuned on held-out training images"
        source = "utils/mahalanobis_lib.py:187-202, 479"
        yield Remark(Matter.RESULT, "mahalanobis: True", there, here, source)
    there = (
        "is at the threshold where the share of ID accepted is nearest to 95 %, which with ties "
        "may be below"
    )
    here = "at the first where it is at least 95 %; ID is the positive class, as in their code"
    yield Remark(Matter.RESULT, "FPR95", there, here, "utils/get_scores.py:387")


def _keys(config: Config) -> Iterator[Remark]:
    """Yield the keys that nothing reads, there or here."""
    for name in config.unknown:
        near = str(unknown_name("key", name, KEYS)).partition(" Known:")[0]
        there = f"taken without a word, and read by nothing: {near.strip()}".rstrip(".")
        yield Remark(Matter.METHOD, name, there, "not taken either", "args.py:158-168")
    for name in config.twice:
        there = "given more than once; the last one holds"
        yield Remark(Matter.RESULT, name, there, "the last one, too")
    for name in sorted(config.given):
        key, value = KEYS[name], config[name]
        if key.use not in _WITHOUT_EFFECT and value != key.default:
            here = "not taken: no suite says it"
            yield Remark(Matter.METHOD, f"{name}: {value}", key.use, here)
    for use, (there, here) in _WITHOUT_EFFECT.items():
        names = sorted(name for name in config.given if KEYS[name].use == use)
        if names and there:
            yield Remark(Matter.NOTHING, ", ".join(names), there, here)


_WITHOUT_EFFECT = {
    "taken": ("", ""),
    "dead": ("nothing reads it", "not taken"),
    "machine": (
        "no part in the numbers",
        "not taken; there are --data-dir, --device, --results and UM_BENCH_WORKERS, and the last "
        "epoch alone is kept",
    ),
}
"""Use of a key -> what becomes of it there and here."""
