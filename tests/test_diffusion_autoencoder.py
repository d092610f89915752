"""The diffusion autoencoder: its published sizes, what its blocks compute, what it learns, and the way to images."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn
from toy import fabric, fit, weights

from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF
from cfxai.config.compose import compose
from cfxai.diffusion.published import PublishedSampling
from cfxai.diffusion.sampling import Sampling
from cfxai.diffusion.schedule import Schedule
from cfxai.errors import ConfigError, DataError
from cfxai.loop import train_step
from cfxai.methods.diffusion_autoencoder import DenoisingLoss, DiffusionAutoencoder
from cfxai.nn.autoencoder import Autoencoder
from cfxai.nn.compression import Compression
from cfxai.nn.diffusion_unet import sinusoids
from cfxai.nn.ema import Average
from cfxai.nn.modulated_block import ModulatedBlock, PlainBlock, SelfAttention
from cfxai.protocols import Method
from cfxai.run.checkpoint import capture, restore


def small(**settings: Any) -> Autoencoder:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "width": 8, "multipliers": (1, 2), "encoder_multipliers": (1, 2, 2), "blocks": 1, "attention": (),
        "groups": 4, "latent": 6, "embedding": 8, "dropout": 0.0, "patch": 2,
    }  # fmt: skip
    return Autoencoder(**(sizes | settings))


def stirred(network: nn.Module) -> nn.Module:
    """The network with no parameter at zero, where much of it starts."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def toy_method(*, loss: Mapping[str, Any] | None = None, **settings: Any) -> DiffusionAutoencoder:
    given: dict[str, Any] = {
        "autoencoder": small(), "schedule": Schedule(), "sampling": Sampling(steps=12), "steps": 12, "average": 0.95,
    }  # fmt: skip
    return DiffusionAutoencoder(loss=DenoisingLoss(**(loss or {})), **(given | settings))


def blobs(step: int, size: int = 16, pixels: int = 16) -> dict[str, Tensor]:
    """Dark images; every second one has a bright disc in the middle. Brightness varies."""
    random = torch.Generator().manual_seed(step)
    label, line = torch.arange(size) % 2, torch.linspace(-1, 1, pixels)
    disc = (line[:, None] ** 2 + line**2 < 0.3).float()
    level = 0.3 * torch.rand(size, 1, 1, 1, generator=random) - 0.8
    noise = 0.02 * torch.randn(size, 1, pixels, pixels, generator=random)
    return {"image": level + noise + 1.2 * disc * label.view(-1, 1, 1, 1), "label": label}


def trained(method: DiffusionAutoencoder, steps: int, precision: str = "32-true") -> list[dict[str, float]]:
    machine = fabric(precision)
    optimizers = {name: machine.setup_optimizers(optimizer) for name, optimizer in method.optimizers.items()}
    return [train_step(method, optimizers, machine, blobs(step), step, 0) for step in range(steps)]


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


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


def test_losses_by_hand() -> None:
    """A network for v under eps weighting is trained on the error of its eps."""
    method = toy_method(loss={"prediction": "v", "weighting": "eps", "head": 0.5}, steps=100)
    stirred(method.autoencoder)
    assert isinstance(method, Method)
    batch = blobs(0)
    torch.manual_seed(3)
    (name, terms), *_ = list(method.losses(batch, 25))
    torch.manual_seed(3)
    time, noise = torch.randint(1000, (16,)), torch.randn_like(batch["image"])
    alpha, sigma = (value[time].view(-1, 1, 1, 1) for value in (method.schedule.alpha, method.schedule.sigma))
    network = method.autoencoder
    noisy, z = alpha * batch["image"] + sigma * noise, network.encode(batch["image"])
    eps = sigma * noisy + alpha * network(noisy, time.float(), z)
    assert name == "autoencoder"
    assert float(terms["denoise"]) == pytest.approx(float((eps - noise).square().mean()), rel=1e-3)
    entropy = F.cross_entropy(method.modules["head"](z), batch["label"])
    assert float(terms["head"]) == pytest.approx(0.5 * 0.75 * float(entropy.detach()), rel=1e-4)


def test_the_head_fades_and_needs_no_labels_where_it_has_no_weight() -> None:
    method = toy_method(loss={"head": 1.0, "head_until": 0.5}, steps=10)
    present = ["head" in next(iter(method.losses(blobs(0), step)))[1] for step in range(10)]
    assert present == [True] * 5 + [False] * 5
    plain = toy_method()
    assert "head" not in plain.modules
    assert list(plain.losses({"image": blobs(0)["image"]}, 0))


def test_a_step_runs_each_network_once_and_averages_after_it() -> None:
    method = toy_method(loss={"head": 1.0})
    calls: list[str] = []
    for name in ("encoder", "unet"):
        getattr(method.autoencoder, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    trained(method, 1)
    assert calls == ["encoder", "unet"]
    assert int(method.average.updates) == 1


def test_z_has_a_gradient_once_the_last_layers_have_left_zero() -> None:
    method = toy_method(learning_rate=1e-3)
    trained(method, 3)
    (_, terms), *_ = list(method.losses(blobs(5), 5))
    method.optimizers["autoencoder"].zero_grad()
    terms["denoise"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.autoencoder.encoder.parameters())


def test_averages_with_and_without_warm_up() -> None:
    source = nn.Linear(2, 2)
    warm, cold = Average(source, 0.99), Average(source, 0.99, warm_up=False)
    before = source.weight.detach().clone()
    with torch.no_grad():
        source.weight += 1
    warm.update(source)
    cold.update(source)
    assert torch.allclose(warm.module.weight - before, torch.full((2, 2), 0.9))
    assert torch.allclose(cold.module.weight - before, torch.full((2, 2), 0.01), atol=1e-6)


@pytest.fixture(scope="module")
def learnt() -> tuple[DiffusionAutoencoder, list[dict[str, float]]]:
    torch.manual_seed(0)
    network = small(patch=4, width=16, embedding=16)
    method = toy_method(loss={"weighting": "v"}, autoencoder=network, steps=80, learning_rate=1e-2)
    return method, trained(method, 80)


def test_training_learns_to_denoise_and_to_use_z(learnt: tuple[DiffusionAutoencoder, list[dict[str, float]]]) -> None:
    method, values = learnt
    first, last = (sum(v["denoise"] for v in part) / 20 for part in (values[:20], values[-20:]))
    assert last < 0.8 * first
    state = torch.get_rng_state()
    found = method.z_matters(blobs(1000)["image"])
    assert torch.equal(torch.get_rng_state(), state)
    assert found["right"] < 0.9 * found["wrong"]
    assert found == method.z_matters(blobs(1000)["image"])


def test_times_that_are_never_visited_are_not_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    method, latest = toy_method(sampling=Sampling(steps=3, until=0.02)), 0.02 * 999
    seen: list[float] = []
    monkeypatch.setattr(
        method.autoencoder.unet, "forward", lambda x, time, z: seen.extend(time.tolist()) or torch.zeros_like(x)
    )
    for step in range(20):
        next(method.losses(blobs(step), step))
    assert latest <= max(seen) < latest + 1
    assert min(seen) == 0

    given: list[Tensor] = []
    monkeypatch.setattr(method.network.unet, "forward", lambda x, time, z: given.append(x) or torch.zeros_like(x))
    image = blobs(0)["image"]
    method.z_matters(image)
    alpha, sigma = method.schedule.level(latest)
    assert (given[0] - alpha * image).std() == pytest.approx(sigma, rel=0.05)


def test_images_return_from_noise(learnt: tuple[DiffusionAutoencoder, list[dict[str, float]]]) -> None:
    method, _ = learnt
    image = blobs(1001)["image"]
    z = method.encode(image)
    noise = method.encode_stochastic(image, z)
    assert not z.requires_grad
    assert not noise.requires_grad
    assert (method.render(noise, z) - image).abs().mean() / 2 < 0.005
    method.at_once = 5
    assert torch.allclose(method.encode_stochastic(image, z), noise, atol=1e-4)
    assert torch.allclose(method.encode(image), z, atol=1e-5)


def test_guidance_goes_further_and_leaves_what_is_not_moved(learnt: tuple[DiffusionAutoencoder, Any]) -> None:
    method, _ = learnt
    image = blobs(1002, size=4)["image"]
    z = method.encode(image)
    noise, moved = method.encode_stochastic(image, z), z + 0.5 * (z.roll(1, 0) - z)
    plain = method.render(noise, moved, z)
    assert torch.equal(plain, method.render(noise, moved)), "no guidance, no further"
    method.guidance = 2.0
    assert (method.render(noise, moved, z) - image).abs().mean() > 1.5 * (plain - image).abs().mean()
    assert torch.allclose(method.render(noise, z, z), method.render(noise, z), atol=1e-4)
    time = torch.full((4,), 300.0)
    there, here = (method.network(noise, time, code) for code in (moved, z))
    said = method._guided(moved, z).predict(noise, time)
    assert torch.allclose(said, 3 * there - 2 * here, atol=1e-4)
    method.guidance = 0.0


def test_full_precision_whatever_the_training_has(learnt: tuple[DiffusionAutoencoder, Any]) -> None:
    method, _ = learnt
    image = blobs(7)["image"]
    z = method.encode(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(method.encode(image), z)


def test_bf16_trains_as_full_precision_does() -> None:
    exact, mixed = (toy_method(autoencoder=stirred(small()), loss={"head": 0.1}) for _ in range(2))
    for a, b in zip(trained(exact, 3), trained(mixed, 3, "bf16-mixed"), strict=True):
        assert a == pytest.approx(b, rel=0.03)
        assert a != b
    assert all(value.dtype == torch.float32 for value in weights(mixed).values() if value.is_floating_point())


def test_the_published_range_is_inside_the_method() -> None:
    class Ends(Sampling):
        def invert(self, denoise: Any, image: Tensor) -> Tensor:
            return image

        def render(self, denoise: Any, noise: Tensor) -> Tensor:
            return noise

    method = toy_method(unit_range=True, sampling=Ends())
    image = blobs(0)["image"]
    z = method.encode(image)
    assert torch.allclose(z, method.network.encode((image + 1) / 2))
    noise = method.encode_stochastic(image, z)
    assert torch.allclose(noise, (image + 1) / 2)
    assert torch.allclose(method.render(noise, z), image, atol=1e-6)


def test_gradients_are_cut_and_the_rate_falls() -> None:
    method = toy_method(clip=1e-3, steps=10, learning_rate=1.0, autoencoder=stirred(small()))
    optimizer = method.optimizers["autoencoder"]
    norms, rates = [], []

    def seen(*_: Any) -> None:
        gradients = [p.grad for p in method.autoencoder.parameters() if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        rates.append(optimizer.param_groups[0]["lr"])
        for gradient in gradients:
            gradient.zero_()

    optimizer.register_step_pre_hook(seen)
    trained(method, 10)
    assert norms == pytest.approx([1e-3] * 10, rel=1e-3)
    assert rates == pytest.approx([(1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)])


def test_compression_is_trained_first_and_diffusion_on_its_codes(tmp_path: Path) -> None:
    compression = Compression(1, 2, dims=2, widths=(8, 8))
    settings: dict[str, Any] = {"autoencoder": small(channels=2, patch=1), "compression_share": 0.6}
    method = toy_method(steps=20, compression=compression, **settings)
    values = trained(method, 20)
    assert ["denoise" in v for v in values] == [False] * 12 + [True] * 8
    assert values[11]["compress_l1"] < 0.7 * values[0]["compress_l1"]
    image = blobs(50, size=4)["image"]
    code = compression.encode(image)
    assert code.shape == (4, 2, 8, 8)
    z = method.encode(image)
    noise = method.encode_stochastic(image, z)
    assert noise.shape == code.shape
    through = compression.decode(code)
    assert (method.render(noise, z) - through).abs().mean() < 0.02
    assert set(method.z_matters(image)) == {"right", "wrong"}

    save_file(compression.state_dict(), tmp_path / "compression.safetensors")
    loaded = Compression(1, 2, dims=2, widths=(8, 8), weights=str(tmp_path / "compression.safetensors"))
    assert torch.equal(loaded.encode(image), code)
    ready = toy_method(compression=loaded, **settings)
    assert "denoise" in trained(ready, 1)[0]
    assert torch.equal(loaded.encode(image), code)
    with pytest.raises(DataError, match="divisible by 2"):
        loaded.encode(torch.zeros(1, 1, 15, 16))


def test_volumes_are_compressed_to_codes_of_unit_variance() -> None:
    compression = Compression(1, 3, widths=(4, 4, 4))
    assert compression.decode(compression.encode(torch.zeros(1, 1, 8, 16, 8))).shape == (1, 1, 8, 16, 8)
    image = torch.randn(1, 1, 8, 8, 8)
    for _ in range(120):
        compression.losses(image)
    assert compression.encode(image).std().item() == pytest.approx(1, rel=0.1)


def test_a_checkpoint_has_it_all() -> None:
    method, other = toy_method(loss={"head": 0.1}), toy_method(loss={"head": 0.1})
    trained(method, 3)
    tensors, groups = capture(method)
    restore(other, tensors, {"optimizers": groups})
    image = blobs(3)["image"]
    assert torch.equal(other.encode(image), method.encode(image))
    assert int(other.average.updates) == 3


def test_an_interrupted_training_continues_bit_for_bit(tmp_path: Path) -> None:
    whole, halved, again = (toy_method(steps=6) for _ in range(3))
    for method, directory, steps in ((whole, "whole", 6), (halved, "halved", 3), (again, "halved", 6)):
        (tmp_path / directory).mkdir(exist_ok=True)
        fit(method, tmp_path / directory, batches=blobs, steps=steps)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(again).values(), strict=True))


def test_the_configuration_builds_ours_and_the_published_form(tmp_path: Path) -> None:
    experiment = tmp_path / "mine.yaml"
    experiment.write_text(
        "defaults: [base, data: phantom, classifier: compact, method: diffusion_autoencoder,"
        " loss: diffusion_autoencoder, autoencoder: small, compat: none, _self_]\n"
    )
    ours = Parts(compose(experiment, ["trainer.steps=7"]))["method"]
    assert (ours.steps, ours.loss.prediction, type(ours.sampling)) == (7, "v", Sampling)
    narrow = ["autoencoder.width=8", "autoencoder.latent=8", "autoencoder.embedding=8"]
    published = Parts(compose(experiment, ["compat=dae2024", *narrow]))["method"]
    assert (published.loss.prediction, type(published.sampling)) == ("eps", PublishedSampling)
    assert (published.unit_range, published.average.decay, published.average.warm_up) == (True, 0.9999, False)
    assert len(published.autoencoder.unet.up) == 4


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DenoisingLoss(prediction="noise"), "loss.prediction: choose one of eps, x0, v"),
        (lambda: DenoisingLoss(weighting="snr"), "loss.weighting: choose one of eps, x0, v, min_snr"),
        (lambda: DenoisingLoss(head_until=0.0), "head_until"),
        (lambda: toy_method(decay="linear"), "method.decay: choose cosine or constant"),
        (lambda: toy_method(compression_share=1.0), "method.compression_share: must be at least 0"),
        (lambda: toy_method(at_once=0), "method.at_once: must be 1 or more"),
        (lambda: small(dims=1), "autoencoder.dims: choose 2"),
        (lambda: small(patch=3), "autoencoder.patch: choose 1, 2 or 4"),
        (lambda: small(blocks=0), "autoencoder.blocks: must be 1 or more"),
        (lambda: small(heads=3), "autoencoder.heads: 3 must divide"),
        (lambda: small(multipliers=()), "autoencoder.multipliers: needs"),
        (lambda: small(attention=(3,)), "autoencoder.attention: levels are 0 to 2"),
        (lambda: small(latent=0), "latent and embedding must be 1 or more"),
        (lambda: small().encode(torch.zeros(1, 3, 8, 8)), "set autoencoder.channels=3"),
        (lambda: small().encode(torch.zeros(1, 1, 8, 8, 8)), "dims: a network for 2-D images"),
    ],
)
def test_mistakes_are_named(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
