"""The published training step of the diffusion autoencoder, with plain layers, on the networks of `cfxai.nn`.

As its code has it: coefficients come from double precision and from the CPU whenever they are used, what the network
says is turned into the mean and variance of a reverse step that nobody reads, attention is spelled out, and weights are
averaged one by one.
"""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Adam

from cfxai.diffusion.schedule import betas
from cfxai.loop import keyed
from cfxai.methods.diffusion_autoencoder import DiffusionAutoencoder
from cfxai.nn.diffusion_unet import DiffusionUNet, sinusoids
from cfxai.nn.modulated_block import ModulatedBlock, PlainBlock, SelfAttention
from cfxai.nn.semantic_encoder import SemanticEncoder

LENGTH, DECAY, NORM, LEARNING_RATE = 1000, 0.9999, 1.0, 1e-4


def schedule(method: DiffusionAutoencoder, images: list[Tensor], half: bool) -> Callable[[int], dict[str, float]]:
    """The number of a step -> the loss; `half`: in fp16, as it is trained on GPUs."""
    network, average = method.autoencoder, method.network
    optimizer = Adam(network.parameters(), LEARNING_RATE)
    device = images[0].device
    scaler = GradScaler(device.type, enabled=half)
    diffusion = Diffusion()

    def step(number: int) -> dict[str, float]:
        torch.manual_seed(keyed(0, number))
        image = (images[number % len(images)] + 1) / 2
        time, noise = torch.randint(LENGTH, (len(image),), device=device), torch.randn_like(image)
        noisy = diffusion.noised(image, noise, time)
        with torch.autocast(device.type, torch.float16, enabled=half):
            z = encoded(network.encoder, image)
            said = denoised(network.unet, noisy, torch.tensor(range(LENGTH), device=device)[time], z)
        diffusion.reversed(said.detach().float(), noisy, time)
        loss = (noise - said).square().mean((1, 2, 3)).mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), NORM)
        scaler.step(optimizer)
        scaler.update()
        current = network.state_dict()
        for name, averaged in average.state_dict().items():
            averaged.copy_(averaged * DECAY + current[name] * (1 - DECAY))
        return {"denoise": loss.item()}

    return step


class Diffusion:
    """Its coefficients, by time, and what it makes of them."""

    def __init__(self) -> None:
        beta = betas("linear", LENGTH)
        left = np.cumprod(1 - beta)
        before = np.append(1.0, left[:-1])
        variance = beta * (1 - before) / (1 - left)
        self.signal, self.noise = np.sqrt(left), np.sqrt(1 - left)
        self.reciprocal, self.share = np.sqrt(1 / left), np.sqrt(1 / left - 1)
        self.of_image = beta * np.sqrt(before) / (1 - left)
        self.of_noisy = (1 - before) * np.sqrt(1 - beta) / (1 - left)
        large, small = np.append(variance[1], beta[1:]), np.append(variance[1], variance[1:])
        self.variances = [large, np.log(large), variance, np.log(small)]

    def noised(self, image: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        return at(self.signal, time, image) * image + at(self.noise, time, image) * noise

    def reversed(self, said: Tensor, noisy: Tensor, time: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Mean and variances of the reverse step."""
        image = at(self.reciprocal, time, noisy) * noisy - at(self.share, time, noisy) * said
        mean = at(self.of_image, time, noisy) * image + at(self.of_noisy, time, noisy) * noisy
        return mean, [at(variance, time, noisy) for variance in self.variances]


def at(coefficients: np.ndarray, time: Tensor, image: Tensor) -> Tensor:
    return torch.from_numpy(coefficients).to(time.device)[time].float()[:, None, None, None].expand(image.shape)


def encoded(network: SemanticEncoder, image: Tensor) -> Tensor:
    h = network.down.stem(image)
    for stage in (*network.down.stages, *network.middle):
        h = staged(stage, h)
    return network.head(h).flatten(1)


def denoised(network: DiffusionUNet, noisy: Tensor, time: Tensor, z: Tensor) -> Tensor:
    told = network.time(sinusoids(time, network.plan.width)), z
    found = [network.down.stem(noisy)]
    for stage in network.down.stages:
        found.append(staged(stage, found[-1], *told))
    h = found[-1]
    for stage in network.middle:
        h = staged(stage, h, *told)
    for level, stages in enumerate(network.up):
        if level:
            h = staged(network.grow[level - 1], h, *told)
        for stage in cast(nn.ModuleList, stages):
            h = staged(stage, torch.cat([h, found.pop()], 1), *told)
    return network.head(h)


def staged(stage: nn.Module, x: Tensor, *told: Tensor) -> Tensor:
    block, then = stage.block, stage.then
    assert isinstance(block, PlainBlock | ModulatedBlock)
    h = block.conv(block.resample(F.silu(block.norm(x))))
    if isinstance(block, ModulatedBlock):
        time, z = told
        scale, shift = block.from_time(F.silu(time))[:, :, None, None].to(h.dtype).chunk(2, 1)
        by_z = block.from_z(F.silu(z))[:, :, None, None].to(h.dtype)
        h = block.second_norm(h) * (1 + scale) + shift
        h = F.dropout(F.silu(h * (1 + by_z)), block.dropout.p, block.training)
        h = block.second_conv(h)
    h = block.shortcut(block.resample(x)) + h
    return attended(then, h) if isinstance(then, SelfAttention) else h


def attended(layer: SelfAttention, x: Tensor) -> Tensor:
    flat = x.flatten(2)
    query, key, value = pointwise(layer.inputs, layer.norm(flat)).chunk(3, 1)
    scale = query.shape[1] ** -0.25
    score = torch.einsum("bct,bcs->bts", query * scale, key * scale).float().softmax(2).to(query.dtype)
    gathered = torch.einsum("bts,bcs->bct", score, value)
    return (flat + pointwise(layer.output, gathered)).reshape(x.shape)


def pointwise(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.conv1d(x, layer.weight[:, :, None], layer.bias)
