"""Spectral norm as COIN's published code has it, and convolutions under it that leave their weight as it is."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cfxai.nn.aligned_conv import AlignedConv2d


class OneStepSpectralNorm(nn.Module):
    """A weight over its largest singular value, as one power iteration from the last estimate gives it.

    Published, the singular value is a constant to the gradient, while torch's `spectral_norm` differentiates through it
    (Miyato et al. 2018, arXiv:1802.05957, eq. 12). Published, `u` moves in evaluation too, so that the same image gets
    another counterfactual each time; here evaluation takes the same iteration and leaves `u` where training left it.
    """

    u: Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.register_buffer("u", torch.randn(outputs))

    def forward(self, weight: Float[Tensor, "d *rest"]) -> Float[Tensor, "d *rest"]:
        return weight / self.singular_value(weight)

    @torch.no_grad()
    def singular_value(self, weight: Float[Tensor, "d *rest"]) -> Float[Tensor, ""]:
        """The largest one, by the next iteration."""
        # Whichever order of a row's entries needs no copy.
        matrix = weight.flatten(1) if weight.is_contiguous() else weight.movedim(1, -1).flatten(1)
        v = F.normalize(self.u @ matrix, dim=0)
        product = matrix @ v
        u = F.normalize(product, dim=0)
        if self.training:
            self.u.copy_(u)
        return u @ product


def spectrally_normalised(
    conv: nn.Module, x: Float[Tensor, "b c h w"], counts: Sequence[int]
) -> Float[Tensor, "b d h2 w2"]:
    """A convolution whose weight has a `OneStepSpectralNorm`, of `counts` samples each, as of one batch after another.

    Its result is divided rather than its weight, which then is neither copied nor different for each batch.
    """
    assert isinstance(conv, AlignedConv2d)
    assert conv.bias is not None
    norm = conv.get_submodule("parametrizations.weight.0")
    assert isinstance(norm, OneStepSpectralNorm)
    weight = conv.get_parameter("parametrizations.weight.original")
    scales = torch.cat([norm.singular_value(weight).reciprocal().expand(count) for count in counts])
    h = conv.convolved(x, weight, None)
    return torch.addcmul(conv.bias[:, None, None], h, scales[:, None, None, None]).to(h.dtype)
