"""collect: one forward per image, float32 on the CPU, nothing of the model changed."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from um_bench.errors import UmBenchError
from um_bench.outputs import collect, require_eval


class Net(nn.Module):
    """A classifier of the shape that collect needs, which counts the images it sees."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5))
        self.fc = nn.Linear(6, 4)
        self.seen = 0

    def features(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.body(images).mean(dim=(2, 3))

    def head(self, features: Tensor) -> Tensor:
        return self.fc(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net()
    net.body(torch.rand(16, 3, 8, 8))  # BatchNorm statistics that are not the initial ones
    return net.eval()


@pytest.fixture
def loader() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(10, 3, 8, 8, generator=generator)
    return list(zip(images.split(4), torch.arange(-1, 9).split(4), strict=True))


def test_outputs_are_the_models_own(net, loader):
    outputs = collect(net, loader)
    images = torch.cat([images for images, _ in loader])
    with torch.no_grad():
        assert torch.allclose(outputs.logits, net(images), rtol=1e-6, atol=1e-7)
        assert torch.allclose(outputs.features, net.features(images), rtol=1e-6, atol=1e-7)
    assert outputs.labels.tolist() == list(range(-1, 9))
    assert len(outputs) == 10
    for rows in (outputs.logits, outputs.features):
        assert (rows.dtype, rows.device.type, rows.requires_grad) == (torch.float32, "cpu", False)
        assert not rows.is_inference()  # a detector may need a copy with gradients


def test_every_image_is_forwarded_once(net, loader):
    collect(net, loader)
    assert net.seen == 10


def test_half_precision_becomes_float32(net, loader):
    outputs = collect(net.double(), [(images.double(), labels.int()) for images, labels in loader])
    assert outputs.logits.dtype == outputs.features.dtype == torch.float32
    assert outputs.labels.dtype == torch.int64


def test_the_model_is_left_as_it_was(net, loader):
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    collect(net, loader)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(("part", "named"), [("", "the model itself"), ("body.1", "body.1")])
def test_training_mode_is_refused_and_named(net, loader, part, named):
    net.get_submodule(part).training = True
    with pytest.raises(UmBenchError, match=rf"in training mode: {named}\. "):
        collect(net, loader)
    assert net.seen == 0


def test_a_long_list_of_parts_in_training_mode_is_cut(net):
    with pytest.raises(UmBenchError, match=r"body\.0 and 3 more"):
        require_eval(net.train())


@pytest.mark.parametrize("what", ["features", "logits"])
def test_a_net_that_multiplies_rows_is_refused(net, loader, what, monkeypatch):
    if what == "features":
        monkeypatch.setattr(net, "features", lambda x: net.body(x).reshape(-1, 6))
    else:
        monkeypatch.setattr(net, "head", lambda z: net.fc(z).repeat(4, 1))
    with pytest.raises(UmBenchError, match=rf"\(4, 3, 8, 8\) images gave {what} of shape"):
        collect(net, loader)


def test_feature_maps_that_were_not_pooled_are_refused(net, loader, monkeypatch):
    monkeypatch.setattr(net, "features", lambda images: net.body(images))
    monkeypatch.setattr(net, "head", lambda z: net.fc(z.mean(dim=(2, 3))))
    with pytest.raises(UmBenchError, match="features of shape"):
        collect(net, loader)


def test_a_model_that_diverged_is_named_with_a_count(net, loader):
    with torch.no_grad():
        net.fc.weight[1, 0] = math.nan
    with pytest.raises(UmBenchError, match="logits of 10 of 10 images are not finite"):
        collect(net, loader)


def test_an_empty_loader_is_refused(net):
    with pytest.raises(UmBenchError, match="no images"):
        collect(net, [])
