"""Two translators between two kinds of pictures, one for each direction."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.modes import evaluating
from jensen.core.shapes import checked

SIDES = ("a", "b")


class CycleGAN(nn.Module):
    r"""$G: A \to B$ and $F: B \to A$: the model of cycle-consistent and of paired training.

    Args:
        a_to_b: module from pictures of side a (B, *event of a) to pictures of side b (B, *event of b).
        b_to_a: the opposite direction.

    Source: Zhu et al. (2017), section 3.

    >>> import torch
    >>> model = CycleGAN(nn.Softplus(), nn.Identity())
    >>> model.translate(torch.zeros(1), to="b")
    tensor([0.6931])
    """

    def __init__(self, a_to_b: nn.Module, b_to_a: nn.Module):
        super().__init__()
        self.a_to_b, self.b_to_a = a_to_b, b_to_a

    @checked
    def translate(self, x: Float[Tensor, "b ..."], to: str = "b") -> Tensor:
        """Translate pictures of the other side to the side `to`, in evaluation mode.

        Args:
            x: (B, *event).
            to: "b" for pictures of a, "a" for pictures of b.

        Raises:
            ValueError: unless the side is "a" or "b".
        """
        if to not in SIDES:
            raise ValueError(f"to must be a or b, got {to!r}")
        with evaluating(self):
            made: Tensor = (self.a_to_b if to == "b" else self.b_to_a)(x)
        return made

    def round_trip(self, x: Tensor, via: str = "b") -> Tensor:
        """Round trip: F(G(x)) for x of side a, via "b"; G(F(x)) for x of side b, via "a".

        Raises:
            ValueError: unless the side is "a" or "b".
        """
        there = self.translate(x, to=via)
        return self.translate(there, to="a" if via == "b" else "b")
