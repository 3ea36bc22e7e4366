"""Random changes of whole batches of raw images."""

import math

import torch
from torch.nn import functional as F


class Augmentation:
    """Flip, then rotation and zoom, then shift, then cutout.

    Args:
        flip: "none"; "random", each image with probability one half at every visit; "alternating",
            a random half of the rows in the first epoch, the other half in the next, and so on
            (airbench, https://arxiv.org/abs/2404.00498, section 3.6).
        rotation: the most degrees to turn by, drawn for each image, around its middle.
        zoom: each side shows 1 − zoom to 1 + zoom of the image's, drawn for each image and side. Rotation and zoom
            read between pixels (bilinear) and extend the edges, as Keras' ImageDataGenerator does.
        shift: the most pixels to shift by, drawn for each image and direction; what comes in is black.
        cutout: side in pixels of a square set to 0, its centre anywhere in the image
            (https://arxiv.org/abs/1708.04552); 0 for none.
        rows: the number of rows in the training set.
        seed: for all random draws.
        device: of the images; draws are made there, since numbers from elsewhere would have to wait for it.
    """

    def __init__(
        self, flip: str, shift: int, cutout: int, rows: int, seed: int,
        device: str = "cpu", rotation: float = 0.0, zoom: float = 0.0,
    ):  # fmt: skip
        self.flip, self.shift, self.cutout, self.rotation, self.zoom = flip, shift, cutout, rotation, zoom
        self.generator = torch.Generator(device).manual_seed(seed)
        self.flipped_first = torch.rand(rows, generator=self.generator, device=device) < 0.5

    def __call__(self, images: torch.Tensor, rows: torch.Tensor, epoch: int) -> torch.Tensor:
        """images (B, H, W, C) of any type, their row numbers (B,), and the number of passes before this one."""
        if self.flip != "none":
            images = self._flip(images, rows, epoch)
        if self.rotation or self.zoom:
            images = self._turn_and_scale(images)
        if self.shift:
            images = self._shift(images)
        if self.cutout:
            images = self._cutout(images)
        return images

    def _flip(self, images: torch.Tensor, rows: torch.Tensor, epoch: int) -> torch.Tensor:
        if self.flip == "alternating":
            flipped = self.flipped_first[rows] ^ (epoch % 2 == 1)
        else:
            flipped = torch.rand(len(images), generator=self.generator, device=images.device) < 0.5
        return torch.where(flipped[:, None, None, None], images.flip(2), images)

    def _turn_and_scale(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[1:3]
        angle, tall, wide = (
            limit * (2 * torch.rand(len(images), 1, 1, generator=self.generator, device=images.device) - 1)
            for limit in (math.radians(self.rotation), self.zoom, self.zoom)
        )  # (B, 1, 1) each
        y, x = (  # of the result, in pixels from the middle
            (torch.arange(side, device=images.device) - (side - 1) / 2) * (1 + factor.flatten()[:, None])
            for side, factor in ((height, tall), (width, wide))
        )  # (B, H), (B, W)
        y, x = y[:, :, None], x[:, None, :]
        from_x, from_y = x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()  # (B, H, W)
        grid = torch.stack([from_x * (2 / width), from_y * (2 / height)], dim=-1)  # each side from -1 to 1
        moved = F.grid_sample(images.permute(0, 3, 1, 2).float(), grid, padding_mode="border", align_corners=False)
        return moved.permute(0, 2, 3, 1).round().to(images.dtype)

    def _shift(self, images: torch.Tensor) -> torch.Tensor:
        batch, height, width, _ = images.shape
        padded = F.pad(images, (0, 0, self.shift, self.shift, self.shift, self.shift))
        top, left = (self._draw(2 * self.shift + 1, images) for _ in range(2))
        y = top[:, None] + torch.arange(height, device=images.device)  # (B, H)
        x = left[:, None] + torch.arange(width, device=images.device)  # (B, W)
        image = torch.arange(batch, device=images.device)[:, None, None]
        return padded[image, y[:, :, None], x[:, None, :]]  # (B, H + 2s, W + 2s, C) -> (B, H, W, C)

    def _cutout(self, images: torch.Tensor) -> torch.Tensor:
        in_rows, in_columns = (self._inside(length, images) for length in images.shape[1:3])  # (B, H), (B, W)
        inside = in_rows[:, :, None] & in_columns[:, None, :]  # (B, H, W)
        return images.masked_fill(inside[..., None], 0)

    def _inside(self, length: int, images: torch.Tensor) -> torch.Tensor:
        start = self._draw(length, images)[:, None] - self.cutout // 2
        position = torch.arange(length, device=images.device)
        return (position >= start) & (position < start + self.cutout)

    def _draw(self, below: int, images: torch.Tensor) -> torch.Tensor:
        """A number for each image."""
        return torch.randint(below, (len(images),), generator=self.generator, device=images.device)
