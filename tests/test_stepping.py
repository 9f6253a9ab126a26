"""How a training step is computed: layout, precision, memory; what stays the same."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from um_bench import registry, stepping
from um_bench.adapters import Finetune, create
from um_bench.backbones import create as create_backbone
from um_bench.data import ImageSet, fingerprint
from um_bench.errors import UsageError
from um_bench.suite import Preprocessing, Recipe, parse_adapter
from um_bench.training import adapt

RECIPE = Recipe(epochs=2, batch_size=16, lr=0.05, augmentation="crop")
LOW = Recipe(epochs=2, batch_size=16, lr=0.05, augmentation="crop", precision="bfloat16")


def images(count: int = 40, first: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 4 if not first else torch.full((count,), -1)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    pixels[:, 0] = 60 * labels.clamp(min=0)[:, None, None].to(torch.uint8)
    return ImageSet(f"planted{first}", pixels, labels, fingerprint(pixels, labels))


def net(affine: bool = True) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16, affine=affine),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    ).eval()


def is_plain(model: nn.Module) -> bool:
    """Rows of memory in the usual order, and no hook."""
    hooks = [h for m in model.modules() for h in (m._forward_hooks, m._forward_pre_hooks)]
    return all(p.is_contiguous() for p in model.parameters()) and not any(hooks)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_layout_is_there_within_the_block_alone(precision):
    model = net()
    before = copy.deepcopy(model.state_dict())

    def fail() -> None:
        with stepping.laid_out(model, precision, "cpu"):
            assert model[3].weight.is_contiguous(memory_format=torch.channels_last)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert is_plain(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("recipe", [RECIPE, LOW], ids=lambda r: r.precision)
def test_a_trained_model_scores_as_it_does_when_it_is_read_from_a_file(recipe):
    trained = adapt(Finetune(), net(), images(), recipe, seed=0).model
    assert is_plain(trained)
    read = net()
    read.load_state_dict({name: value.contiguous() for name, value in trained.state_dict().items()})
    batch = images().images / 255
    assert torch.equal(trained(batch), read(batch))


def test_observers_of_an_epoch_see_a_plain_model():
    seen = []

    class Watching(Finetune):
        def prepare(self, model, train):
            seen.append(model)
            return super().prepare(model, train)

    adapt(
        Watching(), net(), images(), LOW, seed=0, on_epoch=lambda _: seen.append(is_plain(seen[0]))
    )
    assert seen[1:] == [True] * (len(seen) - 1)
    assert len(seen) > 2


@pytest.mark.parametrize("affine", [True, False])
def test_bfloat16_is_inside_the_training_pass_and_nowhere_else(affine):
    model, inside = net(affine), []
    model[3].register_forward_hook(lambda *passed: inside.append(passed[2].dtype))
    batch = torch.rand(8, 3, 8, 8)
    expected = model(batch)
    with stepping.laid_out(model, "bfloat16", "cpu"):
        scored = model(batch)
        logits = model.train()(batch)
        F.cross_entropy(logits, torch.zeros(8, dtype=torch.long)).backward()
    assert inside == [torch.float32, torch.float32, torch.bfloat16]
    torch.testing.assert_close(scored, expected)
    assert logits.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    assert {b.dtype for b in model[1].buffers()} == {torch.float32, torch.int64}
    assert model[1].running_mean.abs().sum() > 0


def test_an_error_in_the_pass_leaves_no_autocast_behind():
    model = net().train()
    with pytest.raises(RuntimeError), stepping.laid_out(model, "bfloat16", "cpu"):
        model(torch.rand(2, 5, 8, 8))
    assert not torch.is_autocast_enabled("cpu")


def test_precision_trains_another_model_that_is_nearly_the_same():
    single, low = (adapt(Finetune(), net(), images(), r, seed=0) for r in (RECIPE, LOW))
    assert not torch.equal(single.model[3].weight, low.model[3].weight)
    torch.testing.assert_close(single.model[3].weight, low.model[3].weight, rtol=0.1, atol=0.02)
    assert low.losses == pytest.approx(single.losses, rel=0.02)


def test_an_unknown_precision_is_refused():
    with pytest.raises(UsageError, match=r"no precision named 'half'.*bfloat16"):
        Recipe(epochs=1, precision="half")


NAMES = sorted({*registry.plugins("adapter")} - {"none"})


@pytest.mark.parametrize("name", NAMES)
def test_every_adapter_trains_in_bfloat16(name):
    if registry.plugins("adapter")[name].distribution != "um-bench":
        pytest.skip("not ours")
    torch.manual_seed(0)
    model = create_backbone("resnet20_cifar", num_classes=4, preprocessing=Preprocessing(size=8))
    recipe = Recipe(epochs=2, batch_size=20, lr=0.001, augmentation="none", precision="bfloat16")
    adapted = adapt(
        create(parse_adapter(name)), model, images(), recipe, seed=0, auxiliary=images(30, -1)
    )
    assert len(adapted.losses) == 2
    assert {p.dtype for p in adapted.model.parameters()} == {torch.float32}
    assert torch.isfinite(adapted.model(images().images / 255)).all()


@pytest.mark.gpu
def test_a_gpu_trains_in_bfloat16_as_a_cpu_does():
    there = adapt(Finetune(), net(), images(), LOW, seed=0, device="cuda")
    here = adapt(Finetune(), net(), images(), LOW, seed=0)
    assert there.losses == pytest.approx(here.losses, rel=0.02)
