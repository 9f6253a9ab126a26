"""A Config -> the suite that does what it means, by the protocol of the paper's suites."""

from collections.abc import Iterator
from typing import Any

from um_bench.authors_config.keys import KEYS
from um_bench.authors_config.reading import Config
from um_bench.errors import UsageError
from um_bench.suite import Choice, OodSet, Recipe, Suite, load_suite

ID_SETS = {"CIFAR10": "cifar10", "CIFAR100": "cifar100"}
"""The authors' name -> ours; the suite `<ours>-um` has the protocol."""
OOD_SETS = {
    "CIFAR10": "cifar10/test",
    "CIFAR100": "cifar100/test",
    "iNaturalist": "mos/inaturalist",
    "SUN": "mos/sun",
    "Places": "mos/places",
    "dtd": "textures",
    "LSUN": "lsun-crop",
    "LSUN_resize": "lsun-resize",
    "iSUN": "folder/iSUN",
    "SVHN": "svhn/test",
}
BACKBONES = {"DenseNet": "densenet100_bc_cifar", "cWideResNet": "wrn40_4_cifar"}
SCHEDULES = {"cosine_lr": "cosine", "constant_lr": "constant"}
AUXILIARY = {"ImageNet": "imagenet64/train", "80m_tiny_images": "tinyimages300k"}
WITH_OUTLIERS = ("oe", "energy", "poem", "doe")
CONVOLUTIONS = ("DenseConv", "SubnetConv", "_SubnetConv")
LINEARS = ("DenseLinear", "SubnetLinear", "_SubnetLinear")
BATCH_NORMS = ("NonAffineBatchNorm", "LearnedBatchNorm")
KEEP = 0.8
"""Of UMAP, where a file does not say it: configs/smallscale/*_UMAP.yaml (1640ce6)."""

_OUTLIERS_AN_EPOCH = 50_000


def translate(config: Config) -> Suite:
    """Return the suite.

    Raises:
        UsageError: if it cannot be said in a suite; names every key that stands against it.
    """
    problems = list(obstacles(config))
    if problems:
        raise UsageError(f"{config.file}: no suite can say this. {'; '.join(problems)}.")
    protocol = load_suite(f"{ID_SETS[config['set']]}-um")
    recipe = _recipe(config)
    return protocol.replace(
        name=config["name"] or config.file,
        title=f"{protocol.id.name}, from the configuration {config.file}",
        ood=_ood(config, protocol),
        auxiliary=AUXILIARY[config["auxiliary_dataset"]],
        backbone=BACKBONES[config["arch"]],
        backbone_options=_backbone_options(config),
        checkpoint=checkpoint_of(config),
        seeds=_seeds(config, protocol),
        adapters=_adapters(config),
        detectors=detectors_of(config) or ("energy",),
        recipe=recipe,
        outlier_recipe=None if config.script == "main_OE" else protocol.outlier_recipe,
    )


def obstacles(config: Config) -> Iterator[str]:
    """Yield what cannot be said in a suite."""
    known: dict[str, Any] = {
        "set": ID_SETS,
        "arch": BACKBONES,
        "lr_policy": SCHEDULES,
        "optimizer": ("sgd",),
        "oe_ood_method": WITH_OUTLIERS,
        "auxiliary_dataset": AUXILIARY,
        "conv_type": (None, *CONVOLUTIONS),
        "linear_type": LINEARS,
        "bn_type": (None, *BATCH_NORMS),
        "bottleneck": (True,),
    }
    for key, values in known.items():
        if config[key] not in values:
            words = ", ".join(str(value) for value in values if value is not None)
            yield f"{key}: {config[key]} has no counterpart; known: {words}"
    for name in dict.fromkeys(config["ood_set"]):
        if name not in OOD_SETS:
            yield f"ood_set: {name!r} has no counterpart; known: {', '.join(OOD_SETS)}"
        if name == config["set"]:
            yield f"ood_set: {name} is the ID set"
    if config.masked and not 0 <= config["prune_rate"] <= 1:
        yield f"prune_rate: {config['prune_rate']} is no share of weights"


def checkpoint_of(config: Config) -> str | None:
    """Return the file that training starts from, as written here: some have Windows' slashes."""
    given = config["pretrained"]
    return None if given is None else str(given).replace("\\", "/")


def detectors_of(config: Config) -> tuple[str, ...]:
    """Return the detectors that are switched on."""
    ours = {"msp": "msp", "energy": "energy", "odin": "odin", "mahalanobis": "feature-ensemble"}
    return tuple(name for key, name in ours.items() if config[key])


def depth_of(config: Config) -> int:
    """Return the depth that is meant: of a WideResNet, `depth` or the 40 layers of the paper."""
    if config["arch"] == "cWideResNet" and "layers" not in config.given:
        return int(config["depth"])
    return int(config["layers"])


def keep_of(config: Config) -> float:
    """Return the share of weights that a mask keeps."""
    return float(config["prune_rate"]) or KEEP


def _seeds(config: Config, protocol: Suite) -> tuple[int, ...]:
    if config["seed"] is not None:
        return (config["seed"],)
    return protocol.seeds if config["pretrained"] is None else (0,)


def _backbone_options(config: Config) -> dict[str, Any]:
    options: dict[str, Any] = {"bn_affine": config["bn_type"] == "LearnedBatchNorm"}
    if config["arch"] == "DenseNet":
        usual = {"depth": 100, "growth": 12, "reduction": 0.5}
        meant = {"depth": depth_of(config), "growth": config["growth"]}
        meant["reduction"] = config["reduce"]
    else:
        usual = {"depth": 40, "widen": 4}
        meant = {"depth": depth_of(config), "widen": config["widen_factor"]}
    options |= {key: value for key, value in meant.items() if value != usual[key]}
    return options | ({"drop_rate": config["droprate"]} if config["droprate"] else {})


def _recipe(config: Config) -> Recipe:
    return Recipe(
        epochs=config["epochs"],
        batch_size=config["batch_size"],
        lr=float(config["lr"]),
        momentum=float(config["momentum"]),
        weight_decay=float(config["weight_decay"]),
        nesterov=config["nesterov"],
        schedule=SCHEDULES[config["lr_policy"]],
    )


def _ood(config: Config, protocol: Suite) -> tuple[OodSet, ...]:
    if config.script == "estimate_loss" and "ood_set" not in config.given:
        return protocol.ood
    names = dict.fromkeys(config["ood_set"])
    return tuple(OodSet(n, "near" if n in ID_SETS else "far", OOD_SETS[n]) for n in names)


def _adapters(config: Config) -> tuple[str, ...]:
    controls = ("none", "finetune")
    if config.script == "estimate_loss":
        keep = keep_of(config) if config.masked else KEYS["prune_rate"].default
        settings = {"estimate_keep": keep} if keep else {}
        return (*controls, Choice("um", settings).label)
    method = _um(config)
    if config.script == "main":
        return (*controls, method)
    exposed = _exposed(config)
    with_um = config["UM"] > 0 or config.masked
    return (*controls, exposed, f"{exposed}+{method}") if with_um else (*controls, exposed)


def _um(config: Config) -> str:
    """Return UM or UMAP with its settings."""
    settings: dict[str, Any] = {"constraint": float(config["UM"])} if config["UM"] > 0 else {}
    if config["beta"] != 1:
        settings["beta"] = float(config["beta"])
    if not config.masked:
        return Choice("um", settings).label
    settings["keep"] = keep_of(config)
    if not config["freeze_weights"]:
        settings["train_weights"] = True
    if config["conv_type"] == "_SubnetConv":
        settings |= {"scope": "model"} if config["prune_type"] == "model_wise" else {}
        settings |= {"subject": "magnitude"} if config["prune_subject"] == "weight" else {}
    return Choice("umap", settings).label


def _exposed(config: Config) -> str:
    """Return the adapter with auxiliary outliers, and those of its settings that are not usual."""
    method = config["oe_ood_method"]
    energy = {"m_in": "margin_in", "m_out": "margin_out", "energy_beta": "alpha"}
    mined = {"conf": "conf", "sigma": "sigma", "sigma_n": "sigma_n", "BUF_SIZE": "buffer"}
    ours = {"energy": energy, "poem": energy | mined, "doe": {"warmup": "warmup"}}.get(method, {})
    settings = {name: config[key] for key, name in ours.items() if config[key] != KEYS[key].default}
    pool = config["pool_size"] * config["ood_batch_size"] // _OUTLIERS_AN_EPOCH
    if method == "poem" and pool != 8:
        settings["pool"] = max(1, pool)
    return str(Choice(method, settings).label)
