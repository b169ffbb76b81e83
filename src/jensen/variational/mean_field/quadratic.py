r"""Packed sums and quadratic forms of x: both are inner products with $\phi(y) = (1, y_i, y_i y_j)_{i \le j}$.

A Gaussian mixture needs a quadratic form of the data for every row and component, and for every component sums of 1,
y and y y' weighted by responsibilities. With phi of shape (F, B), F = (D + 1)(D + 2) / 2, each is one matrix product,
with half the operations of using a Cholesky factor per component, and no (B, K, D) tensor is needed. The disadvantage
is cancellation: far from the origin, compared with the width of a component, digits are lost. Therefore y is x in
coordinates in which the data have mean 0 and covariance I.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """Coordinates y = (x - shift) @ matrix.

    Attributes:
        shift: (D,).
        matrix: (D, D), invertible.
    """

    shift: Float[Tensor, " d"]
    matrix: Float[Tensor, "d d"]

    @classmethod
    def whitening(cls, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]) -> Frame:
        """Coordinates in which this mean and covariance become 0 and I; degenerate directions keep a variance below
        1.
        """
        values, vectors = torch.linalg.eigh(covariance)
        floor = torch.where(values[-1] > 0, 1e-12 * values[-1], 1.0)
        return cls(mean, vectors / values.clamp_min(floor).sqrt())

    def __call__(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        return (x - self.shift.to(x.dtype)) @ self.matrix.to(x.dtype)

    @property
    def log_det(self) -> Tensor:
        """Log of |dy/dx|."""
        log_det: Tensor = torch.linalg.slogdet(self.matrix).logabsdet
        return log_det


def is_definite(matrix: Float[Tensor, "d d"], rounding: Tensor | float = 0.0) -> bool:
    r"""Whether a matrix is symmetric and positive definite beyond rounding, for any units of its coordinates.

    The matrix is scaled to a unit diagonal; its smallest eigenvalue must exceed $D \epsilon$ times the largest, plus
    what rounding of the data could contribute if the true matrix were singular.

    Args:
        matrix: (D, D).
        rounding: for a covariance, the rounding error of each coordinate of the data, (D,).

    >>> thin = torch.tensor([[1.0, 1e-9], [1e-9, 1e-12]])  # correlation 1e-3
    >>> is_definite(thin), is_definite(torch.tensor([[1.0, 3.0], [3.0, 9.0]]))
    (True, False)
    """
    std = matrix.diagonal().clamp_min(0).sqrt()
    if not torch.allclose(matrix, matrix.T) or not bool((std > rounding).all()):
        return False
    values = torch.linalg.eigvalsh(matrix / std[:, None] / std)
    floor = len(std) * torch.finfo(matrix.dtype).eps * values[-1]
    return bool(values[0] > floor + (rounding / std).square().max())


def features(y: Float[Tensor, "b d"]) -> Float[Tensor, "f b"]:
    """The features phi, one column per row of y.

    >>> features(torch.tensor([[2.0, 3.0]])).flatten()
    tensor([1., 2., 3., 4., 6., 9.])
    """
    columns = y.T.contiguous()
    products = (columns[i] * columns[i:] for i in range(len(columns)))
    return torch.cat([torch.ones_like(columns[:1]), columns, *products])


def forms(
    constant: Float[Tensor, " k"], centre: Float[Tensor, "k d"], matrix: Float[Tensor, "k d d"]
) -> Float[Tensor, "k f"]:
    """Coefficients of c + (y - m)' Q (y - m), to be multiplied with `features(y)`; each Q symmetric.

    >>> y, one = torch.tensor([[2.0, 3.0]]), torch.ones(1)
    >>> forms(one, torch.ones(1, 2), torch.tensor([[[1.0, 0.5], [0.5, 3.0]]])) @ features(y)  # 1 + 1 + 2 + 12
    tensor([[16.]])
    """
    pull = (matrix @ centre[..., None])[..., 0]
    rows, columns = torch.triu_indices(*matrix.shape[-2:], device=matrix.device)
    doubled = torch.where(rows == columns, 1.0, 2.0).to(matrix)
    constant = constant + (pull * centre).sum(-1)
    return torch.cat([constant[:, None], -2 * pull, doubled * matrix[:, rows, columns]], dim=1)


def unpacked(sums: Float[Tensor, "k f"], dims: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of 1, (K,), of y, (K, D), and of y y', (K, D, D), from `weights @ features(y).T`."""
    count, first, packed = sums[:, 0], sums[:, 1 : dims + 1], sums[:, dims + 1 :]
    rows, columns = torch.triu_indices(dims, dims, device=sums.device)
    second = sums.new_empty(len(sums), dims, dims)
    second[:, rows, columns] = packed
    second[:, columns, rows] = packed
    return count, first, second


def normalised(log_joint: Float[Tensor, "k b"]) -> tuple[Float[Tensor, "k b"], Float[Tensor, " b"]]:
    """Softmax over components and its log normaliser, in place."""
    top = log_joint.amax(0)
    weights = log_joint.sub_(top).exp_()
    total = weights.sum(0)
    return weights.div_(total), top + total.log()


def row_chunks(x: Tensor, rows: int | None) -> Iterator[slice]:
    """Slices of this number of rows; by default the number that is fastest.

    On a CPU that is the number whose features fit into a core's cache, elsewhere 512 MiB of features.
    """
    size = (x.shape[1] + 1) * (x.shape[1] + 2) // 2 * x.element_size()
    held = min(2048, 2**26 // size) if x.device.type == "cpu" else 2**29 // size
    step = rows or max(16, held)
    return (slice(start, start + step) for start in range(0, len(x), step))
