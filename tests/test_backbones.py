import copy
import dataclasses
import hashlib
import sys
import urllib.error
from importlib.metadata import EntryPoint

import pytest
import pytorch_ood.model
import timm
import torch
import torch.nn.functional as F
import torchvision
from pytorch_ood.model import WideResNet, get_model_info
from timm.models import register_model
from torch import nn

import um_bench.backbones
from um_bench import registry
from um_bench.backbones import Classifier, create, weights_hash
from um_bench.backbones.heads import linear_head, pooled_features
from um_bench.errors import MissingDataError, PluginError, UnsupportedError, UsageError
from um_bench.suite import Preprocessing

OURS = {
    "densenet100_bc_cifar": 342,
    "wrn40_2_cifar": 128,
    "wrn40_4_cifar": 256,
    "resnet18_cifar": 512,
    "resnet20_cifar": 64,
}
"""Name -> length of the features."""
NORM = ("running_mean", "running_var", "weight", "bias")
BUFFERS = {"running_mean", "running_var", "num_batches_tracked"}
SMALL = Preprocessing(size=32)


def images(size=32, n=3, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def randomised(net):
    """Return the net in eval mode with batch norms that do something."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in net.state_dict().items():
        if name.endswith("running_mean") or name.endswith("bias"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return net.eval()


# --- the five architectures ---


@pytest.mark.parametrize("name", OURS)
def test_timm_finds_ours(name):
    net = timm.create_model(name, num_classes=7)
    assert net.num_classes == 7
    assert net.num_features == net.head_hidden_size == OURS[name]
    assert net.pretrained_cfg["input_size"] == (3, 32, 32)
    assert net.get_submodule(net.pretrained_cfg["classifier"]) is net.get_classifier()
    assert name in timm.list_models("*_cifar")


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("densenet100_bc_cifar", {"bn_affine": False}, 745_174),
        ("densenet100_bc_cifar", {}, 769_162),  # 745,174 + 2 * 11,994 channels of 99 batch norms
        ("wrn40_4_cifar", {"bn_affine": False}, 8_938_426),
        ("wrn40_2_cifar", {}, 2_243_546),
        ("resnet18_cifar", {}, 11_173_962),
        ("resnet20_cifar", {}, 269_722),
    ],
)
def test_parameter_counts(name, options, count):
    assert parameters(timm.create_model(name, **options)) == count


def densenet_state():
    """Return names and shapes in the DenseNet checkpoints that the authors of UM published."""
    shapes = {"conv1.weight": (24, 3, 3, 3), "fc.weight": (10, 342), "fc.bias": (10,)}
    norms = {"trans1.bn1": 216, "trans2.bn1": 300, "bn1": 342}
    shapes |= {"trans1.conv1.weight": (108, 216, 1, 1), "trans2.conv1.weight": (150, 300, 1, 1)}
    for block, base in ((1, 24), (2, 108), (3, 150)):
        for i in range(16):
            layer = f"block{block}.layer.{i}"
            norms |= {f"{layer}.bn1": base + 12 * i, f"{layer}.bn2": 48}
            shapes[f"{layer}.conv1.weight"] = (48, base + 12 * i, 1, 1)
            shapes[f"{layer}.conv2.weight"] = (12, 48, 3, 3)
    return shapes | norm_buffers(norms)


def wrn_state():
    """Return names and shapes in a checkpoint of WRN-40-4 that their code writes."""
    shapes = {"conv1.weight": (16, 3, 3, 3), "fc.weight": (10, 256), "fc.bias": (10,)}
    norms = {"bn1": 256}
    for block, (inside, planes) in enumerate(((16, 64), (64, 128), (128, 256)), start=1):
        shapes[f"block{block}.layer.0.convShortcut.weight"] = (planes, inside, 1, 1)
        for i in range(6):
            layer = f"block{block}.layer.{i}"
            first = planes if i else inside
            norms |= {f"{layer}.bn1": first, f"{layer}.bn2": planes}
            shapes[f"{layer}.conv1.weight"] = (planes, first, 3, 3)
            shapes[f"{layer}.conv2.weight"] = (planes, planes, 3, 3)
    return shapes | norm_buffers(norms)


def norm_buffers(norms):
    return {
        f"{name}.{buffer}": () if buffer == "num_batches_tracked" else (channels,)
        for name, channels in norms.items()
        for buffer in BUFFERS
    }


@pytest.mark.parametrize(
    ("name", "expected", "count"),
    [("densenet100_bc_cifar", densenet_state(), 398), ("wrn40_4_cifar", wrn_state(), 153)],
)
def test_names_and_shapes_are_those_of_the_papers_checkpoints(name, expected, count):
    state = timm.create_model(name, bn_affine=False).state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == expected
    assert len(expected) == count


def test_densenet_computes_what_its_paper_says():
    net = randomised(timm.create_model("densenet100_bc_cifar", bn_affine=False))
    state = net.state_dict()

    def norm_relu(x, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.relu((x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt())

    x = inputs = images()
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for block in (1, 2, 3):
        for i in range(16):
            layer = f"block{block}.layer.{i}"
            out = F.conv2d(norm_relu(x, f"{layer}.bn1"), state[f"{layer}.conv1.weight"])
            out = F.conv2d(
                norm_relu(out, f"{layer}.bn2"), state[f"{layer}.conv2.weight"], padding=1
            )
            x = torch.cat([x, out], 1)
        if block < 3:
            x = F.conv2d(norm_relu(x, f"trans{block}.bn1"), state[f"trans{block}.conv1.weight"])
            x = F.avg_pool2d(x, 2)
    pooled = F.avg_pool2d(norm_relu(x, "bn1"), 8).view(-1, 342)
    expected = pooled @ state["fc.weight"].T + state["fc.bias"]
    with torch.no_grad():
        torch.testing.assert_close(net(inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "widen"), [("wrn40_2_cifar", 2), ("wrn40_4_cifar", 4)])
def test_wrn_agrees_with_pytorch_ood(name, widen):
    theirs = randomised(WideResNet(10, depth=40, widen_factor=widen))
    ours = timm.create_model(name).eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(images()), theirs(images()), rtol=1e-4, atol=1e-4)


def test_resnet18_agrees_with_torchvision_but_for_the_stem():
    theirs = torchvision.models.resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    randomised(theirs)
    ours = timm.create_model("resnet18_cifar").eval()
    renamed = {k.replace("downsample", "shortcut"): v for k, v in theirs.state_dict().items()}
    ours.load_state_dict(renamed)
    with torch.no_grad():
        torch.testing.assert_close(ours(images()), theirs(images()), rtol=1e-4, atol=1e-4)


def test_resnet20_computes_what_its_source_says():
    net = randomised(timm.create_model("resnet20_cifar"))
    state = net.state_dict()

    def conv_norm(x, name, i, stride=1):
        x = F.conv2d(x, state[f"{name}conv{i}.weight"], padding=1, stride=stride)
        return F.batch_norm(x, *(state[f"{name}bn{i}.{part}"] for part in NORM))

    x = inputs = images()
    x = F.relu(conv_norm(x, "", 1))
    for stage in (1, 2, 3):
        for block in (0, 1, 2):
            name, stride = f"layer{stage}.{block}.", 2 if stage > 1 and block == 0 else 1
            out = conv_norm(F.relu(conv_norm(x, name, 1, stride)), name, 2)
            shortcut = torch.zeros_like(out)
            offset = (out.shape[1] - x.shape[1]) // 2
            shortcut[:, offset : offset + x.shape[1]] = x[:, :, ::stride, ::stride]
            x = F.relu(out + shortcut)
    expected = x.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]
    with torch.no_grad():
        torch.testing.assert_close(net(inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [8, 32, 36, 64])
@pytest.mark.parametrize("name", OURS)
def test_n_images_give_n_rows(name, size):
    # The paper's own nets give 8 rows for 2 images of 64x64.
    net = timm.create_model(name).eval()
    with torch.no_grad():
        assert net(images(size, n=2)).shape == (2, 10)


@pytest.mark.parametrize("name", OURS)
def test_dropout_acts_in_training_only(name):
    net = timm.create_model(name, drop_rate=0.3)
    plain = timm.create_model(name)
    small = images(16)
    with torch.no_grad():
        assert not torch.equal(net(small), net(small))
        assert torch.equal(plain(small), plain(small))
        net.eval()
        assert torch.equal(net(small), net(small))


@pytest.mark.parametrize("name", OURS)
def test_the_head_can_be_replaced(name):
    net = timm.create_model(name, num_classes=10, in_chans=1)
    net.reset_classifier(4)
    assert net(torch.rand(2, 1, 16, 16)).shape == (2, net.num_classes) == (2, 4)
    net.reset_classifier(0)
    assert net(torch.rand(2, 1, 16, 16)).shape == (2, OURS[name])
    with pytest.raises(ValueError, match="global_pool"):
        net.reset_classifier(4, "max")


def test_convolutions_are_drawn_by_fan_in():
    torch.manual_seed(0)
    weight = timm.create_model("wrn40_4_cifar").block3.layer[0].conv1.weight
    assert weight.shape == (256, 128, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("kind", "depth"),
    [(um_bench.backbones.cifar.DenseNet, 101), (um_bench.backbones.cifar.WideResNet, 4)],
)
def test_an_impossible_depth_is_refused(kind, depth):
    with pytest.raises(ValueError, match="6n \\+ 4"):
        kind(depth=depth)


# --- the stages of the five, by timm's feature interface ---

STAGES = {
    "densenet100_bc_cifar": {"conv1": (24, 1), "trans1": (108, 2), "trans2": (150, 4), "relu": 342},
    "wrn40_2_cifar": {"conv1": (16, 1), "block1": (32, 1), "block2": (64, 2), "block3": 128},
    "wrn40_4_cifar": {"conv1": (16, 1), "block1": (64, 1), "block2": (128, 2), "block3": 256},
    "resnet18_cifar": {
        "relu": (64, 1),
        "layer1": (64, 1),
        "layer2": (128, 2),
        "layer3": (256, 4),
        "layer4": (512, 8),
    },
    "resnet20_cifar": {"relu": (16, 1), "layer1": (16, 1), "layer2": (32, 2), "layer3": 64},
}
"""Name of the module -> maps, and the image's side for one of theirs (4 where it is not said)."""


def stage_shapes(name, size):
    """Return the expected shapes of the maps of one image."""
    pairs = [stage if isinstance(stage, tuple) else (stage, 4) for stage in STAGES[name].values()]
    return [(1, maps, size // reduction, size // reduction) for maps, reduction in pairs]


@pytest.mark.parametrize("name", OURS)
def test_intermediates_are_the_outputs_of_the_stages(name):
    net = randomised(timm.create_model(name))
    batch = images(16, n=1)
    hooked = {}

    def keep(stage):
        return lambda module, given, output: hooked.update({stage: output})

    for stage in STAGES[name]:
        net.get_submodule(stage).register_forward_hook(keep(stage))
    with torch.no_grad():
        final, maps = net.forward_intermediates(batch)
        assert torch.equal(final, net.forward_features(batch))
    assert [tuple(shown.shape) for shown in maps] == stage_shapes(name, 16)
    assert all(
        torch.equal(shown, hooked[stage]) for shown, stage in zip(maps, STAGES[name], strict=True)
    )
    info = [(stage["module"], stage["num_chs"]) for stage in net.feature_info]
    assert info == [
        (stage, shown.shape[1]) for stage, shown in zip(STAGES[name], maps, strict=True)
    ]


@pytest.mark.parametrize("name", OURS)
def test_timm_makes_a_network_of_the_stages_alone(name):
    net = timm.create_model(name, features_only=True).eval()
    with torch.no_grad():
        maps = net(images(16, n=1))
    assert [tuple(shown.shape) for shown in maps] == stage_shapes(name, 16)
    assert net.feature_info.channels() == [shown.shape[1] for shown in maps]


def test_some_intermediates_can_be_asked_for():
    net = timm.create_model("resnet20_cifar").eval()
    with torch.no_grad():
        final, (stem, *others) = net.forward_intermediates(images(16))
        first_and_last = net.forward_intermediates(
            images(16), indices=[0, -1], intermediates_only=True
        )
        (last,) = net.forward_intermediates(images(16), indices=1, intermediates_only=True)
        early, (only,) = net.forward_intermediates(images(16), indices=[0], stop_early=True)
    assert torch.equal(first_and_last[0], stem)
    assert torch.equal(first_and_last[1], others[-1])
    assert torch.equal(last, final)
    assert torch.equal(only, stem)
    assert torch.equal(early, stem), "went on after the last stage that was asked for"
    with pytest.raises(ValueError, match="NHWC"):
        net.forward_intermediates(images(16), output_fmt="NHWC")
    with pytest.raises(IndexError):
        net.forward_intermediates(images(16), indices=[4])


# --- classifiers ---

LARGER = {
    "resnet18": {},
    "densenet121": {},
    "convnext_atto": {},
    "mobilenetv3_small_050": {},
    "efficientnet_b0": {},
    "vit_tiny_patch16_224": {"img_size": 32},
}
"""Whole architectures; tests/test_families.py has more of them, made small."""


@pytest.mark.parametrize(("name", "options"), [*LARGER.items(), *((ours, {}) for ours in OURS)])
def test_head_of_features_is_the_networks_own_logits(name, options):
    model = create(name, num_classes=5, preprocessing=SMALL, options=options)
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        features, logits = model.features(images()), model(images())
        assert features.shape == (3, model.feature_dim)
        assert logits.shape == (3, model.num_classes) == (3, 5)
        torch.testing.assert_close(model.head(features), logits, rtol=1e-5, atol=1e-6)
    assert model.head_layer.weight.shape == (5, model.feature_dim)


def test_normalisation_is_inside_and_part_of_what_the_classifier_is():
    model = create("resnet20_cifar", num_classes=10, preprocessing=SMALL)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(model(images()), model.net((images() - mean) / std))
    assert {name.partition(".")[0] for name in model.state_dict()} == {"net", "mean", "std"}
    other = copy.deepcopy(model)
    other.mean += 0.01
    assert weights_hash(other) != weights_hash(model)


def test_preprocessing_overrides_the_backbones_normalisation():
    own = Preprocessing(size=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    model = create("wrn40_2_cifar", num_classes=10, preprocessing=own)
    torch.testing.assert_close(model.mean.flatten(), torch.tensor(own.mean))
    torch.testing.assert_close(model.std.flatten(), torch.tensor(own.std))
    cifar = create("wrn40_2_cifar", num_classes=10, preprocessing=SMALL)
    torch.testing.assert_close(cifar.mean.flatten() * 255, torch.tensor([125.3, 123.0, 113.9]))
    torch.testing.assert_close(cifar.std.flatten() * 255, torch.tensor([63.0, 62.1, 66.7]))


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5,)), ((0.5, 0.5, 0.5), (0.5, 0.0, 0.5))])
def test_a_wrong_normalisation_is_refused(mean, std):
    wrong = Preprocessing(size=32, mean=mean, std=std)
    with pytest.raises(UsageError, match="3 means and 3 positive stds"):
        create("resnet20_cifar", num_classes=10, preprocessing=wrong)


def test_creating_changes_no_weight_and_no_statistic():
    torch.manual_seed(3)
    plain = timm.create_model("densenet100_bc_cifar", num_classes=10)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    model = create("densenet100_bc_cifar", num_classes=10, preprocessing=SMALL)
    assert weights_hash(model.net) == weights_hash(plain)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["resnet20_cifer", "restnet18", "pytorch-ood:wrn-40-2/cifar10/oo"])
def test_an_unknown_name_is_told_with_near_names(name):
    with pytest.raises(UsageError) as caught:
        create(name, num_classes=10, preprocessing=SMALL)
    near = {"resnet20_cifer": "resnet20_cifar", "restnet18": "resnet18"}
    assert repr(name) in str(caught.value)
    assert near.get(name, "pytorch-ood:wrn-40-2/cifar10/oe") in str(caught.value)
    assert "timm.list_models()" in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "inception_v3"])
def test_an_impossible_size_is_told_with_the_usual_one(name):
    with pytest.raises(UsageError) as caught:
        create(name, num_classes=10, preprocessing=SMALL)
    usual = {"vit_tiny_patch16_224": "224x224", "inception_v3": "299x299"}[name]
    for part in (repr(name), "32x32", usual):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "part"),
    [
        ("resnet18", {"colour": "red"}, "'colour'"),
        ("resnet20_cifar", {"bn_afine": False}, "'bn_afine'"),
        ("wrn40_4_cifar", {"depth": 28}, "'depth'"),
        ("resnet18", {"num_classes": 3}, "'num_classes'"),
        ("resnet18", {"checkpoint_path": "x.pt"}, "--checkpoint"),
        ("resnet18", {"in_chans": 1}, "3 channels"),
        ("resnet20_cifar", {"pretrained": True}, "no weights"),
        ("resnet18.nonsense_in1k", {}, "nonsense_in1k"),
    ],
)
def test_a_wrong_option_is_named(name, options, part):
    with pytest.raises(UsageError) as caught:
        create(name, num_classes=10, preprocessing=SMALL, options=options)
    assert part in str(caught.value)
    assert repr(name) in str(caught.value)


def test_no_classes_are_refused():
    with pytest.raises(UsageError, match="num_classes must be at least 1, got 0"):
        create("resnet20_cifar", num_classes=0, preprocessing=SMALL)


def test_pretrained_weights_that_cannot_be_had_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    options = {"pretrained": True}
    with pytest.raises(MissingDataError, match=r"(?s)'convnext_atto'.*HF_HOME.*--checkpoint"):
        create("convnext_atto", num_classes=10, preprocessing=SMALL, options=options)


# --- networks that cannot be used, planted ---


class Planted(nn.Module):
    """A linear network of the pixels' means in 4x4 patches, with one fault."""

    def __init__(self, num_classes, fault):
        super().__init__()
        self.fault = fault
        self.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 32, 32)}
        self.patches = nn.AvgPool2d(4)
        self.middle = nn.ReLU()
        self.head = HEADS.get(fault, lambda k: nn.Linear(3, k))(num_classes)

    def get_classifier(self):
        return self.head

    def forward_features(self, x):
        return self.middle(self.patches(x))

    def forward_intermediates(self, x, intermediates_only=False):
        first = self.patches(x)
        final = self.middle(first)
        maps = {
            "breaks": lambda: 1 // 0,
            "no stage": list,
            "flat": lambda: [first.flatten(2)],
            "no tensor": lambda: [first, (first,)],
        }
        shown = maps.get(self.fault, lambda: [first, final])()
        return {"list": [final, final], "other final": final + 0.01}.get(self.fault, final), shown

    def forward_head(self, x, pre_logits=False):
        pooled = x if self.fault == "unpooled" else x.mean((2, 3))
        if self.fault == "rows":
            pooled = pooled.repeat(4, 1)
        return pooled if pre_logits else self.logits(pooled)

    def logits(self, pooled):
        if isinstance(self.head, tuple | nn.ModuleList):
            return sum(head(pooled) for head in self.head)
        return self.head(pooled)

    def forward(self, x):
        logits = self.logits(self.forward_features(x).mean((2, 3)))
        return {
            "rows": logits.repeat(4, 1),
            "scaled": logits * 1.0001,
            "nan": logits * float("nan"),
            "classes": logits[:, 1:],
        }.get(self.fault, logits)


HEADS = {
    "wide conv": lambda k: nn.Conv2d(3, k, 3),
    "layers": lambda k: nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, k)),
    "layer norm": lambda k: nn.Sequential(nn.LayerNorm(3), nn.Linear(3, k)),
    "batch norm after": lambda k: nn.Sequential(nn.Linear(3, k), nn.BatchNorm1d(k)),
    "not linear": lambda k: nn.Sequential(nn.Linear(3, k), nn.Softmax(1)),
    "sum of heads": lambda k: nn.ModuleList([nn.Linear(3, k), nn.Linear(3, k)]),
    "a name": lambda k: "head",
    "identity": lambda k: nn.Identity(),
    "no statistics": lambda k: nn.Sequential(
        nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, k)
    ),
}


def umtest_planted(pretrained=False, fault="", num_classes=10, **kwargs):
    return Planted(num_classes, fault)


def umtest_bare(pretrained=False, num_classes=10, **kwargs):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))


class Encoder(nn.Module):
    """What some of timm's encoders are: all of its interface but the classifier."""

    def __init__(self):
        super().__init__()
        self.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 32, 32)}

    def forward_features(self, x):
        return x

    def forward_head(self, x, pre_logits=False):
        return x.mean((2, 3))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


def umtest_encoder(pretrained=False, num_classes=10, **kwargs):
    return Encoder()


register_model(umtest_encoder)
register_model(umtest_planted)
register_model(umtest_bare)


def planted(fault):
    return create("umtest_planted", num_classes=4, preprocessing=SMALL, options={"fault": fault})


def test_the_planted_network_without_fault_is_accepted():
    model = planted("")
    assert model.feature_dim == 3
    assert model.stages == (model.net.patches, model.net.middle)


@pytest.mark.parametrize(
    ("fault", "error", "part"),
    [
        ("wide conv", UnsupportedError, "is a Conv2d"),
        ("layers", UnsupportedError, "is a Sequential"),
        ("layer norm", UnsupportedError, "is a Sequential"),
        ("batch norm after", UnsupportedError, "is a Sequential"),
        ("a name", UnsupportedError, "is a str"),
        ("identity", UnsupportedError, "is a Identity"),
        ("no statistics", UnsupportedError, "depends on the batch"),
        ("not linear", UnsupportedError, "other logits"),
        ("sum of heads", UnsupportedError, r"\(2, 6\)"),
        ("scaled", UnsupportedError, "other logits"),
        ("nan", UnsupportedError, "other logits"),
        ("classes", UnsupportedError, r"\(2, 3\)"),
        ("rows", UsageError, "8 rows"),
        ("unpooled", UnsupportedError, r"\(2, 3, 8, 8\)"),
    ],
)
def test_a_planted_fault_is_refused_with_its_reason(fault, error, part):
    with pytest.raises(error, match=part):
        planted(fault)


def test_a_network_without_a_known_interface_is_refused():
    with pytest.raises(UnsupportedError, match="Sequential has neither"):
        create("umtest_bare", num_classes=4, preprocessing=SMALL)


def test_a_network_without_a_head_is_refused():
    with pytest.raises(UnsupportedError, match="Encoder has no classifier, only features"):
        create("umtest_encoder", num_classes=3, preprocessing=SMALL)


# --- heads that are linear and no nn.Linear ---


def drawn(module):
    """Return a module in eval mode whose every number is drawn, variances positive."""
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) + 0.5)
    return module.eval()


class OfThree(nn.Module):
    """A network whose head reads three features."""

    def __init__(self, classifier, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.classifier = classifier

    def get_classifier(self):
        return self.classifier


def linear(bias=True, features=3):
    return nn.Linear(features, 5, bias=bias)


ONE_HEAD = {
    "1x1 convolution": lambda: nn.Conv2d(3, 5, 1),
    "1x1 convolution without bias": lambda: nn.Conv2d(3, 5, 1, bias=False),
    "batch norm first": lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), linear()),
    "batch norm without weights": lambda: nn.Sequential(nn.BatchNorm1d(3, affine=False), linear()),
    "linear without bias": lambda: nn.Sequential(nn.BatchNorm1d(3), linear(bias=False)),
    "in a module": lambda: nn.Sequential(nn.Flatten(), nn.Sequential(linear())),
}


@pytest.mark.parametrize("kind", ONE_HEAD)
def test_a_head_of_another_kind_becomes_one_linear_layer(kind):
    head = drawn(ONE_HEAD[kind]())
    features = torch.randn(7, 3)
    rows = features[:, :, None, None] if isinstance(head, nn.Conv2d) else features
    layer = linear_head(OfThree(head))
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        torch.testing.assert_close(layer(features), head(rows).flatten(1))


def test_a_linear_head_is_itself():
    head = linear(bias=False)
    assert linear_head(OfThree(head)) is head


def test_two_heads_on_the_same_features_are_averaged():
    heads = drawn(linear()), drawn(nn.Sequential(nn.BatchNorm1d(3), linear()))
    features = torch.randn(7, 3)
    with torch.no_grad():
        expected = (heads[0](features) + heads[1](features)) / 2
        torch.testing.assert_close(linear_head(OfThree(heads))(features), expected)
        distilled = nn.Module()
        distilled.distillation, distilled.head, distilled.head_dist = True, *heads
        torch.testing.assert_close(linear_head(OfThree(distilled))(features), expected)


@pytest.mark.parametrize("weights", [None, [0.1, 2.0]])
def test_heads_on_a_part_each_of_the_features_are_summed_by_their_shares(weights):
    heads = nn.ModuleList([drawn(linear()), drawn(linear(features=2))])
    parts = {"heads": heads, "weights": nn.Parameter(torch.tensor(weights))} if weights else {}
    features = torch.randn(7, 5)
    shares = torch.tensor(weights or [0.0, 0.0]).exp()
    shares /= shares.sum()
    with torch.no_grad():
        layer = linear_head(OfThree(heads, **parts))
        expected = shares[0] * heads[0](features[:, :3]) + shares[1] * heads[1](features[:, 3:])
        torch.testing.assert_close(layer(features), expected)


def test_two_heads_on_two_tokens_read_both():
    name = "deit_tiny_distilled_patch16_224"
    model = create(name, num_classes=5, preprocessing=SMALL, options={"img_size": 32})
    net = model.net
    with torch.no_grad():
        for head in (net.head, net.head_dist):
            nn.init.normal_(head.bias)
        first, second = net.forward_features(model._normalised(images()))[:, :2].unbind(1)
        assert torch.equal(model.features(images()), torch.cat((first, second), 1))
        expected = (net.head(first) + net.head_dist(second)) / 2
        torch.testing.assert_close(model.head(model.features(images())), expected)
        torch.testing.assert_close(model(images()), expected)
        torch.testing.assert_close(model.inner(images()).logits, expected)
    assert model.feature_dim == 2 * net.embed_dim


def test_pits_two_heads_read_a_token_each():
    # Not by way of its forward pass: in old timm, both heads read the first token.
    net = timm.create_model("pit_ti_distilled_224", num_classes=5, img_size=32).eval()
    tokens = torch.randn(3, 2, net.num_features)
    with torch.no_grad():
        expected = (net.head(tokens[:, 0]) + net.head_dist(tokens[:, 1])) / 2
        features = pooled_features(net, tokens)
        torch.testing.assert_close(linear_head(net)(features), expected)
    assert features.shape == (3, 2 * net.num_features)


def test_a_head_made_anew_follows_the_weights_and_draws_no_numbers():
    head = drawn(nn.Sequential(nn.BatchNorm1d(3), linear()))
    net = OfThree(head)
    state = torch.get_rng_state()
    before = linear_head(net).weight.clone()
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        head[1].weight *= 2
    torch.testing.assert_close(linear_head(net).weight, 2 * before)


# --- what is inside ---


def hooked_modules(model):
    return [name for name, module in model.named_modules() if module._forward_hooks]


@pytest.mark.parametrize("name", OURS)
def test_inner_shows_stages_final_map_features_and_logits(name):
    model = create(name, num_classes=5, preprocessing=Preprocessing(size=16))
    randomised(model.net)
    batch = images(16)
    with torch.no_grad():
        inner = model.inner(batch)
        final, maps = model.net.forward_intermediates((batch - model.mean) / model.std)
        assert torch.equal(inner.final, final)
        assert all(torch.equal(a, b) for a, b in zip(inner.maps, maps, strict=True))
        assert torch.equal(inner.features, model.features(batch))
        assert torch.equal(inner.logits, model.head(inner.features))
        torch.testing.assert_close(model.head_of_map(inner.final), model(batch))
    assert model.stages == tuple(model.net.get_submodule(stage) for stage in STAGES[name])
    assert model.num_maps == len(maps)
    assert hooked_modules(model) == []


def test_head_of_map_is_the_head_on_any_map():
    model = create("resnet20_cifar", num_classes=5, preprocessing=SMALL)
    final = torch.randn(3, 64, 5, 4)
    with torch.no_grad():
        torch.testing.assert_close(model.head_of_map(final), model.net.linear(final.mean((2, 3))))


def test_tokens_are_a_map_of_one_column_and_the_class_token_is_in_it():
    model = create("test_vit", num_classes=5, preprocessing=SMALL, options={"img_size": 32})
    with torch.no_grad():
        inner = model.inner(images())
        tokens = model.net.forward_features(model._normalised(images()))
        assert torch.equal(inner.final, tokens.transpose(1, 2).unsqueeze(-1))
        assert [shown.shape for shown in inner.maps] == [(3, 64, 2, 2)] * 6
        # the map leaves out the class token, and is in the order of the image's rows
        block = model.net.norm(inner.maps[-1].flatten(2).transpose(1, 2))
        torch.testing.assert_close(tokens[:, 1:], block)
        # the head reads the class token alone
        other = inner.final.clone()
        other[:, :, 1:] = 0
        torch.testing.assert_close(model.head_of_map(other), inner.logits)


def test_channels_last_becomes_channels_first():
    model = create("test_mambaout", num_classes=5, preprocessing=Preprocessing(size=64))
    with torch.no_grad():
        inner = model.inner(images(64))
        last = model.net.forward_features(model._normalised(images(64)))
        assert last.shape == (3, 2, 2, 64)
        assert torch.equal(inner.final, last.permute(0, 3, 1, 2))
        torch.testing.assert_close(model.head_of_map(inner.final), model(images(64)))
        output = model.stages[-1](inner.maps[-2].permute(0, 2, 3, 1))
        torch.testing.assert_close(model.stage_map(output), inner.maps[-1])


@pytest.mark.parametrize(
    ("kind", "size", "stages"),
    [
        (WideResNet, 32, ["conv1", "block1", "block2", "block3"]),
        (pytorch_ood.model.ResNet18, 64, ["relu", "layer1", "layer2", "layer3", "layer4"]),
    ],
)
def test_pytorch_oods_networks_show_their_inside(kind, size, stages):
    theirs = randomised(kind(num_classes=5))
    model = Classifier(theirs, num_classes=5, mean=(0.5,) * 3, std=(0.25,) * 3).eval()
    model.try_inside(images(size, n=1))
    normalised = (images(size) - 0.5) / 0.25
    with torch.no_grad():
        inner = model.inner(images(size))
        x, outputs = normalised, []
        for name in ("conv1", "bn1", "relu", "maxpool") if kind is not WideResNet else ("conv1",):
            x = theirs.get_submodule(name)(x).clone()
            outputs += [x] if name in stages else []
        for name in stages[1:]:
            x = theirs.get_submodule(name)(x)
            outputs.append(x)
        for shown, output in zip(inner.maps, outputs, strict=True):
            torch.testing.assert_close(shown, output)
        torch.testing.assert_close(inner.final, theirs.feature_maps(normalised))
        assert torch.equal(inner.features, theirs.features(normalised))
        torch.testing.assert_close(inner.logits, theirs(normalised))
        torch.testing.assert_close(model.head_of_map(inner.final), theirs(normalised))
    assert model.stages == tuple(theirs.get_submodule(name) for name in stages)
    assert hooked_modules(model) == []


def refused(model, part):
    """What needs the inside says why there is none; features and logits are there all the same."""
    for ask in (
        lambda: model.inner(images()),
        lambda: model.head_of_map(torch.zeros(1, 3, 2, 2)),
        lambda: model.stage_map(torch.zeros(1, 3, 2, 2)),
        lambda: model.stages,
        lambda: model.num_maps,
    ):
        with pytest.raises(UnsupportedError, match=f"{type(model.net).__name__}.*{part}"):
            ask()
    with torch.no_grad():
        torch.testing.assert_close(model.head(model.features(images())), model(images()))


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("breaks", "looking inside breaks .ZeroDivisionError: "),
        ("no stage", "shows no stage"),
        ("flat", r"stage 0 of 1 is \(1, 3, 64\)"),
        ("no tensor", "stage 1 of 2 is tuple"),
        ("list", "last stage is 2 tensors"),
        ("other final", "other logits of the final map"),
    ],
)
def test_a_planted_fault_inside_takes_the_inner_layers_alone(fault, part):
    refused(planted(fault), part)


def test_a_classifier_that_was_not_tried_out_says_so():
    model = Classifier(Planted(4, ""), num_classes=4, mean=(0.5,) * 3, std=(0.5,) * 3).eval()
    refused(model, "not tried out")
    model.try_inside(images(n=1))
    assert model.num_maps == 2


class Hooked(Planted):
    """The planted network as an old timm would have it: names of stages, and nothing else."""

    forward_intermediates = property()  # hasattr says no

    def __init__(self, *names):
        super().__init__(4, "")
        self.feature_info = [{"module": name, "num_chs": 3, "reduction": 4} for name in names]


def looked_into(net):
    model = Classifier(net, num_classes=4, mean=(0.5,) * 3, std=(0.5,) * 3).eval()
    model.try_inside(images(n=1))
    return model


def test_stages_that_are_only_named_are_hooked():
    model = looked_into(Hooked("patches", "middle"))
    with torch.no_grad():
        inner = model.inner(images())
        patches = F.avg_pool2d((images() - 0.5) / 0.5, 4)
    torch.testing.assert_close(inner.maps[0], patches)
    torch.testing.assert_close(inner.maps[1], patches.relu())
    assert torch.equal(inner.final, inner.maps[1])
    assert model.stages == (model.net.patches, model.net.middle)
    assert hooked_modules(model) == []


@pytest.mark.parametrize(
    ("names", "part"), [((), "neither forward_intermediates nor"), (("gone",), "not have .gone.")]
)
def test_stages_that_nobody_names_are_not_guessed(names, part):
    refused(looked_into(Hooked(*names)), part)


class InPlace(Planted):
    """The first stage's output is changed in place by what comes after it."""

    def __init__(self):
        super().__init__(4, "")
        self.middle = nn.ReLU(inplace=True)

    def forward_intermediates(self, x, intermediates_only=False):
        first = self.patches(x)
        return self.middle(first.clone()), [first]


def test_a_stage_that_is_changed_in_place_is_not_offered_for_hooks():
    model = looked_into(InPlace())
    assert model.num_maps == 1
    with pytest.raises(UnsupportedError, match="InPlace has no module to hook for 1 of its 1"):
        _ = model.stages


class Twice(Planted):
    """One module is both stages."""

    def forward_features(self, x):
        return self.middle(self.middle(self.patches(x)) - 0.1)

    def forward_intermediates(self, x, intermediates_only=False):
        first = self.middle(self.patches(x))
        second = self.middle(first - 0.1)
        return second, [first, second]


def test_a_module_that_runs_twice_is_no_stage():
    model = looked_into(Twice(4, ""))
    assert model.num_maps == 2
    with pytest.raises(UnsupportedError, match="2 of its 2 stages"):
        _ = model.stages


class ChannelsLast(Planted):
    """Its maps have their channels last, which its `num_features` alone tells."""

    num_features = 3

    def forward_features(self, x):
        return super().forward_features(x).permute(0, 2, 3, 1)

    def forward_intermediates(self, x, intermediates_only=False):
        final = self.forward_features(x)
        return final, [final.permute(0, 3, 1, 2)]

    def forward_head(self, x, pre_logits=False):
        return super().forward_head(x.permute(0, 3, 1, 2), pre_logits)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


def test_channels_last_is_seen_without_being_told():
    model = looked_into(ChannelsLast(4, ""))
    with torch.no_grad():
        inner = model.inner(images())
        torch.testing.assert_close(inner.final, F.avg_pool2d((images() - 0.5) / 0.5, 4).relu())
        torch.testing.assert_close(model.head_of_map(inner.final), model(images()))


def test_looking_inside_leaves_nothing_behind():
    model = create("resnet20_cifar", num_classes=5, preprocessing=SMALL)
    before, state = weights_hash(model), torch.get_rng_state()
    model.try_inside(images(n=1))
    assert weights_hash(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert hooked_modules(model) == []
    assert not any(module.training for module in model.modules())
    copied = copy.deepcopy(model)
    assert copied.stages == tuple(copied.net.get_submodule(n) for n in STAGES["resnet20_cifar"])
    assert not set(copied.stages) & set(model.stages)


# --- other distributions ---


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """Return a function that installs a module with one entry point."""

    def install(name, source):
        module = f"third_party_{name}"
        (tmp_path / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, module, raising=False)
        entry = EntryPoint(name, f"{module}:{name}", "um_bench.backbones")
        plugin = registry.Plugin(name, entry.value, "third-party", "1.0", entry)
        monkeypatch.setattr(registry, "plugins", lambda kind: {name: plugin})
        return name

    return install


def test_a_third_partys_backbone_is_found_by_its_entry_point(third_party):
    source = """
import timm
from timm.models import register_model

@register_model
def umtest_third(pretrained=False, **kwargs):
    return timm.create_model("resnet20_cifar", **kwargs)
"""
    name = third_party("umtest_third", source)
    model = create(name, num_classes=3, preprocessing=SMALL)
    assert model.feature_dim == 64


def test_an_entry_point_that_registers_nothing_is_a_plugins_error(third_party):
    name = third_party("umtest_nothing", "def umtest_nothing():\n    pass\n")
    with pytest.raises(PluginError, match="registered no timm model"):
        create(name, num_classes=3, preprocessing=SMALL)


def test_an_entry_point_that_breaks_is_a_plugins_error(third_party):
    name = third_party("umtest_broken", "raise ValueError('planted')\n")
    with pytest.raises(PluginError, match=r"third-party.*planted"):
        create(name, num_classes=3, preprocessing=SMALL)


# --- pytorch-ood's weights ---

KEY = "wrn-40-2/cifar10/logitnorm/s0"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return torch's cache folder, empty, where nothing can be downloaded."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network here")

    # TORCH_HOME counts no more once any test has called torch.hub.set_dir.
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_pytorch_oods_weights_that_are_missing_say_where_to_put_them(hub):
    entry = get_model_info(KEY)
    with pytest.raises(MissingDataError) as caught:
        create(f"pytorch-ood:{KEY}", num_classes=10, preprocessing=SMALL)
    for part in (entry.url, str(hub / entry.file_name), "no network here"):
        assert part in str(caught.value)


def test_pytorch_oods_weights_are_loaded_from_the_cache(hub, monkeypatch):
    entry = get_model_info(KEY)
    theirs = randomised(WideResNet(10))
    path = hub / entry.file_name
    torch.save(theirs.state_dict(), path)
    name = f"pytorch-ood:{KEY}"
    with pytest.raises(UsageError, match="not the published file"):
        create(name, num_classes=10, preprocessing=SMALL)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    made = dataclasses.replace(entry, sha256=sha256)
    path.rename(hub / made.file_name)  # the name has a part of the hash
    monkeypatch.setattr(um_bench.backbones, "get_model_info", lambda key: made)
    model = create(name, num_classes=10, preprocessing=SMALL)
    assert model.mean.flatten().tolist() == pytest.approx(entry.preprocessing.mean)
    assert model.feature_dim == 128
    known = entry.preprocessing
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (known.mean, known.std))
    with torch.no_grad():
        normalised = (images() - mean) / std
        torch.testing.assert_close(model(images()), theirs(normalised))
        torch.testing.assert_close(model.features(images()), theirs.features(normalised))


@pytest.mark.parametrize(
    ("key", "num_classes", "size", "options", "part"),
    [
        (KEY, 100, 32, {}, "has 10 classes, the ID set 100"),
        (KEY, 10, 48, {}, "48x48"),  # would be pooled without its border, without a word
        (KEY, 10, 32, {"drop_rate": 0.1}, "drop_rate"),
        ("wrn-40-2/cifar10", 10, 32, {}, "ambiguous"),
    ],
)
def test_a_wrong_use_of_pytorch_oods_weights(hub, key, num_classes, size, options, part):
    preprocessing = Preprocessing(size=size)
    with pytest.raises(UsageError, match=part):
        create(
            f"pytorch-ood:{key}",
            num_classes=num_classes,
            preprocessing=preprocessing,
            options=options,
        )


# --- the identity of weights ---


def reference_hash(net):
    digest = hashlib.sha256()
    state = net.state_dict()
    for name in sorted(state):
        array = state[name].numpy()
        digest.update(f"{name}\n{state[name].dtype}\n{array.shape}\n".encode())
        digest.update(array.tobytes(order="C"))
    return digest.hexdigest()


def test_weights_hash_is_over_names_dtypes_shapes_and_bytes():
    net = timm.create_model("resnet20_cifar")
    assert weights_hash(net) == reference_hash(net)


def test_weights_hash_ignores_memory_format():
    net = timm.create_model("wrn40_2_cifar")
    before = weights_hash(net)
    last = net.to(memory_format=torch.channels_last)
    assert last.block1.layer[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert weights_hash(last) == before


@pytest.mark.gpu
def test_weights_hash_ignores_the_device():
    net = timm.create_model("resnet20_cifar")
    assert weights_hash(copy.deepcopy(net).cuda()) == weights_hash(net)


def test_weights_hash_sees_one_weight_changed_in_place():
    net = timm.create_model("resnet20_cifar")
    before = weights_hash(net)
    with torch.no_grad():
        net.linear.bias[3] += 1e-6
    assert weights_hash(net) != before


def test_weights_hash_sees_dtypes_and_counters():
    net = timm.create_model("resnet20_cifar")
    hashes = {weights_hash(net)}
    net.bn1.num_batches_tracked += 1
    hashes.add(weights_hash(net))
    hashes.add(weights_hash(net.bfloat16()))
    assert len(hashes) == 3


def test_weights_hash_refuses_what_it_cannot_hash():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"planted": 1}

    with pytest.raises(UnsupportedError, match="_extra_state"):
        weights_hash(Extra(2, 2))


def test_a_classifier_works_with_either_memory_format():
    model = create("resnet20_cifar", num_classes=10, preprocessing=SMALL)
    assert isinstance(model, Classifier)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(last(images()), model(images()), rtol=1e-4, atol=1e-5)
