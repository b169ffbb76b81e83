"""Networks whose outputs serve as features of pictures: fixed random convolutions, and a classifier of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from jensen.core.protocols import Indexed
from jensen.core.seeding import begin_globally, generator
from jensen.core.shapes import check_count
from jensen.metrics.confusion import check_classes

COARSE = 4  # grid size at which the convolutions end, in pixels
CHANNELS, LEARNED, WIDTH = 16, 32, 32  # channels of the random convolutions and of the classifier, its last width
SMALL = 1024  # largest number of dimensions for which the classifier is fully connected
SEED = 20_260  # seed of the random weights
BATCH = 64  # batch size of the classifier's training
LEAST, MOST = 400, 1000  # steps of the classifier's training


def random_convolutions(shape: Sequence[int]) -> nn.Sequential:
    """A convolutional network with fixed random weights, pictures (N, C, H, W) of any size -> (N, 64).

    Args:
        shape: (C, H, W).

    Raises:
        ValueError: for data that are not pictures.

    Source: Naeem et al. (2020), section 5.1, on random embeddings of 64 numbers.

    >>> random_convolutions((3, 24, 64))(torch.zeros(2, 3, 24, 64)).shape
    torch.Size([2, 64])
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"convolutional features need pictures (C, H, W), got data of shape {tuple(shape)}")
    network, rng = _convolutions(shape, CHANNELS), generator(SEED)
    for weight in network.parameters():
        scale = (2 / weight[0].numel()) ** 0.5 if weight.ndim > 1 else 0.1
        nn.init.normal_(weight, std=scale, generator=rng)
    return network.eval().requires_grad_(False)


def class_network(x: Indexed, labels: Int[Tensor, " n"], classes: int) -> nn.Sequential:
    """A small trained classifier, `Sequential(features, logits)`: (N, ...) -> (N, 32) -> (N, classes).

    It depends only on the data: initial weights and batches come from a fixed seed. AdamW, label smoothing 0.05.

    Args:
        x: (N, ...) training data, of which one batch is read at a time.
        labels: (N,), from 0 to classes - 1.
        classes: number of classes.

    >>> x = torch.tensor([[-1.0], [1.0]]).repeat(50, 1)
    >>> class_network(x, (x[:, 0] > 0).long(), 2)(x[:2]).argmax(1)
    tensor([0, 1])
    """
    check_count(rows=len(x))
    check_classes(classes, labels=labels)
    shape = x[:1].shape[1:]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        begin_globally(0)
        if len(shape) == 3 and shape.numel() > SMALL:
            inner = nn.Sequential(_convolutions(shape, LEARNED), nn.Linear(4 * LEARNED, WIDTH))
        else:
            layers = nn.Sequential(nn.Linear(shape.numel(), 128), nn.SiLU(), nn.Linear(128, WIDTH))
            inner = nn.Sequential(nn.Flatten(), layers)
        network = nn.Sequential(nn.Sequential(inner, nn.SiLU()), nn.Linear(WIDTH, classes))
        adam = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.1)
        for _ in range(max(LEAST, min(MOST, 5 * len(x) // BATCH))):
            rows = torch.randint(len(x), (BATCH,))
            loss = nn.functional.cross_entropy(network(x[rows]), labels[rows], label_smoothing=0.05)
            adam.zero_grad()
            loss.backward()
            adam.step()
    return network.eval().requires_grad_(False)


def _convolutions(shape: Sequence[int], channels: int) -> nn.Sequential:
    """3 x 3 convolutions, all but the last of stride 2: pictures of any size (N, C, H, W) to (N, 4 channels)."""
    layers: list[nn.Module] = []
    inputs, side = shape[0], min(shape[1:])
    while side > COARSE:
        layers += [nn.Conv2d(inputs, channels, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
        inputs, side = channels, -(-side // 2)
    layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
