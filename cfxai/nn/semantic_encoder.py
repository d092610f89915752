"""From an image to the code that says what is in it."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from cfxai.nn.blocks import CONV
from cfxai.nn.contraction import Contraction, Plan
from cfxai.nn.modulated_block import PlainBlock, Resample, group_norm
from cfxai.protocols import Image

MEAN = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


class SemanticEncoder(nn.Module):
    """Images [b c *spatial] to z [b latent]: half a U-Net that is told nothing, and the mean over positions.

    Sides must be multiples of `plan.stride(multipliers)`. Preechakul et al. 2022, arXiv:2111.15640.

    Args:
        plan: of the network. multipliers: channels of each level, finest first, in units of `plan.width`.
        latent: length of z.
    """

    def __init__(self, plan: Plan, multipliers: Sequence[int], *, latent: int) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, resample: Resample) -> nn.Module:
            return PlainBlock(inputs, outputs, dims=plan.dims, groups=plan.groups, resample=resample)

        self.plan = plan
        self.down = Contraction(plan, multipliers, block)
        width = plan.widths(multipliers)[-1]
        self.middle = plan.middle(width, block)
        self.head = nn.Sequential(
            group_norm(width, plan.groups), nn.SiLU(), MEAN[plan.dims](1), CONV[plan.dims](width, latent, 1)
        )

    def forward(self, image: Image) -> Float[Tensor, "b z"]:
        h = self.down(image)[-1]
        for stage in self.middle:
            h = self.plan.run(stage, h)
        return self.head(h).flatten(1)
