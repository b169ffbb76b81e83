"""Augmentation of pictures: what each transform preserves, how it draws, and the adaptive probability."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from jensen.adversarial import (
    TRANSFORMS,
    AdaptiveAugment,
    Brightness,
    Contrast,
    Crop,
    Cutout,
    Flip,
    Jitter,
    Mosaic,
    Saturation,
    Translation,
    augment,
)
from jensen.core.seeding import drawing, generator
from jensen.recipes.families import translation

F64 = torch.float64

# -- colour, translation and cutout -----------------------------------------------------------------------------------

ALL = [Brightness(), Saturation(), Contrast(), Translation(0.3), Cutout()]


@pytest.mark.parametrize("transform", ALL, ids=lambda v: type(v).__name__)
def test_transforms_are_differentiable_and_treat_pictures_apart(transform):
    x = torch.randn(2, 3, 5, 4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: augment(v, [transform], generator=generator(3)), x)
    with torch.no_grad():
        changed = augment(
            x + torch.tensor([0.0, 5.0], dtype=F64).reshape(2, 1, 1, 1), [transform], generator=generator(3)
        )
        assert torch.equal(changed[0], augment(x, [transform], generator=generator(3))[0])
        same = augment(x[:1].expand(8, -1, -1, -1), [transform], generator=generator(3))
        assert bool((same != same[:1]).any())  # one draw per picture


def test_what_each_transform_keeps_and_changes():
    """Exact identities on every picture, and the range of the draws over 4,000."""
    x = torch.rand(4000, 3, 4, 4, dtype=F64) - 0.5

    def run(transform):
        with drawing(generator(4)):
            return transform(x)

    def around(centre):
        return x - centre

    shift = run(Brightness(0.5)) - x
    assert bool(((shift - shift[:, :1, :1, :1]).abs() < 1e-12).all())
    grey = x.mean(1, keepdim=True)
    factor = (run(Saturation()) - grey) / around(grey)
    mean = x.mean((1, 2, 3), keepdim=True)
    stretch = (run(Contrast()) - mean) / around(mean)
    for found, low, high in ((shift, -0.5, 0.5), (factor, 0.0, 2.0), (stretch, 0.5, 1.5)):
        of_picture = found[:, 0, 0, 0]
        assert float((found - of_picture.reshape(-1, 1, 1, 1)).abs().median()) < 1e-12
        width = high - low
        assert low < float(of_picture.min()) < low + 0.01 * width
        assert high - 0.01 * width < float(of_picture.max()) < high
        assert of_picture.mean().item() == pytest.approx((low + high) / 2, abs=4 * width / math.sqrt(12 * 4000))


def test_translation_moves_and_cutout_hides():
    x = torch.rand(3000, 2, 8, 6, dtype=F64) + 1
    moved = augment(x, [Translation(0.25)], generator=generator(5))
    seen = set()
    for k in range(200):
        matches = []
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                rolled = torch.zeros_like(x[k])
                rows, columns = slice(max(dy, 0), 8 + min(dy, 0)), slice(max(dx, 0), 6 + min(dx, 0))
                from_rows, from_columns = slice(max(-dy, 0), 8 + min(-dy, 0)), slice(max(-dx, 0), 6 + min(-dx, 0))
                rolled[:, rows, columns] = x[k, :, from_rows, from_columns]
                if torch.equal(rolled, moved[k]):
                    matches.append((dy, dx))
        assert len(matches) == 1
        seen.add(matches[0])
    assert {v for v, _ in seen} == {-2, -1, 0, 1, 2}
    assert {v for _, v in seen} == {-2, -1, 0, 1, 2}
    hidden = augment(x, [Cutout(0.5)], generator=generator(6)) == 0
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    rows, columns = hidden[:, 0].any(2).sum(1), hidden[:, 0].any(1).sum(1)
    assert torch.equal(hidden[:, 0].sum((1, 2)), rows * columns)  # a rectangle
    assert (rows.max().item(), columns.max().item()) == (4, 3)
    # of a middle uniform over the 9 edges of 8 rows, 4 are hidden less what falls outside: 2, 3, 4, 4, 4, 4, 4, 3, 2
    assert rows.double().mean().item() == pytest.approx(30 / 9, abs=4 * rows.double().std().item() / math.sqrt(3000))


@pytest.mark.parametrize(
    ("size", "shares"),
    [
        (8, [3 / 9, *[4 / 9] * 6, 3 / 9]),  # 4 hidden: the first is -2 to 6
        (7, [3 / 8, *[4 / 8] * 5, 3 / 8]),  # 3.5 rounded to 4: -2 to 5
        (6, [2 / 6, *[3 / 6] * 4, 2 / 6]),  # 3 hidden: -1 to 4
        (5, [2 / 5, *[3 / 5] * 3, 2 / 5]),  # 2.5 rounded to 3: -1 to 3
    ],
)
def test_cutout_hides_each_row_and_column_as_often_as_the_one_opposite(size, shares):
    """Exact probabilities, n = 40,000, tolerance four standard errors."""
    n, expected = 40_000, torch.tensor(shares, dtype=F64)
    assert torch.equal(expected, expected.flip(0))
    with drawing(generator(9)):
        hidden = Cutout()(torch.ones(n, 1, size, size))[:, 0] == 0
    for found in (hidden.any(2), hidden.any(1)):
        assert bool(((found.double().mean(0) - expected).abs() < 4 * (expected * (1 - expected) / n).sqrt()).all())


@pytest.mark.parametrize(
    ("ratio", "size", "pixels"),
    [(0.125, 4, 1), (0.125, 12, 2), (0.125, 20, 3), (0.125, 3, 0), (0.3, 8, 2), (0.35, 8, 3), (0.0, 9, 0), (0.5, 5, 3)],
)
def test_lengths_are_to_the_nearest_pixel_and_halves_up(ratio, size, pixels):
    """All shifts up to the largest occur among 400 pictures, and the cutout has at most its largest size."""
    numbers = 1 + torch.arange(size, dtype=F64).expand(400, 1, size, size)
    middle = Translation(ratio)(numbers)[:, 0, size // 2, size // 2]  # the number of the source pixel, or 0
    shifts = {int(v) - 1 - size // 2 for v in middle if v}
    assert shifts == {v for v in range(-pixels, pixels + 1) if 0 <= size // 2 + v < size}
    assert (Cutout(ratio)(numbers) == 0).any(3).sum(2).max().item() == pixels


def test_defaults_are_those_of_the_paper_and_reach_the_recipes():
    published = (Brightness(0.5), Saturation(), Contrast(), Translation(0.125), Cutout(0.5))
    assert published == TRANSFORMS
    assert AdaptiveAugment().transforms == TRANSFORMS
    assert (Flip(), Crop(), Jitter()) == (Flip(share=0.5), Crop(least=0.75), Jitter(amount=0.05, fill=-1.0))
    x = torch.rand(20, 3, 8, 8)
    assert torch.equal(augment(x, generator=generator(1)), augment(x, TRANSFORMS, 1.0, generator=generator(1)))
    named = translation.TRANSFORMS
    assert set(named) == set(get_args(translation.Transforms))
    assert named["colour"] + named["translation"] + named["cutout"] == TRANSFORMS
    assert named["crop"] + named["mosaic"] + named["flip"] == (Crop(), Mosaic(), Flip())


EVERY = [*ALL, Flip(), Crop(), Jitter(), Mosaic()]


@pytest.mark.parametrize("transform", EVERY, ids=lambda t: type(t).__name__)
def test_no_pictures_pass_through(transform):
    nothing = torch.zeros(0, 3, 6, 5, requires_grad=True)
    for found in (transform(nothing), augment(nothing, [transform], 0.5)):
        assert found.shape == (0, 3, 6, 5)
        assert found.requires_grad


@pytest.mark.parametrize(
    ("kind", "name", "wanted", "wrong"),
    [
        (Brightness, "amount", "finite and at least 0", (-0.1, math.inf, math.nan)),
        (Translation, "ratio", "from 0 to 1", (-0.1, 2.0, math.nan)),
        (Cutout, "ratio", "from 0 to 1", (-1.0, 1.1, math.nan)),
        (Flip, "share", "from 0 to 1", (-0.1, 7.0, math.nan)),
        (Crop, "least", "from 0 to 1", (-1.0, 3.0, math.nan)),
        (Jitter, "amount", "finite and at least 0", (-0.1, math.inf, math.nan)),
        (Jitter, "fill", "finite", (-math.inf, math.nan)),
        (
            lambda probability: augment(torch.ones(1, 1, 2, 2), [], probability),
            "probability",
            "from 0 to 1",
            (math.nan,),
        ),
    ],
)
def test_wrong_settings_are_refused_by_name(kind, name, wanted, wrong):
    for value in wrong:
        with pytest.raises(ValueError) as refusal:
            kind(**{name: value})
        assert str(refusal.value) == f"{name} must be {wanted}, got {value}"
    for value in (0.0, 1.0):
        kind(**{name: value})


def test_probability_and_equal_draws():
    """The share of changed pictures, n = 20,000, tolerance 4 standard errors; equal generators give equal
    augmentations.
    """
    x = torch.ones(20_000, 1, 2, 2)
    changed = (augment(x, [Brightness()], 0.3, generator=generator(7)) != 1).flatten(1).any(1)
    assert changed.double().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 20_000))
    assert torch.equal(augment(x, probability=0.0), x)
    real, fake = torch.randn(9, 3, 4, 4), torch.randn(9, 3, 4, 4)
    both = [augment(v, [Translation(), Brightness()], 0.5, generator=generator(8)) for v in (real, fake, real + fake)]
    tint = augment(torch.zeros(9, 3, 4, 4), [Translation(), Brightness()], 0.5, generator=generator(8))
    torch.testing.assert_close(both[0] + both[1] - tint, both[2])  # affine, and the same for all pictures
    with pytest.raises(ValueError, match=r"probability must be from 0 to 1, got 1\.5"):
        augment(x, probability=1.5)
    with pytest.raises(ValueError, match=r"must be \(B, C, H, W\), got \(3, 4\)"):
        augment(torch.zeros(3, 4))


def test_adaptive_probability_follows_the_signs():
    ada = AdaptiveAugment(target=0.6, ramp=1000, interval=100)
    for _ in range(3):
        ada.update(torch.ones(50))
    assert ada.probability == pytest.approx(0.1)  # 100 pictures counted, 50 wait
    ada.update(torch.ones(50))
    assert ada.probability == pytest.approx(0.2)
    ada.update(torch.cat([torch.ones(79), -torch.ones(21)]))  # r = 0.58, just below the target
    assert ada.probability == pytest.approx(0.1)
    ada.update(torch.cat([torch.ones(81), -torch.ones(19)]))  # r = 0.62, just above
    assert ada.probability == pytest.approx(0.2)
    ada.update(-torch.ones(5000))
    assert ada.probability == 0
    ada.update(torch.ones(5000))
    assert ada.probability == 1
    ada.update(
        torch.tensor([[3.0, -1.0], [1.0, -3.0]]).reshape(2, 1, 1, 2).repeat(50, 1, 1, 1)
    )  # patches: 0 on average
    assert ada.probability == pytest.approx(0.9)


def test_adaptive_probability_counts_every_picture():
    """In half precision, which cannot represent 257; with logits of 0, whose sign is 0; and with no logits at all."""
    for dtype in (torch.bfloat16, torch.float32):
        ada = AdaptiveAugment(target=0.998, ramp=257, interval=257)
        ada.update(torch.ones(257, dtype=dtype))  # r = 1, and 256 / 257 = 0.996
        assert ada.probability == 1
        ada.update(-torch.ones(257, dtype=dtype))
        assert ada.probability == 0
    ada = AdaptiveAugment(target=0.4, ramp=10, interval=10)
    ada.update(torch.tensor([1.0] * 6 + [0.0] * 3 + [-1.0]))  # r = 0.5
    assert ada.probability == 1
    state = {name: v.clone() for name, v in ada.state_dict().items()}
    for nothing in (torch.zeros(0), torch.zeros(0, 1, 3, 3)):
        ada.update(nothing)
    assert all(torch.equal(v, ada.state_dict()[name]) for name, v in state.items())


def test_adaptive_augmentation_resumes_exactly():
    def run(ada, steps):
        made = []
        for k in steps:
            made.append(ada(torch.ones(8, 1, 4, 4)))
            ada.update(torch.randn(7) + 0.1 * k)
        return made

    straight, before, after = (AdaptiveAugment(ramp=50, interval=10) for _ in range(3))
    torch.manual_seed(1)
    whole = run(straight, range(20))
    torch.manual_seed(1)
    first = run(before, range(9))
    after.load_state_dict(before.state_dict())
    second = run(after, range(9, 20))
    assert all(torch.equal(a, b) for a, b in zip(whole, first + second, strict=True))
    assert 0 < straight.probability == after.probability
    with pytest.raises(ValueError, match=r"target must be between -1 and 1, got 1\.0"):
        AdaptiveAugment(target=1.0)
    with pytest.raises(ValueError, match="at least 1 picture, got 0 and 256"):
        AdaptiveAugment(ramp=0)


# -- crops, flips, jitter and mosaics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [Flip(), Crop(0.5), Jitter(0.1), Mosaic()], ids=lambda t: type(t).__name__)
def test_new_transforms_are_differentiable(transform):
    x = torch.randn(3, 2, 5, 4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: augment(v, [transform], generator=generator(3)), x)


def test_a_flip_of_a_flip_is_nothing_and_half_are_flipped():
    """n = 4,000, tolerance four standard errors."""
    x = torch.rand(4000, 2, 3, 5)
    assert torch.equal(Flip(1.0)(Flip(1.0)(x)), x)
    assert torch.equal(Flip(1.0)(x)[:, :, :, 0], x[:, :, :, -1])
    assert torch.equal(Flip(0.0)(x), x)
    flipped = Flip()(x)
    whole = (flipped == x.flip(3)).flatten(1).all(1)
    assert bool((whole | (flipped == x).flatten(1).all(1)).all())
    assert whole.double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(4000))


def test_a_crop_enlarges_a_window_that_lies_inside():
    """On a linear ramp, the window of relative size s at p has the values p + s x: its slope s is uniform on [least,
    1], and both its ends lie inside.
    """
    n, side = 4000, 32
    ramp = ((torch.arange(side, dtype=F64) + 0.5) / side).expand(n, 1, side, side)
    with drawing(generator(0)):
        found = Crop(0.5)(ramp)
    inner = found[:, 0, 0, 1:-1]  # only the edge is known outside the centres of the outermost pixels
    slope = inner.diff(dim=1) * side
    assert torch.allclose(slope, slope[:, :1].expand_as(slope), atol=1e-9)
    share = slope[:, 0]
    assert 0.5 < float(share.min()) < 0.51
    assert 0.99 < float(share.max()) < 1
    assert share.mean().item() == pytest.approx(0.75, abs=4 * 0.5 / math.sqrt(12 * n))
    start = inner[:, 0] - share * 1.5 / side
    assert float(start.min()) > -1e-9
    assert float((start + share).max()) < 1 + 1e-9
    free = start / (1 - share)  # uniform on [0, 1] for all shares
    assert free.mean().item() == pytest.approx(0.5, abs=4 / math.sqrt(12 * n))
    x = torch.rand(3, 2, 6, 7, dtype=F64)
    assert torch.allclose(Crop(1.0)(x), x, atol=1e-12)
    assert torch.allclose(Crop(0.3)(torch.ones_like(x)), torch.ones_like(x))


def test_jitter_is_an_affine_map_with_normal_coefficients():
    """Applied to the coordinates x = p_1 and x = p_2 it gives the rows of (I + aE) p + ae; n = 4,000, tolerance four
    standard errors, a = 0.05.
    """
    n, side, amount = 4000, 32, 0.05
    p = (torch.arange(side, dtype=F64) + 0.5) * 2 / side - 1
    columns = p.expand(side, side)
    with drawing(generator(0)):
        found = Jitter(amount)(torch.stack([columns, columns.T]).expand(n, 2, side, side))
    inner = found[:, :, 8:-8, 8:-8]  # not affected by the outside, up to coefficients of 8 standard deviations
    right, down = inner.diff(dim=3) * side / 2, inner.diff(dim=2) * side / 2
    middle = inner[:, :, 7:9, 7:9].mean((2, 3))
    coefficients = torch.cat([right[:, :, 0, 0], down[:, :, 0, 0], middle], 1)
    for slope, column in ((right, 0), (down, 2)):  # one slope over the whole picture
        assert torch.allclose(slope, coefficients[:, column : column + 2, None, None].expand_as(slope), atol=1e-9)
    normal = (coefficients - torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])) / amount
    assert normal.mean(0).abs().max() < 4 / math.sqrt(n)
    assert (normal.T.cov() - torch.eye(6)).abs().max() < 4 * math.sqrt(2 / n)
    assert normal.pow(4).mean().item() == pytest.approx(3, abs=4 * math.sqrt(96 / (6 * n)))  # normal, not uniform
    x = torch.rand(3, 2, 6, 7, dtype=F64)
    assert torch.allclose(Jitter(0.0)(x), x, atol=1e-12)
    assert torch.allclose(Jitter(0.3, fill=0.25)(torch.full_like(x, 0.25)), torch.tensor(0.25, dtype=F64))


def test_a_mosaic_keeps_pixels_at_their_places():
    """All pixels of a picture hold the picture's number, so the source of each pixel can be read."""
    n, height, width = 400, 6, 5
    place = torch.arange(height * width).view(1, 1, height, width)
    x = (torch.arange(n).view(-1, 1, 1, 1) * 1000 + place).double()
    with drawing(generator(1)):
        found = Mosaic()(x)
    source = (found // 1000).long()[:, 0]
    assert torch.equal((found % 1000).long()[:, 0], place[0].expand(n, 1, height, width)[:, 0])
    cuts = set()
    for k in range(n):
        own = source[k] == k
        rows, columns = own.any(1).sum().item(), own.any(0).sum().item()
        kinds = source[k].unique()
        assert len(kinds) <= 4
        if rows and columns and len(kinds) == 4:
            assert bool(own[:rows, :columns].all())  # the upper left part is its own
            for part in (source[k][:rows, columns:], source[k][rows:, :columns], source[k][rows:, columns:]):
                assert len(part.unique()) == 1
            cuts.add((rows, columns))
    assert cuts == {(r, c) for r in range(1, height) for c in range(1, width)}
    one = torch.rand(1, 1, 4, 4)
    assert torch.equal(Mosaic()(one), one)
