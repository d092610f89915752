"""Generators: an image (and the condition asked for) to its counterfactual, both in [-1, 1]."""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, cat, is_grad_enabled, nn, tanh, where
from torch.utils.checkpoint import checkpoint as recomputed

from cfxai.nn.blocks import CONV, POOL, DepthToSpace, ResidualBlock, SpaceToDepth, require_divisible
from cfxai.protocols import Image, Labels


def add_bounded(image: Image, residual: Float[Tensor, "b c *spatial"]) -> Image:
    """x + r (1 - x) where r > 0, x + r (1 + x) where r < 0, with r in [-1, 1].

    Exactly x at r = 0, never outside [-1, 1], and every value in [-1, 1] is reachable from every other. COIN's
    published tanh(x + h) is none of these: its zero residual changes the image by up to 12 % of the range.
    """
    # One product, not two ReLUs: those would have no gradient at r = 0, where training starts.
    return image + residual * where(residual > 0, 1 - image, 1 + image)


class ResidualUNet(nn.Module):
    """A small residual U-Net behind a space-to-depth stem whose output is a bounded change of its input.

    The last convolution starts at zero, so training starts from the identity. The condition is not used: this
    generator knows one direction, abnormal to normal.

    Args:
        channels: of the image.
        widths: of each resolution, finest (already halved by the stem) first.
        dims: 2 for images, 3 for volumes.
        checkpoint: keep only what passes between blocks for the backward pass, which computes the rest again (Chen et
            al. 2016, arXiv:1604.06174): the same gradients from less memory in more time.

    Raises:
        DataError: the sides of an image are not divisible by 2^len(widths).
    """

    def __init__(
        self, channels: int = 1, widths: Sequence[int] = (32, 64, 96), dims: int = 2, checkpoint: bool = False
    ) -> None:
        super().__init__()
        conv, fold = CONV[dims], 2**dims
        self.stem = nn.Sequential(SpaceToDepth(2, dims), conv(channels * fold, widths[0], 3, padding=1))
        self.down = nn.ModuleList(
            ResidualBlock(a, b, dims=dims, norm="group") for a, b in zip((widths[0], *widths[:-1]), widths, strict=True)
        )
        self.pool = POOL[dims](2)
        self.grow = nn.Upsample(scale_factor=2, mode="nearest")
        self.up = nn.ModuleList(
            ResidualBlock(below + skip, skip, dims=dims, norm="group")
            for below, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        last = conv(widths[0], channels * fold, 3, padding=1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(
            nn.GroupNorm(max(1, widths[0] // 8), widths[0]), nn.ReLU(), last, DepthToSpace(2, dims)
        )
        self.checkpoint = checkpoint

    def forward(self, image: Image, condition: Labels | None = None) -> Image:
        require_divisible(image, 2 ** len(self.down))
        h = self._run(self._enter, image)
        skips = [h]
        for block in self.down[1:]:
            h = self._run(self._descend, block, h)
            skips.append(h)
        h = skips.pop()
        for block in self.up:
            h = self._run(self._ascend, block, h, skips.pop())
        return self._run(self._change, image, h)

    def _enter(self, image: Image) -> Tensor:
        return self.down[0](self.stem(image))

    def _descend(self, block: nn.Module, h: Tensor) -> Tensor:
        return block(self.pool(h))

    def _ascend(self, block: nn.Module, h: Tensor, skip: Tensor) -> Tensor:
        return block(cat([self.grow(h), skip], 1))

    def _change(self, image: Image, h: Tensor) -> Image:
        return add_bounded(image, tanh(self.head(h)))

    def _run(self, part: Callable[..., Tensor], *inputs: nn.Module | Tensor) -> Tensor:
        if self.checkpoint and is_grad_enabled():
            return recomputed(part, *inputs, use_reentrant=False, preserve_rng_state=False)  # nothing here is random
        return part(*inputs)
