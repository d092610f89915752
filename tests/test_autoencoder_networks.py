"""The networks of the diffusion autoencoder: their published sizes, and what their blocks compute."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn
from toy_autoencoder import count, small, stirred

from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF
from cfxai.nn.diffusion_unet import sinusoids
from cfxai.nn.modulated_block import ModulatedBlock, PlainBlock, SelfAttention


@pytest.mark.parametrize(
    ("name", "total", "encoder", "blocks"),
    [("brats64", 90_835_777, 19_319_360, 28), ("retina128", 128_545_155, 24_673_536, 35)],
)
def test_published_templates_have_the_published_sizes(name: str, total: int, encoder: int, blocks: int) -> None:
    with torch.device("meta"):
        network = Parts({"autoencoder": OmegaConf.merge(*layers(name))})["autoencoder"]
    assert (count(network), count(network.encoder), count(network.unet)) == (total, encoder, total - encoder)
    kinds = [type(module) for module in network.modules()]
    assert (kinds.count(ModulatedBlock), kinds.count(SelfAttention)) == (blocks, 9)


def layers(name: str) -> list[Any]:
    """A file of `conf/autoencoder` and those that it builds on."""
    settings = OmegaConf.load(CONF / "autoencoder" / f"{name}.yaml")
    above = [other for other in settings.pop("defaults", []) if other != "_self_"]
    return [layer for other in above for layer in layers(other)] + [settings]


def test_small_templates_are_small() -> None:
    for name, dims in (("small", 2), ("volumes", 3)):
        with torch.device("meta"):
            network = Parts({"autoencoder": OmegaConf.merge(*layers(name))})["autoencoder"]
        assert network.dims == dims
        assert count(network) < 6e6


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_images_of_any_size_and_dimension_keep_their_shape(dims: int, patch: int) -> None:
    network = stirred(small(dims=dims, patch=patch, attention=(1,))).eval()
    for sides in ((16, 16, 16), (13, 9, 18), (3, 16, 5)):
        image = torch.randn(2, 1, *sides[:dims])
        z = network.encode(image)
        assert z.shape == (2, 6)
        said = network(image, torch.tensor([3.0, 900.5]), z)
        assert said.shape == image.shape
        assert said.isfinite().all()
        assert torch.allclose(network(image[:1], torch.tensor([3.0]), z[:1]), said[:1], atol=1e-5)


def test_padding_reflects_and_what_fits_is_not_padded() -> None:
    network = stirred(small()).eval()
    image, time, z = torch.randn(1, 1, 14, 16), torch.tensor([5.0]), torch.randn(1, 6)
    mirrored = torch.cat([image, image[:, :, 11:13].flip(2)], 2)
    assert torch.allclose(network(image, time, z), network(mirrored, time, z)[:, :, :14], atol=1e-6)
    assert torch.allclose(network.encode(image), network.encoder(mirrored), atol=1e-6)
    assert torch.equal(network(mirrored, time, z), network.unet(mirrored, time, z))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_block_is_the_published_formula(dims: int) -> None:
    block = stirred(ModulatedBlock(4, 6, embedding=5, latent=3, dims=dims, groups=2)).eval()
    x, time, z = torch.randn(2, 4, *[6] * dims), torch.randn(2, 5), torch.randn(2, 3)
    parts = dict(block.named_children())
    conv = {2: F.conv2d, 3: F.conv3d}[dims]

    def normed(h: Tensor, layer: nn.Module) -> Tensor:
        cells = h.reshape(2, 2, -1)
        cells = (cells - cells.mean(2, keepdim=True)) / (cells.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
        shape = (1, -1) + (1,) * dims
        return cells.view(h.shape) * layer.weight.view(shape) + layer.bias.view(shape)

    def silu(h: Tensor) -> Tensor:
        return h / (1 + torch.exp(-h))

    h = conv(silu(normed(x, parts["norm"])), parts["conv"].weight, parts["conv"].bias, padding=1)
    s_t, b_t = (silu(time) @ parts["from_time"].weight.T + parts["from_time"].bias).chunk(2, 1)
    s_z = silu(z) @ parts["from_z"].weight.T + parts["from_z"].bias
    s_t, b_t, s_z = (value.view(2, 6, *[1] * dims) for value in (s_t, b_t, s_z))
    h = silu((normed(h, parts["second_norm"]) * (1 + s_t) + b_t) * (1 + s_z))
    h = conv(h, parts["second_conv"].weight, parts["second_conv"].bias, padding=1)
    assert torch.allclose(block(x, time, z), h + parts["shortcut"](x), atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_up_and_down_scale_every_axis(dims: int) -> None:
    x = torch.randn(1, 4, *[4] * dims)
    for resample, side in (("down", 2), ("up", 8)):
        block = PlainBlock(4, 4, dims=dims, groups=2, resample=resample)
        for parameter in block.conv.parameters():
            nn.init.zeros_(parameter)
        found = block(x)
        assert found.shape == (1, 4, *[side] * dims)
        corner = x[(..., *[slice(2)] * dims)].flatten(2).mean(2) if resample == "down" else x[(..., *[0] * dims)]
        assert torch.allclose(found[(..., *[0] * dims)], corner, atol=1e-6)
        assert found.mean().item() == pytest.approx(x.mean().item(), abs=1e-6)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_a_softmax_over_positions(heads: int) -> None:
    layer = stirred(SelfAttention(4, heads=heads, groups=2))
    x = torch.randn(2, 4, 3, 2, 2)
    tokens = layer.norm(x).flatten(2).transpose(1, 2)
    query, key, value = (tokens @ layer.inputs.weight.T + layer.inputs.bias).chunk(3, 2)
    gathered = torch.zeros_like(value)
    for part in torch.arange(4).chunk(heads):
        score = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(len(part))
        gathered[..., part] = score.softmax(2) @ value[..., part]
    wanted = x + layer.output(gathered).transpose(1, 2).reshape(x.shape)
    assert torch.allclose(layer(x), wanted, atol=1e-5)


def test_times_become_waves() -> None:
    found = sinusoids(torch.tensor([0.0, 7.0]), 4)
    assert torch.allclose(found[0], torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert torch.allclose(found[1], torch.tensor([math.cos(7), math.cos(0.07), math.sin(7), math.sin(0.07)]), atol=1e-6)
    assert sinusoids(torch.tensor([3.0]), 5).shape == (1, 5)


def test_checkpointing_gives_the_same_gradients() -> None:
    image, time = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 500.0])
    gradients = []
    for checkpoint in (False, True):
        network = small(checkpoint=checkpoint, attention=(0,), dropout=0.3)
        torch.manual_seed(1)
        stirred(network)
        torch.manual_seed(2)
        network(image, time, network.encode(image)).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
