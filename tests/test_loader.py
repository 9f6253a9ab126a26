import dataclasses
import itertools

import pytest
import torch
from torchvision.transforms.functional import pil_to_tensor, to_pil_image, to_tensor

from um_bench.data import ImageSet, Loader, fingerprint
from um_bench.data.loader import _cropped
from um_bench.errors import UsageError
from um_bench.suite import Recipe

PADDING = {"none": 0, "crop": 1, "crop-flip": 4}


def image_set(count=10, height=6, width=5, seed=0):
    """Random images, so that each crop of each is unlike all others; labels count up."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, height, width), generator=generator).byte()
    labels = torch.arange(count)
    return ImageSet("random", images, labels, fingerprint(images, labels))


def whole(loader, epoch=0):
    """All images and labels of an epoch."""
    images, labels = zip(*loader.epoch(epoch), strict=True)
    return torch.cat(images), torch.cat(labels)


def crop(image, padding, top, left, flip):
    """One image (3, H, W) padded with zeros, cut out and mirrored, pixel by pixel."""
    _, height, width = image.shape
    result = torch.zeros_like(image)
    for channel, row, column in itertools.product(range(3), range(height), range(width)):
        y, x = row + top - padding, column + left - padding
        target = width - 1 - column if flip else column
        if 0 <= y < height and 0 <= x < width:
            result[channel, row, target] = image[channel, y, x]
    return result


def crops(image, augmentation):
    """Every image that an augmentation may make of one -> how (bytes -> top, left, flip)."""
    padding = PADDING[augmentation]
    offsets = range(2 * padding + 1)
    flips = (False, True) if augmentation == "crop-flip" else (False,)
    return {
        crop(image, padding, *how).numpy().tobytes(): how
        for how in itertools.product(offsets, offsets, flips)
    }


# --- plain batches ------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (10, 5), (10, 1), (10, 64), (1, 1)])
def test_every_image_comes_once_in_order(count, batch_size):
    data = image_set(count)
    loader = Loader(data, batch_size=batch_size)
    batches = list(loader)
    assert len(batches) == len(loader) == -(-count // batch_size)
    assert {len(labels) for _, labels in batches[:-1]} <= {batch_size}
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.labels)
    assert sum(len(images) for images, _ in batches) == count


def test_images_are_the_floats_that_torchvision_makes():
    data = image_set()
    images, labels = whole(Loader(data, batch_size=3))
    expected = torch.stack([to_tensor(to_pil_image(image)) for image in data.images])
    assert torch.equal(images, expected)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64


def test_every_value_from_0_to_255_is_exact():
    values = torch.arange(256, dtype=torch.uint8)
    images = values.view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    data = ImageSet("values", images, torch.zeros(256, dtype=torch.int64), "")
    loaded, _ = whole(Loader(data, batch_size=100))
    assert loaded[:, 0, 0, 0].tolist() == [(torch.tensor(float(v)) / 255).item() for v in values]
    assert loaded.min() == 0
    assert loaded.max() == 1


def test_a_loader_changes_nothing_in_its_set():
    data = image_set()
    loader = Loader(data, batch_size=4, shuffle=True, augmentation="crop-flip")
    for images, labels in loader:
        images.zero_()
        labels.fill_(-5)
    assert fingerprint(data.images, data.labels) == data.fingerprint


def test_a_loader_cannot_be_changed():
    loader = Loader(image_set(), batch_size=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        loader.batch_size = 8
    assert (loader.batch_size, loader.device, len(loader.data)) == (4, "cpu", 10)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2, "augmentation": "crop_flip"}, "Did you mean crop-flip"),
    ],
)
def test_what_cannot_be_a_loader(wrong, message):
    with pytest.raises(UsageError, match=message):
        Loader(image_set(), **wrong)


def test_a_loader_needs_images():
    with pytest.raises(UsageError, match="random has no images"):
        Loader(image_set(0), batch_size=1)


@pytest.mark.parametrize("augmentation", PADDING)
def test_a_recipe_and_a_loader_know_the_same_augmentations(augmentation):
    recipe = Recipe(epochs=1, augmentation=augmentation)
    assert len(Loader(image_set(), batch_size=4, augmentation=recipe.augmentation)) == 3


# --- order --------------------------------------------------------------------------------------


def test_shuffling_loses_and_repeats_nothing():
    loader = Loader(image_set(100), batch_size=7, shuffle=True)
    _, labels = whole(loader)
    assert labels.tolist() != list(range(100))
    assert labels.sort().values.tolist() == list(range(100))


@pytest.mark.parametrize("augmentation", PADDING)
def test_shuffling_keeps_images_and_labels_together(augmentation):
    data = image_set(12, 4, 4)
    loader = Loader(data, batch_size=5, shuffle=True, augmentation=augmentation)
    images, labels = whole(loader)
    for image, label in zip(images, labels.tolist(), strict=True):
        pixels = (image * 255).round().byte().numpy().tobytes()
        assert pixels in crops(data.images[label], augmentation)


def test_every_order_is_equally_likely():
    loader = Loader(image_set(4), batch_size=4, shuffle=True)
    first = torch.bincount(torch.stack([whole(loader, e)[1][0] for e in range(800)]), minlength=4)
    # 200 each with a standard deviation of 12.
    assert first.min() > 140
    assert first.max() < 260


# --- augmentation -------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crops_are_what_a_loop_over_pixels_makes(padding):
    data = image_set(30, 6, 5)
    generator = torch.Generator().manual_seed(padding)
    top, left = torch.randint(0, 2 * padding + 1, (2, 30), generator=generator)
    flip = torch.rand(30, generator=generator) < 0.5
    found = _cropped(data.images, padding, top, left, flip)
    for index, image in enumerate(data.images):
        how = (int(top[index]), int(left[index]), bool(flip[index]))
        assert torch.equal(found[index], crop(image, padding, *how)), how


def test_the_loop_over_pixels_is_torchvisions_pad_crop_and_flip():
    from torchvision.transforms.functional import crop as cut
    from torchvision.transforms.functional import hflip, pad

    image = image_set(1).images[0]
    expected = pil_to_tensor(hflip(cut(pad(to_pil_image(image), 4), 3, 7, 6, 5)))
    assert torch.equal(crop(image, 4, 3, 7, True), expected)


@pytest.mark.parametrize("augmentation", PADDING)
def test_each_augmentation_makes_all_of_its_crops_and_no_other(augmentation):
    # Many copies of one image.
    image = image_set(1).images
    data = ImageSet("copies", image.expand(4000, -1, -1, -1), torch.zeros(4000).long(), "")
    images, _ = whole(Loader(data, batch_size=512, augmentation=augmentation))
    known = crops(image[0], augmentation)
    seen = [known[i.numpy().tobytes()] for i in (images * 255).round().byte()]
    assert set(seen) == set(known.values())
    # Each of top, left and flip is uniform: 4,000 draws, within five standard deviations.
    for position in range(3):
        values = [how[position] for how in seen]
        kinds = len({how[position] for how in known.values()})
        for value in set(values):
            share, expected = values.count(value) / 4000, 1 / kinds
            assert abs(share - expected) <= 5 * (expected * (1 - expected) / 4000) ** 0.5


def test_top_left_and_flip_are_drawn_apart():
    image = image_set(1).images
    data = ImageSet("copies", image.expand(4000, -1, -1, -1), torch.zeros(4000).long(), "")
    images, _ = whole(Loader(data, batch_size=4000, augmentation="crop-flip"))
    known = crops(image[0], "crop-flip")
    seen = [known[i.numpy().tobytes()] for i in (images * 255).round().byte()]
    drawn = torch.tensor(seen, dtype=torch.float64).T
    assert (torch.corrcoef(drawn) - torch.eye(3)).abs().max() < 0.08


def test_padding_is_black():
    data = ImageSet("white", torch.full((50, 3, 4, 4), 255).byte(), torch.zeros(50).long(), "")
    images, _ = whole(Loader(data, batch_size=50, augmentation="crop-flip"))
    assert set(images.unique().tolist()) == {0.0, 1.0}


# --- what decides an epoch ----------------------------------------------------------------------

AUGMENTED = {"batch_size": 16, "shuffle": True, "augmentation": "crop-flip", "seed": 3}


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_same_seed_and_epoch_give_the_same_batches():
    data = image_set(50)
    one, other = Loader(data, **AUGMENTED), Loader(data, **AUGMENTED)
    assert same(whole(one, 2), whole(other, 2))
    assert same(whole(one, 2), whole(one, 2))
    assert same(whole(one), [torch.cat(t) for t in zip(*one, strict=True)])


def test_the_batch_size_does_not_change_what_is_drawn():
    data = image_set(50)
    assert same(
        whole(Loader(data, **AUGMENTED)), whole(Loader(data, **AUGMENTED | {"batch_size": 50}))
    )


def test_epochs_taken_out_of_order_are_the_same():
    loader = Loader(image_set(50), **AUGMENTED)
    in_order = [whole(loader, epoch) for epoch in range(3)]
    assert same(in_order[2], whole(loader, 2))
    one, two = loader.epoch(1), loader.epoch(2)
    interleaved = list(zip(one, two, strict=True))
    assert same(in_order[2], [torch.cat([two[i] for _, two in interleaved]) for i in (0, 1)])


@pytest.mark.parametrize(("seed", "epoch"), [(3, 1), (4, 0), (0, 3), (-3, 0)])
def test_another_seed_or_epoch_gives_other_batches(seed, epoch):
    data = image_set(50)
    reference = whole(Loader(data, **AUGMENTED))
    assert not same(reference, whole(Loader(data, **AUGMENTED | {"seed": seed}), epoch))


def test_no_two_of_many_seeds_and_epochs_agree():
    data = image_set(50)
    orders = {
        tuple(whole(Loader(data, **AUGMENTED | {"seed": seed}), epoch)[1].tolist())
        for seed in range(8)
        for epoch in range(8)
    }
    assert len(orders) == 64


def test_torchs_own_generator_is_neither_read_nor_moved():
    loader = Loader(image_set(50), **AUGMENTED)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = whole(loader)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(first, whole(loader))


@pytest.mark.gpu
@pytest.mark.parametrize("augmentation", PADDING)
def test_a_gpu_sees_the_same_batches(augmentation):
    data = image_set(500, 32, 32)
    settings = AUGMENTED | {"augmentation": augmentation}
    on_gpu = whole(Loader(data, device="cuda", **settings), 1)
    assert {t.device.type for t in on_gpu} == {"cuda"}
    assert same([t.cpu() for t in on_gpu], whole(Loader(data, **settings), 1))
