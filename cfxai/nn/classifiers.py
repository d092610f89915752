"""Classifiers under explanation: images in [-1, 1] to k >= 2 logits, their own preprocessing inside."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cfxai.config.nearest import hint
from cfxai.errors import ConfigError
from cfxai.nn.aligned_conv import strided_channels_last
from cfxai.nn.blocks import CONV, POOL, ResidualBlock, SpaceToDepth
from cfxai.nn.pretrained import start_from
from cfxai.nn.weights import load_weights
from cfxai.protocols import Image, Logits


class ImageClassifier(nn.Module):
    """Any network as a classifier of images in [-1, 1]: (x + 1) / 2, then (x - mean) / std, then the network.

    A one-logit network z is read as the logits [0, z]. `mean` and `std` are in the network's own units of [0, 1] images
    and travel with the weights. Grey images are repeated to as many channels as `mean` has, which equals summing an RGB
    stem's weights. A `temperature` divides the logits (Guo et al. 2017, arXiv:1706.04599); it is None until the
    classifier is calibrated, and then travels with the weights too.

    Args:
        network: [b c *spatial] -> [b k] or [b 1].
        mean, std: per channel.
        pretrained: a file with weights to begin its training with; another head is left out, see `start_from`.
        weights: a trained classifier: a safetensors file written by a run, or the network's own state (safetensors, or
            a `.pth` that `torch.load(weights_only=True)` accepts); None = as initialised. It wins over `pretrained`.

    Raises:
        ConfigError: the weights do not exist or do not fit.
    """

    mean: Tensor
    std: Tensor
    temperature: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
        pretrained: bool | str | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.register_buffer("temperature", None)
        if weights is not None:
            load_weights(self, weights, inner="network")
        elif isinstance(pretrained, str):
            start_from(network, pretrained)
        elif pretrained:
            raise ConfigError("classifier.pretrained: this network has no published weights; name a file, or null.")

    def forward(self, image: Image) -> Logits:
        shape = (1, -1) + (1,) * (image.ndim - 2)
        scaled = ((image + 1) / 2 - self.mean.view(shape)) / self.std.view(shape)
        logits = self.network(strided_channels_last(scaled) if scaled.ndim == 4 else scaled)
        logits = torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
        return logits if self.temperature is None else logits / self.temperature


class CompactNet(nn.Module):
    """Residual stages behind a space-to-depth stem, average-pooled: about 500 64x64 images a second on two cores.

    Args:
        channels: of the image.
        classes: number of logits.
        widths: of each stage; every stage after the first halves the resolution.
        dims: 2 for images, 3 for volumes.
    """

    def __init__(
        self, channels: int = 1, classes: int = 2, widths: Sequence[int] = (24, 48, 64), dims: int = 2
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for i, (a, b) in enumerate(zip((widths[0], *widths[:-1]), widths, strict=True)):
            stages += [POOL[dims](2)] if i else []
            stages += [ResidualBlock(a, b, dims=dims), ResidualBlock(b, b, dims=dims)]
        self.stem = nn.Sequential(SpaceToDepth(2, dims), CONV[dims](channels * 2**dims, widths[0], 3, padding=1))
        self.stages = nn.Sequential(*stages, nn.BatchNorm2d(b) if dims == 2 else nn.BatchNorm3d(b), nn.ReLU())
        self.head = nn.Linear(b, classes)

    def forward(self, image: Image) -> Logits:
        return self.head(self.stages(self.stem(image)).flatten(2).mean(2))


def compact(
    channels: int = 1,
    classes: int = 2,
    widths: Sequence[int] = (24, 48, 64),
    dims: int = 2,
    pretrained: bool | str | None = None,
    weights: str | None = None,
) -> ImageClassifier:
    """Our own small classifier, for machines without a GPU."""
    half = [0.5] * channels
    network = CompactNet(channels, classes, widths, dims)
    return ImageClassifier(network, mean=half, std=half, pretrained=pretrained, weights=weights)


def named_classifier(
    name: str,
    channels: int = 1,
    classes: int = 2,
    pretrained: bool | str | None = None,
    weights: str | None = None,
) -> ImageClassifier:
    """A network by its name alone: `compact`, else torchvision's (for grey or colour images), else timm's.

    Raises:
        ConfigError: no such network (the nearest is named), or pretrained weights cannot be had.
    """
    import timm
    from torchvision import models

    if name == "compact":
        return compact(channels, classes, pretrained=pretrained, weights=weights)
    if channels in (1, 3) and name in models.list_models(models):
        return torchvision_classifier(name, classes, pretrained, weights)
    if timm.is_model(name):
        return timm_classifier(name, channels, classes, pretrained, weights)
    known = ["compact", *models.list_models(models), *timm.list_models()]
    raise ConfigError(f"classifier.name: neither torchvision nor timm has a network '{name}'{hint(name, known)}")


def timm_classifier(
    name: str,
    channels: int = 1,
    classes: int = 2,
    pretrained: bool | str | None = None,
    weights: str | None = None,
) -> ImageClassifier:
    """Any timm network, e.g. `name=convnext_tiny`; its published mean and std (averaged for grey images).

    Args:
        pretrained: True fetches published weights once; a file, see `ImageClassifier`.

    Raises:
        ConfigError: no such network (the nearest is named), or pretrained weights cannot be had.
    """
    import timm

    if not timm.is_model(name):
        raise ConfigError(f"classifier.name: timm has no network '{name}'{hint(name, timm.list_models())}")
    fetch = pretrained is True and weights is None
    try:
        network = timm.create_model(name, in_chans=channels, num_classes=classes, pretrained=fetch)
    except OSError as error:
        raise ConfigError(f"classifier.pretrained: {_unreachable(f'timm weights of {name}')}") from error
    except RuntimeError as error:
        if not fetch:
            raise
        raise ConfigError(f"classifier.pretrained: {' '.join(str(error).split())}") from error
    published: Any = network.pretrained_cfg
    mean, std = published["mean"], published["std"]
    if channels != len(mean):
        mean, std = [sum(mean) / len(mean)] * channels, [sum(std) / len(std)] * channels
    return ImageClassifier(network, mean=mean, std=std, pretrained=None if fetch else pretrained, weights=weights)


def torchvision_classifier(
    name: str, classes: int = 2, pretrained: bool | str | None = None, weights: str | None = None
) -> ImageClassifier:
    """Any torchvision classification network, e.g. `name=resnet18`; grey images are repeated to RGB.

    Args:
        pretrained: True fetches published weights once; a file, see `ImageClassifier`.

    Raises:
        ConfigError: no such network, or pretrained weights cannot be had.
    """
    from torchvision import models

    if name not in models.list_models(models):
        known = models.list_models(models)
        raise ConfigError(f"classifier.name: torchvision has no network '{name}'{hint(name, known)}")
    one_output = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, num_classes=classes, **one_output)
    fetch = pretrained is True and weights is None
    if fetch:
        try:
            state = models.get_model_weights(name)["DEFAULT"].get_state_dict(progress=True)
        except OSError as error:
            raise ConfigError(f"classifier.pretrained: {_unreachable(f'torchvision weights of {name}')}") from error
        own = network.state_dict()
        network.load_state_dict({k: v for k, v in state.items() if k in own and own[k].shape == v.shape}, strict=False)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return ImageClassifier(network, mean=mean, std=std, pretrained=None if fetch else pretrained, weights=weights)


def monai_classifier(
    name: str,
    channels: int = 1,
    classes: int = 2,
    dims: int = 2,
    pretrained: bool | str | None = None,
    weights: str | None = None,
) -> ImageClassifier:
    """A MONAI network for images or volumes: densenet121, densenet169, resnet10, resnet18, resnet34 or resnet50.

    Raises:
        ConfigError: no such network.
    """
    from monai.networks import nets

    densenets = {"densenet121": nets.DenseNet121, "densenet169": nets.DenseNet169}
    resnets = {
        "resnet10": nets.resnet10,
        "resnet18": nets.resnet18,
        "resnet34": nets.resnet34,
        "resnet50": nets.resnet50,
    }
    network: nn.Module
    if name in densenets:
        network = densenets[name](spatial_dims=dims, in_channels=channels, out_channels=classes)
    elif name in resnets:
        network = resnets[name](spatial_dims=dims, n_input_channels=channels, num_classes=classes)
    else:
        raise ConfigError(f"classifier.name: choose one of {', '.join([*densenets, *resnets])}, not '{name}'.")
    half = [0.5] * channels
    return ImageClassifier(network, mean=half, std=half, pretrained=pretrained, weights=weights)


def _unreachable(what: str) -> str:
    return f"the {what} are neither cached nor reachable; name a local file there, or null."
