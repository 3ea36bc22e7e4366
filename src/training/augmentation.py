"""Random changes of whole batches of raw images; pixels from outside an image are black."""

import torch
from torch.nn import functional as F


class Augmentation:
    """Flip, then shift, then cutout.

    Args:
        flip: "none"; "random", each image with probability one half at every visit; "alternating",
            a random half of the rows in the first epoch, the other half in the next, and so on
            (airbench, https://arxiv.org/abs/2404.00498, section 3.6).
        shift: the most pixels to shift by, drawn for each image and direction.
        cutout: side in pixels of a square set to 0, its centre anywhere in the image
            (https://arxiv.org/abs/1708.04552); 0 for none.
        rows: the number of rows in the training set.
        seed: for all random draws.
        device: of the images; draws are made there, since numbers from elsewhere would have to wait for it.
    """

    def __init__(self, flip: str, shift: int, cutout: int, rows: int, seed: int, device: str = "cpu"):
        self.flip, self.shift, self.cutout = flip, shift, cutout
        self.generator = torch.Generator(device).manual_seed(seed)
        self.flipped_first = torch.rand(rows, generator=self.generator, device=device) < 0.5

    def __call__(self, images: torch.Tensor, rows: torch.Tensor, epoch: int) -> torch.Tensor:
        """images (B, H, W, C) of any type, their row numbers (B,), and the epoch from 0."""
        if self.flip != "none":
            images = self._flip(images, rows, epoch)
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
