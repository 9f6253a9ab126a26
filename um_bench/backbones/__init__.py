"""Backbones by name, timm's (ours among them) and pytorch-ood's, as classifiers of one kind."""

import difflib
import hashlib
import importlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from pytorch_ood.model import (
    GRUClassifier,
    ImagePreprocessing,
    WideResNet,
    get_model_info,
    list_models,
)
from torch import Tensor, nn

import um_bench.backbones.cifar  # noqa: F401 - importing it registers our models with timm
from um_bench import registry
from um_bench.backbones.checkpoints import load_checkpoint
from um_bench.backbones.heads import linear_head, pooled_features
from um_bench.backbones.inside import Inner, Inside, find_inside
from um_bench.errors import MissingDataError, PluginError, UnsupportedError, UsageError
from um_bench.starting_points import PREFIX as _POOD
from um_bench.suite import Preprocessing

__all__ = ["Classifier", "Inner", "create", "hash_of", "load_checkpoint", "weights_hash"]

_TOLERANCE = 1e-5
"""Largest gap between head(features) and the model's own logits, relative to the largest logit."""
_RESERVED = {
    "num_classes": "it follows from the ID set",
    "in_chans": "images always have 3 channels",
    "features_only": "a classifier is needed",
    "checkpoint_path": "give the file by --checkpoint",
    "pretrained_cfg": "give mean and std as preprocessing, a file by --checkpoint",
    "pretrained_cfg_overlay": "give mean and std as preprocessing, a file by --checkpoint",
}
"""Options of timm.create_model that um-bench decides, and why."""


class Classifier(nn.Module):
    """A network with its normalisation: images in [0, 1] -> logits, by way of its features.

    In eval mode `head(features(images))` equals `forward(images)`. Mean and std are part of its
    state: the same weights behind another normalisation are another classifier.

    Args:
        net: a model with timm's interface (`forward_features`, `forward_head`, `get_classifier`)
            or pytorch-ood's (`features`, `fc`).
        num_classes: logits.
        mean: per channel, for pixels in [0, 1].
        std: per channel, for pixels in [0, 1].
    """

    net: nn.Module
    num_classes: int
    mean: Tensor
    std: Tensor

    def __init__(
        self, net: nn.Module, *, num_classes: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.net = net
        self.num_classes = num_classes
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1))
        self._inside: Inside | str = "it was not tried out; um_bench.backbones.create does that"

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K) of images (N, 3, H, W) in [0, 1]."""
        logits: Tensor = self.net(self._normalised(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Return pooled penultimate features (N, D) of images (N, 3, H, W) in [0, 1]."""
        net: Any = self.net
        x = self._normalised(images)
        if _is_timm(net):
            return pooled_features(net, net.forward_features(x))
        features: Tensor = net.features(x)
        return features

    def inner(self, images: Tensor) -> Inner:
        """Return what one forward pass of images (N, 3, H, W) in [0, 1] shows of the inside.

        Features and logits are those of `features` and `head`, gradients included.

        Raises:
            UnsupportedError: if the network does not show its inside, and why.
        """
        seen = self._shown_inside().look(self.net, self._normalised(images))
        return Inner(*seen, self.head(seen.features))

    def head(self, features: Tensor) -> Tensor:
        """Return logits (N, K) of features (N, D)."""
        logits: Tensor = self.head_layer(features)
        return logits

    def head_of_map(self, final: Tensor) -> Tensor:
        """Return logits (N, K) of a final map as `inner` returns it, by the network's own head.

        Raises:
            UnsupportedError: if the network does not show its inside, and why.
        """
        return self._shown_inside().logits(self.net, final)

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """The modules that put out the maps of `inner`, for detectors that hook gradients there.

        Each runs once in a forward pass, and what it puts out is not changed in place later, so
        that autograd reaches it: where weights or images require gradients, which the weights of
        an adapted classifier do not. It is in the network's own layout; see `stage_map`.

        Raises:
            UnsupportedError: if the network does not show its inside, or if a map of it is what no
                module puts out.
        """
        names = self._shown_inside().stages
        if not all(names):
            missing = sum(not name for name in names)
            raise UnsupportedError(
                f"{type(self.net).__name__} has no module to hook for {missing} of its "
                f"{len(names)} stages: none puts out that map, alone and once."
            )
        return tuple(self.net.get_submodule(name) for name in names)

    def stage_map(self, output: Tensor) -> Tensor:
        """Return what a module of `stages` put out as (N, C, H, W).

        Tokens become (N, C, L, 1), with class and register tokens, which `inner` leaves out.

        Raises:
            UnsupportedError: if the network does not show its inside, and why.
        """
        return self._shown_inside().stage_map(output)

    @property
    def num_maps(self) -> int:
        """Number of maps that `inner` returns, whether or not modules put them out.

        Raises:
            UnsupportedError: if the network does not show its inside, and why.
        """
        return len(self._shown_inside().stages)

    @property
    def head_layer(self) -> nn.Linear:
        """The last layer: weight (K, D), bias (K,).

        Where the network's own is of another kind (a 1x1 convolution, batch norm before a linear
        layer, several heads that are averaged), an equal one, made anew at each call.

        Raises:
            UnsupportedError: if it is not linear.
        """
        return linear_head(self.net)

    @property
    def feature_dim(self) -> int:
        """Length D of the features."""
        return self.head_layer.in_features

    def try_inside(self, images: Tensor) -> None:
        """Find out how the network shows its inside, with a few images (N, 3, H, W) in [0, 1].

        `inner`, `head_of_map` and `stages` rest on it, for images of this size.
        """
        try:
            self._inside = find_inside(self.net, self._normalised(images))
        except UnsupportedError as error:
            self._inside = str(error)
        # Networks of other people: what breaks here must not take features and logits with it.
        except Exception as error:
            reason = str(error).partition("\n")[0]
            self._inside = f"looking inside breaks ({type(error).__name__}: {reason})"

    def _shown_inside(self) -> Inside:
        if isinstance(self._inside, str):
            raise UnsupportedError(
                f"{type(self.net).__name__} shows no inner layers: {self._inside}."
            )
        return self._inside

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class _Made(NamedTuple):
    """A network, and what its makers say about its images."""

    net: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    size: int | None


def create(
    name: str,
    *,
    num_classes: int,
    preprocessing: Preprocessing,
    options: Mapping[str, Any] | None = None,
) -> Classifier:
    """Return a classifier in eval mode, after a trial on two images.

    Args:
        name: of a timm model (ours and other distributions' included), or `pytorch-ood:KEY` with
            a key of pytorch_ood.model.list_models, whose weights come with it.
        num_classes: logits.
        preprocessing: size of the images; mean and std where they are not the backbone's own.
        options: arguments of timm.create_model for this model, e.g. `pretrained`, `drop_rate`.

    Raises:
        UsageError: if the name, an option or the normalisation is wrong, or the backbone cannot
            take images of this size.
        MissingDataError: if pretrained weights are not here and cannot be downloaded.
        UnsupportedError: if the head is not linear in the features.
        PluginError: if another distribution's backbone breaks.
    """
    if num_classes < 1:
        raise UsageError(f"backbone {name!r}: num_classes must be at least 1, got {num_classes}")
    options = options or {}
    if name.startswith(_POOD):
        made = _from_pytorch_ood(name, num_classes, preprocessing.size, options)
    else:
        made = _from_timm(name, num_classes, options)
    _require_interface(name, made.net)
    mean = preprocessing.mean or made.mean
    std = preprocessing.std or made.std
    _require_normalisation(name, mean, std)
    model = Classifier(made.net, num_classes=num_classes, mean=mean, std=std).eval()
    _try_out(model, name, preprocessing.size, made.size)
    # Noise: in a smooth image, more than one module can put out the same map.
    shape = (1, 3, preprocessing.size, preprocessing.size)
    model.try_inside(torch.rand(shape, generator=torch.Generator().manual_seed(0)))
    return model


def weights_hash(model: nn.Module) -> str:
    """Return the sha256 of a model's state dict: names, dtypes, shapes and bytes.

    Neither the device nor the memory format counts, nor the mean and std of a Classifier.

    Raises:
        UnsupportedError: if the state dict holds something other than tensors.
    """
    state = model.state_dict()
    for name, tensor in sorted(state.items()):
        if not isinstance(tensor, Tensor):
            raise UnsupportedError(
                f"{name} in the state dict is a {type(tensor).__name__}; only tensors can be hashed"
            )
    return hash_of(state)


def hash_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of named tensors: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _require_interface(name: str, net: nn.Module) -> None:
    if not _is_timm(net) and not (hasattr(net, "features") and hasattr(net, "fc")):
        raise UnsupportedError(
            f"backbone {name!r}: {type(net).__name__} has neither timm's interface "
            "(forward_features, forward_head, get_classifier) nor features and fc."
        )


def _is_timm(net: nn.Module) -> bool:
    return hasattr(net, "forward_head")


def _from_timm(name: str, num_classes: int, options: Mapping[str, Any]) -> _Made:
    plugin = registry.plugins("backbone").get(name)
    if plugin is not None:
        registry.load("backbone", name)
        if not timm.is_model(name):
            raise PluginError(
                f"backbone {name!r}: importing {plugin.value} of {plugin.distribution} registered "
                "no timm model of that name (timm.models.register_model)."
            )
    if not timm.is_model(name):
        raise _unknown_backbone(name)
    for option in options:
        if option in _RESERVED:
            raise UsageError(
                f"backbone {name!r}: option {option!r} is not free, {_RESERVED[option]}."
            )
    if options.get("pretrained") and not timm.models.is_model_pretrained(name):
        raise UsageError(
            f"backbone {name!r}: option 'pretrained': timm has no weights of that name. "
            "Leave it out, or give a file by --checkpoint."
        )
    try:
        net = timm.create_model(name, num_classes=num_classes, **options)
    except Exception as error:
        raise _creation_error(name, options, error) from error
    cfg = getattr(net, "pretrained_cfg", {})
    size = cfg.get("input_size", (3, None, None))[-1]
    return _Made(net, cfg.get("mean", ()), cfg.get("std", ()), size)


def _creation_error(name: str, options: Mapping[str, Any], error: Exception) -> Exception:
    reason = str(error).partition("\n")[0]
    # timm says of a huggingface_hub that is newer than itself that it is not installed.
    no_download = isinstance(error, OSError) or "huggingface_hub" in str(error)
    if options.get("pretrained") and no_download:
        return MissingDataError(
            f"the pretrained weights of backbone {name!r} are not here and could not be downloaded "
            f"({type(error).__name__}: {reason}). Create it once where there is a network and copy "
            "the cache (the folder that HF_HOME names) here, or give a file by --checkpoint."
        )
    given = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"
    return UsageError(
        f"backbone {name!r} cannot be made with {given} ({type(error).__name__}: {reason})."
    )


def _from_pytorch_ood(name: str, num_classes: int, size: int, options: Mapping[str, Any]) -> _Made:
    key = name.removeprefix(_POOD)
    try:
        entry = get_model_info(key)
    except ValueError as error:
        if "ambiguous" in str(error):
            raise UsageError(f"backbone {name!r}: {error}") from error
        raise _unknown_backbone(name) from error
    if options:
        raise UsageError(f"backbone {name!r} takes no options, got {', '.join(options)}.")
    _require_image_classifier(name, entry)
    classes = entry.arch_kwargs.get("num_classes", num_classes)
    if classes != num_classes:
        raise UsageError(
            f"backbone {name!r} was trained on {entry.dataset} and has {classes} classes, the ID "
            f"set {num_classes}. Name weights for that many (um-bench list backbones), or the ID "
            "set that these are for."
        )
    module, _, class_name = entry.arch_class.rpartition(".")
    net: nn.Module = getattr(importlib.import_module(module), class_name)(**entry.arch_kwargs)
    if isinstance(net, WideResNet) and size != 32:
        # It pools 8x8 maps: at 48x48 it would ignore the border without a word.
        raise UsageError(f"backbone {name!r} cannot take {size}x{size} images, only 32x32.")
    _require_interface(name, net)  # before anything is downloaded
    state = _pytorch_ood_weights(name, entry)
    if entry.state_dict_transform is not None:
        state = entry.state_dict_transform(state)
    net.load_state_dict(state)
    known = entry.preprocessing
    if known is None:
        return _Made(net, (), (), None)
    return _Made(net, known.mean, known.std, (known.crop_size or known.size)[0])


def _require_image_classifier(name: str, entry: Any) -> None:
    """Refuse what the registry may hold besides; in pytorch-ood 0.4.0, it holds nothing else."""
    known = entry.preprocessing
    if known is not None and not isinstance(known, ImagePreprocessing):
        reason = f"its inputs are those of {type(known).__name__}"
    elif entry.arch_class.rpartition(".")[2] == GRUClassifier.__name__:
        reason = "it reads words"
    else:
        return
    raise UnsupportedError(f"backbone {name!r} is no classifier of images: {reason}.")


def _pytorch_ood_weights(name: str, entry: Any) -> Any:
    """Return the state dict of a registry entry, from torch's cache or its address.

    pytorch_ood.model.load_model does the same but would run pickled code.
    """
    place = Path(torch.hub.get_dir()) / "checkpoints" / entry.file_name
    if place.exists() and hashlib.sha256(place.read_bytes()).hexdigest() != entry.sha256:
        raise UsageError(f"backbone {name!r}: {place} is not the published file; delete it.")
    try:
        return torch.hub.load_state_dict_from_url(
            entry.url,
            map_location="cpu",
            progress=False,
            check_hash=True,
            file_name=entry.file_name,
            weights_only=True,
        )
    except pickle.UnpicklingError as error:
        raise UsageError(f"backbone {name!r}: {place} needs pickle, which is not run.") from error
    except (OSError, RuntimeError) as error:
        raise MissingDataError(
            f"the weights of backbone {name!r} are not here and could not be downloaded ({error}). "
            f"Download {entry.url} where there is a network and put it at {place} (TORCH_HOME "
            "moves this folder)."
        ) from error


def _unknown_backbone(name: str) -> UsageError:
    ours = registry.plugins("backbone")
    known = {*ours, *timm.list_models(), *(_POOD + key for key in list_models())}
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return UsageError(
        f"no backbone named {name!r}.{hint} Known: {', '.join(ours)}, every name in "
        f"timm.list_models(), and {_POOD}KEY for every key in pytorch_ood.model.list_models()."
    )


def _require_normalisation(name: str, mean: Sequence[float], std: Sequence[float]) -> None:
    if not mean or not std:
        raise UsageError(f"backbone {name!r} names no mean and std; give both as preprocessing.")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UsageError(
            f"preprocessing needs 3 means and 3 positive stds, got mean {tuple(mean)}, "
            f"std {tuple(std)}"
        )


def _try_out(model: Classifier, name: str, size: int, usual: int | None) -> None:
    """Check size, shapes and head on two images; nothing about the model changes."""
    images = torch.linspace(0, 1, 2 * 3 * size * size).view(2, 3, size, size)
    layer = model.head_layer
    with torch.no_grad():
        try:
            features, logits = model.features(images), model(images)
        except Exception as error:
            raise _size_error(name, size, usual, f"{type(error).__name__}: {error}") from error
        if features.shape[:1] != (2,) or logits.shape[:1] != (2,):
            rows = f"2 images gave {len(features)} rows of features, {len(logits)} of logits"
            raise _size_error(name, size, usual, rows)
        if features.shape != (2, layer.in_features) or logits.shape != (2, model.num_classes):
            raise UnsupportedError(
                f"backbone {name!r} gives features {tuple(features.shape)} and logits "
                f"{tuple(logits.shape)} of 2 images; um-bench needs (2, {layer.in_features}) and "
                f"(2, {model.num_classes})."
            )
        gap = (
            (model.head(features) - logits).abs().max() / logits.abs().max().clamp_min(1e-30)
        ).item()
    if not gap <= _TOLERANCE:
        raise UnsupportedError(
            f"backbone {name!r}: its head on its features gives other logits than the network "
            f"itself (relative gap {gap:.1e}), so that detectors would score something else."
        )


def _size_error(name: str, size: int, usual: int | None, reason: str) -> UsageError:
    known = f" Its default is {usual}x{usual}." if usual else ""
    return UsageError(
        f"backbone {name!r} cannot take {size}x{size} images ({reason}).{known} Change "
        f"preprocessing.size, or set backbone.img_size={size} where the model has that option."
    )
