"""A memory of earlier fakes, so that discriminators do not forget what generators no longer make."""

import torch
from torch import Tensor, nn

from cfxai.errors import ConfigError
from cfxai.protocols import Image, Labels


class ImagePool(nn.Module):
    """Half of the fakes that a discriminator sees are earlier ones (Shrivastava et al. 2017, arXiv:1612.07828).

    Each class has `size` places. Once they are taken, a fake is shown as it is or, with probability 1/2, takes the
    place of a random earlier one, which is shown instead. The images are part of the checkpoint.

    Args:
        size: images of each class, 50 in CycleGAN.
        classes: number of classes.
        channels, side, dims: of the images; one `side` for all axes.
    """

    images: Tensor
    taken: Tensor

    def __init__(self, size: int, classes: int, channels: int, side: int, dims: int = 2) -> None:
        super().__init__()
        if size < 1:
            raise ConfigError(f"method.pool.size: must be 1 or more, got {size}; method.pool=null has no pool.")
        self.register_buffer("images", torch.zeros(classes, size, channels, *[side] * dims))
        self.register_buffer("taken", torch.zeros(classes, dtype=torch.long))

    @torch.no_grad()
    def exchange(self, fake: Image, target: Labels) -> Image:
        """The images to show in place of `fake`, which are of the classes `target`; drawn by torch's generator.

        Raises:
            ConfigError: images of another shape than the pool's.
        """
        if fake.shape[1:] != self.images.shape[2:]:
            ours, theirs = (" x ".join(map(str, shape)) for shape in (self.images.shape[2:], fake.shape[1:]))
            raise ConfigError(f"method.pool: is for images of {ours}, but these are {theirs}; set its channels, side.")
        shown = fake.clone()
        size = self.images.shape[1]
        keep, place = (torch.rand(len(fake)) < 0.5).tolist(), torch.randint(size, (len(fake),)).tolist()
        for i, label in enumerate(target.tolist()):
            if (count := int(self.taken[label])) < size:
                self.images[label, count] = fake[i]
                self.taken[label] += 1
            elif not keep[i]:
                shown[i] = self.images[label, place[i]]
                self.images[label, place[i]] = fake[i]
        return shown
