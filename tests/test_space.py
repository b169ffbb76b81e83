"""Spaces and conditions: class names as numbers and back, levels."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter

from jensen.data.space import Classes, Space, Text


def test_conditions_go_to_numbers_and_back():
    for cond, texts in ((Classes(("cat", "dog")), ["dog", "cat", "dog"]), (Text("abc", 3), ["cab", "aaa"])):
        encoded = cond.encode(texts)
        assert encoded.shape == (len(texts), cond.width)
        assert int(encoded.max()) < cond.size
        assert cond.decode(encoded) == texts
        assert cond.encode([]).shape == (0, cond.width)


@pytest.mark.parametrize(
    ("cond", "text", "said"),
    [
        (Classes(("cat", "dog")), "cow", "a class must be one of cat, dog, got 'cow'"),
        (Text("0123", 3), "01", "texts must be 3 characters of '0123', got '01'"),
        (Text("0123", 3), "01x", "texts must be 3 characters of '0123', got '01x'"),
    ],
)
def test_unknown_conditions_are_refused(cond, text, said):
    with pytest.raises(ValueError, match=said):
        cond.encode([text])


def test_a_space_comes_back_from_json():
    adapter = TypeAdapter(Space)
    for cond in (None, Classes(("0", "1")), Text("01", 4)):
        space = Space((1, 8, 8), 17, 0.1, 0.5, cond, 100, Space((1, 8, 8), 2))
        assert adapter.validate_json(adapter.dump_json(space)) == space


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_settled_samples_are_on_the_nearest_level(levels):
    grid = torch.linspace(-1, 1, levels, dtype=torch.float64)
    x = torch.linspace(-1.3, 1.3, 1001, dtype=torch.float64)
    nearest = grid[(x[:, None] - grid).abs().argmin(1)]
    away = (Space((1,), levels).settled(x) - nearest).abs()
    assert float(away.max()) < 1e-12 or levels == 2  # where two levels are equally near either will do
    assert float((away > 1e-12).double().mean()) < 0.01
    assert torch.equal(Space((1,)).settled(x), x)


STYLED = Text("abc ", 3, 2, styles=(("serif", "sans"), ("red", "blue", "green", "teal")))


def test_styles_are_named_after_the_text():
    """Each kind of style has a number: 0 without a name."""
    texts = ["ab", "abc blue", "cab green serif", "ba teal sans"]
    rows = STYLED.encode(texts)
    assert rows.tolist() == [[0, 1, 3, 0, 0], [0, 1, 2, 0, 2], [2, 0, 1, 1, 3], [1, 0, 3, 2, 4]]
    assert STYLED.decode(rows) == ["ab", "abc blue", "cab serif green", "ba sans teal"]
    assert STYLED.decode(STYLED.legible(rows)) == ["ab", "abc", "cab", "ba"]
    assert (STYLED.width, STYLED.size) == (5, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "texts must be 2 to 3 characters of 'abc', got 'a'"),
        ("", "texts must be 2 to 3 characters of 'abc', got ''"),
        ("abca red", "texts must be 2 to 3 characters of 'abc', got 'abca'"),
        ("ab bold", "styles must be among serif, sans; red, blue, green, teal, got 'bold'"),
        ("ab red blue", "a text must have one style of a kind, got red and blue"),
    ],
)
def test_texts_and_styles_that_are_not_known(text, message):
    with pytest.raises(ValueError) as caught:
        STYLED.encode([text])
    assert str(caught.value) == message


@pytest.mark.parametrize("styles", [((),), (("a", "a"),), (("a",), ("a",)), (("a b",),), (("",),)])
def test_styles_need_names_that_differ(styles):
    with pytest.raises(ValueError, match="names of styles must be different words"):
        Text("ab", 2, styles=styles)
