"""The diffusion autoencoder: what it learns, and the way from images to codes and back."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from toy import fit, weights
from toy_autoencoder import blobs, small, stirred, toy_method, trained

from cfxai.config.build import Parts
from cfxai.config.compose import compose
from cfxai.diffusion.published import PublishedSampling
from cfxai.diffusion.sampling import Sampling
from cfxai.errors import ConfigError, DataError
from cfxai.methods.diffusion_autoencoder import DenoisingLoss, DiffusionAutoencoder
from cfxai.nn.compression import Compression
from cfxai.nn.ema import Average
from cfxai.protocols import Method
from cfxai.run.checkpoint import capture, restore


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
    assert 0.3 < found["followed"] < 1.5
    assert toy_method().z_matters(blobs(1000)["image"])["followed"] == 0  # its last layers are zero, as at the start
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
    assert set(method.z_matters(image)) == {"right", "wrong", "followed"}

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
    explains = Parts(compose(experiment, ["compat=dae2024", *narrow]))["method"]
    assert (explains.told, explains.direction, explains.corrections) == ("label", "published", 0)
    assert explains.strengths == [1]
    published = explains.autoencoder
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
