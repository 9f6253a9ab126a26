"""UM: the loss and its gradient, the masks, the constraint, and the adapters um and umap."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from um_bench.data import ImageSet, Loader, fingerprint
from um_bench.errors import UnsupportedError, UsageError
from um_bench.suite import Recipe
from um_bench.training import adapt, mean_loss
from um_bench_um import UM, UMLoss, estimate_constraint, um_loss
from um_bench_um.masks import LearnedMask, bake, mask_weights, maskable, top_share, unmask
from um_bench_umap import UMAP


def net(affine: bool = True) -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6, affine=affine),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    ).eval()


def images(count: int = 48) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    pixels[:, 0] = (pixels[:, 0] // 4) + 60 * labels[:, None, None].to(torch.uint8)
    return ImageSet("planted", pixels, labels, fingerprint(pixels, labels))


def loader(**options) -> Loader:
    return Loader(images(), batch_size=16, **options)


# --- loss


def gradient(loss_of, logits: torch.Tensor) -> torch.Tensor:
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(loss_of(leaf), leaf)[0]


def test_the_loss_is_taken_of_the_batch_mean_not_of_each_sample():
    logits = torch.tensor([[4.0, 0.0], [0.0, 2.0]])
    labels = torch.tensor([0, 0])
    each = F.cross_entropy(logits, labels, reduction="none")
    constraint = 0.5
    of_the_batch = abs(each.mean() - constraint) + constraint
    of_each = ((each - constraint).abs() + constraint).mean()
    assert um_loss(logits, labels, constraint) == pytest.approx(of_the_batch.item())
    assert abs(of_the_batch - of_each) > 0.1


@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize("side", [-1, 1])
def test_it_descends_above_the_constraint_and_climbs_below_with_full_strength(beta, side):
    torch.manual_seed(1)
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    scaled = beta * F.cross_entropy(logits, labels).item()
    constraint = scaled * (1 - 0.5 * side)
    plain = gradient(lambda z: F.cross_entropy(z, labels), logits)
    um = gradient(lambda z: um_loss(z, labels, constraint, beta=beta), logits)
    torch.testing.assert_close(um, side * beta * plain)


def test_it_never_falls_below_the_constraint_and_is_flat_at_it():
    logits, labels = torch.zeros(2, 4), torch.tensor([0, 1])
    constraint = F.cross_entropy(logits, labels).item()
    assert um_loss(logits, labels, constraint).item() == pytest.approx(constraint)
    assert gradient(lambda z: um_loss(z, labels, constraint), logits).abs().max() == 0
    assert um_loss(logits + 100 * F.one_hot(labels, 4), labels, 0.2) == pytest.approx(0.4)


def test_the_criterion_is_the_function_in_anybodys_loop():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    criterion = UMLoss(0.15, beta=0.5)
    assert torch.equal(criterion(logits, labels), um_loss(logits, labels, 0.15, beta=0.5))
    assert "constraint=0.15" in repr(criterion)
    model = net().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copy.deepcopy(model.state_dict())
    UMLoss(0.15)(model(images().images[:8] / 255), images().labels[:8]).backward()
    optimizer.step()
    assert any(not torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("constraint", [0.0, -0.1, math.inf, math.nan])
def test_a_constraint_that_turns_the_method_off_is_refused(constraint):
    for make in (UMLoss, lambda c: UM(constraint=c), lambda c: UMAP(constraint=c)):
        with pytest.raises(UsageError, match="positive number of nats"):
            make(constraint)


# --- masks


def literal_mask(values: torch.Tensor, keep: float) -> torch.Tensor:
    """METHOD: sort ascending, the first int((1 - k) * n) get 0, the rest 1."""
    flat = values.flatten().tolist()
    order = sorted(range(len(flat)), key=flat.__getitem__)
    dropped = int((1 - keep) * len(flat))
    mask = [1.0] * len(flat)
    for index in order[:dropped]:
        mask[index] = 0.0
    return torch.tensor(mask).view(values.shape)


@pytest.mark.parametrize("keep", [0.8, 0.965, 0.5, 0.01, 1.0])
@pytest.mark.parametrize("shape", [(7, 5, 3, 3), (315,), (12, 342), (1, 1)])
def test_masks_equal_a_literal_recomputation(shape, keep):
    values = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    assert torch.equal(top_share(values, keep), literal_mask(values, keep))


def test_the_count_is_the_authors_float_error_included():
    assert int(top_share(torch.rand(315), 0.8).eq(0).sum()) == 62
    assert int(top_share(torch.zeros(315), 0.8).eq(0).sum()) == 62  # ties: any, but as many


def test_memory_format_does_not_change_a_mask():
    values = torch.rand(8, 6, 3, 3)
    other = values.to(memory_format=torch.channels_last)
    assert torch.equal(top_share(values, 0.7), top_share(other, 0.7))


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_layer_is_masked_by_its_scores_and_biases_are_not(scope, memory_format):
    model = net().to(memory_format=memory_format)
    plain = copy.deepcopy(model)
    mask_weights(model, 0.8, scope=scope)
    masks = [m for m in model.modules() if isinstance(m, LearnedMask)]
    assert len(masks) == len(list(maskable(plain))) == 3
    scores = [m.scores.detach().abs() for m in masks]
    if scope == "layer":
        expected = [literal_mask(s, 0.8) for s in scores]
    else:
        joint = literal_mask(torch.cat([s.flatten() for s in scores]), 0.8)
        expected = [
            p.view(s.shape)
            for p, s in zip(joint.split([s.numel() for s in scores]), scores, strict=True)
        ]
    for layer, masked, mask in zip(maskable(plain), list(maskable(model)), expected, strict=True):
        assert torch.equal(masked.weight, layer.weight * mask)
        if layer.bias is not None:
            assert torch.equal(masked.bias, layer.bias)


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_a_mask_follows_its_scores(scope):
    model = net()
    mask_weights(model, 0.5, scope=scope)
    first = model[0]
    before = first.weight.detach().clone()
    with torch.no_grad():
        first.parametrizations.weight[0].scores.mul_(-1).add_(0.3)
    scores = [m.scores.detach().abs() for m in model.modules() if isinstance(m, LearnedMask)]
    assert not torch.equal(before, first.weight)
    if scope == "layer":
        expected = literal_mask(scores[0], 0.5)
        assert torch.equal(first.weight, first.parametrizations.weight.original * expected)


def test_scores_start_uniform_within_the_fan_in_bound():
    layer = nn.Sequential(nn.Linear(400, 300))
    mask_weights(layer, 0.8)
    scores = layer[0].parametrizations.weight[0].scores.detach()
    bound = 1 / math.sqrt(400)
    assert scores.abs().max() <= bound
    assert scores.abs().max() > 0.99 * bound
    assert abs(scores.mean()) < 0.01 * bound
    assert scores.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_the_gradient_goes_straight_through_to_every_score():
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    mask_weights(model, 0.5)
    weight = model[0].parametrizations.weight
    inputs = torch.randn(5, 6)
    (model(inputs) ** 2).sum().backward()
    scores, original = weight[0].scores, weight.original
    mask = literal_mask(scores.detach().abs(), 0.5)
    effective = (original * mask).detach().requires_grad_()
    (F.linear(inputs, effective) ** 2).sum().backward()
    torch.testing.assert_close(
        scores.grad, effective.grad * original.detach() * scores.detach().sign()
    )
    torch.testing.assert_close(original.grad, effective.grad * mask)
    assert scores.grad.ne(0).all()  # masked-out entries learn too


def test_the_original_classifier_comes_back_with_its_batchnorm_buffers_only():
    model = net()
    batch = loader().data.images[:16] / 255
    before, buffers = model(batch).detach(), {k: v.clone() for k, v in model.named_buffers()}
    model.requires_grad_(False)
    mask_weights(model, 0.8)
    model.train()
    for _ in range(3):
        model(batch)
    unmask(model.eval())
    assert not any(parametrize.is_parametrized(m) for m in model.modules())
    assert not torch.equal(model(batch), before)
    model.load_state_dict(buffers, strict=False)
    assert torch.equal(model(batch), before)


def test_baking_leaves_a_plain_model_with_the_same_outputs():
    model = net()
    names = list(model.state_dict())
    batch = images().images[:16] / 255
    mask_weights(model, 0.6)
    masked = model(batch)
    bake(model)
    assert torch.equal(model(batch), masked)
    assert sorted(model.state_dict()) == sorted(names)
    assert type(model[0]) is nn.Conv2d


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0.0}, r"share of weights kept, in \(0, 1\], got 0"),
        ({"keep": 1.2}, "share of weights kept"),
        ({"keep": 0.5, "scope": "global"}, "no scope named 'global'"),
        ({"keep": 0.5, "subject": "weight"}, "no subject named 'weight'"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        mask_weights(net(), **options)


def test_a_model_without_weights_to_mask_is_unsupported():
    with pytest.raises(UnsupportedError, match="no convolution or linear layer"):
        mask_weights(nn.Sequential(nn.BatchNorm2d(3)), 0.8)


# --- constraint


def test_with_keep_1_the_constraint_is_the_training_loss():
    model = net()
    train = loader(shuffle=True, augmentation="crop", seed=4)
    found = estimate_constraint(model, train, keep=1.0, masks=2)
    assert found.losses == pytest.approx([mean_loss(model, train)] * 2, rel=1e-6)
    assert found.sd == pytest.approx(0, abs=1e-7)


def test_the_constraint_is_the_mean_over_seeded_masks_and_leaves_all_as_it_was():
    model = net()
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = estimate_constraint(model, loader(), keep=0.7, masks=3)
    again = estimate_constraint(model, loader(), keep=0.7, masks=3)
    assert found == again
    assert len(set(found.losses)) == 3
    assert found.mean == pytest.approx(
        torch.tensor(found.losses, dtype=torch.float64).mean().item()
    )
    assert found.sd == pytest.approx(torch.tensor(found.losses, dtype=torch.float64).std().item())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not model.training


def test_the_constraint_is_recomputed_literally():
    model = net()
    found = estimate_constraint(model, loader(), keep=0.8, masks=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in (model[0], model[3], model[7]):
            scores = torch.empty_like(layer.weight)
            nn.init.kaiming_uniform_(scores, a=math.sqrt(5))
            layer.weight.data *= literal_mask(scores.abs(), 0.8)
    with torch.no_grad():
        loss = F.cross_entropy(model(images().images / 255), images().labels)
    assert found.mean == pytest.approx(loss.item(), rel=1e-5)


def test_no_mask_gives_no_constraint():
    with pytest.raises(UsageError, match="at least one mask"):
        estimate_constraint(net(), loader(), masks=0)


# --- adapters

RECIPE = Recipe(epochs=6, batch_size=16, lr=0.05, augmentation="none")


def test_um_stops_the_loss_at_the_constraint_where_finetuning_does_not():
    from um_bench.adapters import Finetune

    longer = Recipe(epochs=80, batch_size=48, lr=0.1, augmentation="none", schedule="constant")
    tuned = adapt(Finetune(), net(), images(), longer, seed=0)
    held = adapt(UM(constraint=0.5), net(), images(), longer, seed=0)
    assert tuned.losses[-1] < 0.25
    assert held.losses[-1] == pytest.approx(0.5, abs=0.1)
    assert min(held.losses) >= 0.5


def test_um_notes_what_it_estimated():
    notes = adapt(UM(estimate_masks=3), net(), images(), RECIPE, seed=0).notes
    assert notes["constraint"] > 0
    assert notes["constraint_sd"] > 0
    assert notes["constraint_masks"] == 3
    given = adapt(UM(constraint=0.3), net(), images(), RECIPE, seed=0).notes
    assert given.keys() == {"constraint", "starting_loss"}
    assert given["constraint"] == 0.3


@pytest.mark.parametrize("adapter", [UM(constraint=0.3), UM(estimate_masks=2), UMAP()], ids=repr)
def test_um_notes_the_loss_that_it_starts_from(adapter):
    train = loader(seed=0)
    starting_loss = adapter.prepare(net(), train).notes["starting_loss"]
    assert starting_loss == pytest.approx(mean_loss(net(), train), rel=1e-6)


def test_umap_trains_a_mask_over_frozen_weights():
    base = net()
    adapted = adapt(UMAP(constraint=0.3, keep=0.7), base, images(), RECIPE, seed=0)
    for before, after in zip(maskable(base), maskable(adapted.model), strict=True):
        kept = after.weight != 0
        assert torch.equal(after.weight[kept], before.weight[kept])
        assert int((~kept).sum()) == int((1 - 0.7) * kept.numel())
        if before.bias is not None:
            assert torch.equal(before.bias, after.bias)
    assert torch.equal(adapted.model[1].weight, base[1].weight)
    assert not torch.equal(adapted.model[1].running_mean, base[1].running_mean)
    assert adapted.notes["masked_layers"] == 3
    start = adapt(
        UMAP(constraint=0.3, keep=0.7),
        base,
        images(),
        Recipe(epochs=1, lr=1e-9, augmentation="none"),
        seed=0,
    )
    masks = [[w.weight != 0 for w in maskable(m.model)] for m in (start, adapted)]
    assert any(not torch.equal(a, b) for a, b in zip(*masks, strict=True))  # scores have moved


def test_umap_can_train_the_weights_too():
    adapted = adapt(UMAP(constraint=0.3, train_weights=True), net(), images(), RECIPE, seed=0)
    kept = adapted.model[7].weight != 0
    assert not torch.equal(adapted.model[7].weight[kept], net()[7].weight[kept])


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_umap_by_magnitude_drops_the_smallest_weights(scope):
    adapter = UMAP(constraint=0.3, subject="magnitude", train_weights=True, scope=scope)
    adapted = adapt(adapter, net(), images(), RECIPE, seed=0)
    dropped = sum(int((layer.weight == 0).sum()) for layer in maskable(adapted.model))
    total = sum(layer.weight.numel() for layer in maskable(adapted.model))
    expected = int((1 - 0.8) * total)
    if scope == "layer":
        expected = sum(int((1 - 0.8) * layer.weight.numel()) for layer in maskable(adapted.model))
    assert dropped == expected


def test_umap_with_nothing_to_train_is_refused():
    with pytest.raises(UsageError, match="nothing to train"):
        UMAP(subject="magnitude")


def test_umap_works_with_channels_last():
    plain = adapt(UMAP(constraint=0.3), net(), images(), RECIPE, seed=0).model
    other = adapt(
        UMAP(constraint=0.3), net().to(memory_format=torch.channels_last), images(), RECIPE, seed=0
    ).model
    batch = images().images[:8] / 255
    assert torch.isfinite(other(batch)).all()
    for a, b in zip(maskable(plain), maskable(other), strict=True):
        assert int((a.weight == 0).sum()) == int((b.weight == 0).sum())
