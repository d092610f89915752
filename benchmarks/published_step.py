"""COIN's published training step with plain layers, one after another, on the networks of `cfxai.nn.coin2024`.

The order of events and the terms are those of the published code, version 1; nothing is fused, shared or frozen.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from cfxai.methods.coin import Coin
from cfxai.nn.coin2024 import DecoderBlock, Discriminator, DiscriminatorBlock, EncoderBlock, Generator

GENERATOR_EVERY = 5


def schedule(method: Coin, images: list[Tensor]) -> Callable[[int], dict[str, float]]:
    """The number of a step -> its loss terms."""
    generator, discriminator, classifier = method.generator, method.discriminator, method.classifier
    assert isinstance(generator, Generator)
    assert isinstance(discriminator, Discriminator)
    generates, discriminates = (adam(network) for network in (generator, discriminator))

    def abnormal(image: Tensor) -> Tensor:
        logits = classifier(image)
        return (logits[:, 1] - logits[:, 0]).sigmoid()

    def step(number: int) -> dict[str, float]:
        image, terms = images[number % len(images)], {}
        with torch.no_grad():
            probability = abnormal(image)
        called = (probability >= 0.5).long()
        wanted = torch.where(called == 0, probability, 1e-6)
        normal = torch.zeros_like(called)
        generates.zero_grad()
        fake = generated(generator, image, normal)
        if number % GENERATOR_EVERY == 0:
            verdict = judged(discriminator, fake, normal)
            t, p = wanted.clamp(1e-5, 1 - 1e-5), abnormal(fake).clamp(1e-5, 1 - 1e-5)
            terms["adv"] = F.binary_cross_entropy_with_logits(verdict, torch.ones_like(verdict))
            terms["kl"] = 5 * (t * torch.log(t / p) + (1 - t) * torch.log((1 - t) / (1 - p))).mean()
            terms["rec"] = F.l1_loss(fake, image) + F.l1_loss(generated(generator, fake, normal), image)
            terms["minc"] = F.l1_loss(fake, image)
            terms["tv"] = 0.05 * variation(255 * ((image + 1) / 2 - (fake + 1) / 2).abs())
            torch.stack(list(terms.values())).sum().backward()
            generates.step()
        discriminates.zero_grad()
        on_real, on_fake = judged(discriminator, image, called), judged(discriminator, fake.detach(), normal)
        terms["d_real"] = F.binary_cross_entropy_with_logits(on_real, torch.ones_like(on_real)) / 2
        terms["d_fake"] = F.binary_cross_entropy_with_logits(on_fake, torch.zeros_like(on_fake)) / 2
        (terms["d_real"] + terms["d_fake"]).backward()
        discriminates.step()
        return {name: value.item() for name, value in terms.items()}

    return step


def adam(network: nn.Module) -> Adam:
    return Adam(network.parameters(), 2e-4, (0.0, 0.999))


def variation(change: Tensor) -> Tensor:
    return (change.diff(dim=2).square().mean((1, 2, 3)) + change.diff(dim=3).square().mean((1, 2, 3))).mean()


def generated(network: Generator, image: Tensor, condition: Tensor) -> Tensor:
    convolve, _, norm = network.stem
    features = [norm(F.relu(convolve(image)))]
    for block in network.encoder:
        assert isinstance(block, EncoderBlock)
        pool, shortcut = block.shortcut
        features.append(convolved(shortcut, pool(features[-1])) + block.body(features[-1]))
    h = features[-1]
    for i, block in enumerate(network.decoder):
        h = grown(block, torch.cat([h, features[-1 - i]], 1) if i in network.skips else h, condition)
    return torch.tanh(network.head(h) + image)


def grown(block: nn.Module, x: Tensor, condition: Tensor) -> Tensor:
    assert isinstance(block, DecoderBlock)
    h = block.conv1(block.grow(F.relu(block.norm1(x, condition))))
    return convolved(block.shortcut, block.grow(x)) + block.conv2(F.relu(block.norm2(h, condition)))


def judged(network: Discriminator, image: Tensor, condition: Tensor) -> Tensor:
    h = image
    for block in network.blocks:
        h = narrowed(block, h)
    h = F.relu(h).sum((2, 3))
    return network.verdict(h)[:, 0] + (network.embedding(condition) * h).sum(1)


def narrowed(block: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(block, DiscriminatorBlock)
    start, first, _, second = block.body
    h = convolved(second, F.relu(first(start(x))))
    pools_first = isinstance(start, nn.Identity)
    if pools_first:
        return convolved(block.shortcut, block.pool(x)) + block.pool(h)
    return block.pool(x if isinstance(block.shortcut, nn.Identity) else convolved(block.shortcut, x)) + block.pool(h)


def convolved(layer: nn.Module, x: Tensor) -> Tensor:
    """The convolution alone, whatever the layer does with it."""
    assert isinstance(layer, nn.Conv2d)
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.padding)
