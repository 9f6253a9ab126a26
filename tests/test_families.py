"""Architectures of timm's families, made small: one kind of classifier, whatever they are made of.

`FAMILIES` is there for other tests to import, such as one that runs every detector on each.
"""

from collections import Counter
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from timm.models.hrnet import HighResolutionNet
from torch import nn
from torch.nn.utils import parametrize

from um_bench import registry
from um_bench.backbones import Classifier, create, weights_hash
from um_bench.data import ImageSet, fingerprint
from um_bench.errors import UnsupportedError
from um_bench.suite import Preprocessing, Recipe
from um_bench.training import adapt


class Family(NamedTuple):
    """A timm model and the options that make it small."""

    name: str
    options: dict[str, Any]
    size: int
    """Of its images: final maps have more than one position, so that their layout can be wrong."""


FAMILIES = [
    Family("test_resnet", {}, 64),
    Family("densenet121", {"growth_rate": 8, "block_config": (2, 2, 2, 2)}, 64),
    Family("regnetx_002", {}, 64),
    Family("test_convnext", {}, 64),
    Family("test_efficientnet", {}, 64),
    Family("mobilenetv4_conv_small_035", {}, 64),
    Family("test_vit", {"img_size": 64}, 64),
    Family(
        "swin_tiny_patch4_window7_224",
        {"img_size": 64, "embed_dim": 24, "depths": (1, 1, 2, 1), "window_size": 4},
        64,
    ),
    Family("deit_tiny_patch16_224", {"img_size": 64, "depth": 2}, 64),
    Family("mixer_s32_224", {"img_size": 64, "mlp_ratio": (0.5, 0.5)}, 64),
    Family("hrnet_w18_small", {}, 64),
    Family("wide_resnet50_2", {"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)}, 64),
    # What the twelve above lack: two heads on two tokens, a head that is a convolution or begins
    # with batch norm, channels last throughout, networks for small images.
    Family("deit_tiny_distilled_patch16_224", {"img_size": 64, "depth": 2}, 64),
    Family("resnetv2_18", {"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)}, 64),
    Family("levit_128s", {"img_size": 128, "depth": (1, 1, 1)}, 128),
    Family("test_mambaout", {}, 64),
    Family("wrn40_2_cifar", {}, 16),
]
IDS = [family.name for family in FAMILIES]
CLASSES = 4
ADAPTERS = {"none": {}, "um": {"estimate_masks": 1}, "umap": {"estimate_masks": 1}}
"""With settings that save time."""
RECIPE = Recipe(epochs=1, batch_size=16, lr=0.01, augmentation="none")


def made(family: Family) -> Classifier:
    """Return a small architecture with weights that do something, in eval mode."""
    preprocessing = Preprocessing(size=family.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create(
            family.name,
            num_classes=CLASSES,
            preprocessing=preprocessing,
            options=family.options,
        )
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        with torch.no_grad():
            for weight in model.parameters():  # some heads start at zero
                weight.add_(torch.randn_like(weight), alpha=0.01)
    return model


def noise(size: int) -> torch.Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))


def training_set(size: int) -> ImageSet:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (32, 3, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.arange(32) % CLASSES
    return ImageSet("noise", pixels, labels, fingerprint(pixels, labels))


@contextmanager
def counted(model):
    """Count how often each module without children runs, the head left out."""
    ran = Counter()
    head = model.net.get_classifier()
    heads = {m for part in (head if isinstance(head, tuple) else (head,)) for m in part.modules()}

    def hook(name):
        return lambda module, given, output: ran.update([name])

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in model.net.named_modules()
        if not list(module.children()) and module not in heads
    ]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def assert_close(given, expected):
    """Agree to 1e-5 of the largest value, which must be one to speak of."""
    scale = expected.abs().max().item()
    assert scale > 1e-3
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5 * scale)


def shows_its_inside(model):
    """Return True, but for the one network that an old timm says too little about."""
    old = isinstance(model.net, HighResolutionNet)
    if not old or hasattr(model.net, "forward_intermediates"):
        return True
    for ask in (lambda: model.inner(noise(64)), lambda: model.stages, lambda: model.num_maps):
        with pytest.raises(UnsupportedError, match="newer timm"):
            ask()
    return False


def check_agreement(model, size):
    """Features, head and inner layers agree with the network's own forward pass."""
    batch = noise(size)
    with torch.no_grad():
        expected = model.net((batch - model.mean) / model.std)
        features = model.features(batch)
        assert features.shape == (len(batch), model.feature_dim)
        assert expected.shape == (len(batch), CLASSES)
        assert_close(model(batch), expected)
        assert_close(model.head(features), expected)
        layer = model.head_layer
        assert_close(features @ layer.weight.T + layer.bias, expected)
        if shows_its_inside(model):
            inner = model.inner(batch)
            assert torch.equal(inner.features, features)
            assert_close(inner.logits, expected)
            assert_close(model.head_of_map(inner.final), expected)


@pytest.fixture(scope="module", params=FAMILIES, ids=IDS)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    """A classifier that no test may change."""
    return made(family)


def test_features_head_and_inner_layers_agree_with_the_network(family, model):
    check_agreement(model, family.size)


def test_one_forward_pass_gives_all_that_is_inside(family, model):
    if not shows_its_inside(model):
        return
    batch = noise(family.size)
    with torch.no_grad():
        with counted(model) as once:
            model.features(batch)
        with counted(model) as ran:
            inner = model.inner(batch)
    assert once
    assert ran == once
    for shown in (*inner.maps, inner.final):
        assert shown.ndim == 4
        assert len(shown) == len(batch)
    assert inner.final.shape[1] == model.net.num_features
    assert inner.final.shape[2] * inner.final.shape[3] > 1, "too small to show a wrong layout"
    positions = [shown.shape[2] * shown.shape[3] for shown in inner.maps]
    assert positions == sorted(positions, reverse=True)
    assert positions[0] > 1


def test_maps_are_channels_first(family, model):
    # timm declares the channels of its stages, independently of what we make of the layout.
    if not shows_its_inside(model):
        return
    with torch.no_grad():
        maps = model.inner(noise(family.size)).maps
    info = model.net.feature_info
    assert [shown.shape[1] for shown in maps] == [stage["num_chs"] for stage in info]
    sides = [family.size // stage["reduction"] for stage in info]
    assert [tuple(shown.shape[2:]) for shown in maps] == [(side, side) for side in sides]


def test_an_images_inner_layers_do_not_depend_on_its_batch(family, model):
    if not shows_its_inside(model):
        return
    batch = noise(family.size)
    with torch.no_grad():
        together, alone = model.inner(batch), model.inner(batch[1:2])
    for many, one in zip((*together.maps, together.final), (*alone.maps, alone.final), strict=True):
        scale = one.abs().max().item()
        torch.testing.assert_close(many[1:2], one, rtol=0, atol=1e-4 * scale)


def test_gradients_reach_the_stages_and_what_is_hooked_is_the_map(family, model):
    if not shows_its_inside(model):
        return
    outputs, kept = {}, {}

    def keep(place):
        def hook(module, given, output):
            outputs[place], kept[place] = output, output.detach().clone()

        return hook

    handles = [stage.register_forward_hook(keep(place)) for place, stage in enumerate(model.stages)]
    try:
        logits = model(noise(family.size).requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    assert list(outputs) == list(range(model.num_maps)), "stages do not run in their order"
    gradients = torch.autograd.grad(logits.log_softmax(1).sum(), list(outputs.values()))
    with torch.no_grad():
        maps = model.inner(noise(family.size)).maps
    for place, (gradient, shown) in enumerate(zip(gradients, maps, strict=True)):
        output = outputs[place]
        assert torch.equal(output, kept[place]), "changed in place after it was hooked"
        assert gradient.isfinite().all()
        assert gradient.any()
        channels_first = model.stage_map(output).flatten(2)[:, :, -shown[0, 0].numel() :]
        torch.testing.assert_close(channels_first, shown.flatten(2))


def test_maps_of_inner_have_gradients(family, model):
    if not shows_its_inside(model):
        return
    batch = noise(family.size).requires_grad_()
    for shown in model.inner(batch).maps:
        (gradient,) = torch.autograd.grad(shown.square().sum(), batch, retain_graph=True)
        assert gradient.any()


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapted_classifier_is_plain_again(family, model, name):
    before = weights_hash(model)
    adapter = registry.load("adapter", name)(**ADAPTERS[name])
    adapted = adapt(adapter, model, training_set(family.size), RECIPE, seed=0).model
    assert weights_hash(model) == before
    assert (weights_hash(adapted) == before) == (name == "none")
    assert adapted.state_dict().keys() == model.state_dict().keys()
    assert not any(parametrize.is_parametrized(module) for module in adapted.modules())
    assert not any(module.training for module in adapted.modules())
    assert not any(module._forward_hooks for module in adapted.modules())
    check_agreement(adapted, family.size)
    if shows_its_inside(adapted):
        own = set(adapted.modules())
        assert all(stage in own for stage in adapted.stages)
