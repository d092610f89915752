"""COIN's own code, from a checkout of Dmytro-Shvetsov/counterfactual-search, on our initial weights."""

import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import lightning_fabric
import torch
from torch import Tensor, nn

from cfxai.methods.coin import Coin

# What it imports, needs for other tasks only, and does not install.
ABSENT = ("segmentation_models_pytorch", "pytorch_toolbelt", "pytorch_toolbelt.losses", "easydict", "torchsampler")
# Its names -> ours, by the first pattern that fits.
NAMES = [
    (r"enc\.first_block\.(\d)\.", r"generator.stem.\1."),
    (r"enc\.blocks\.(\d)\.left_branch\.1\.", r"generator.encoder.\1.shortcut.1."),
    (r"enc\.blocks\.(\d)\.right_branch\.", r"generator.encoder.\1.body."),
    (r"gen\.blocks\.(\d)\.left_branch\.1\.", r"generator.decoder.\1.shortcut."),
    (r"gen\.blocks\.(\d)\.cbn_relu_first\.", r"generator.decoder.\1.norm1."),
    (r"gen\.blocks\.(\d)\.cbn_relu_second\.", r"generator.decoder.\1.norm2."),
    (r"gen\.blocks\.(\d)\.upsample_conv\.1\.", r"generator.decoder.\1.conv1."),
    (r"gen\.blocks\.(\d)\.last_conv\.", r"generator.decoder.\1.conv2."),
    (r"gen\.last_block\.", r"generator.head."),
    (r"disc\.blocks\.(\d)\.left_branch\.\d\.", r"discriminator.blocks.\1.shortcut."),
    (r"disc\.blocks\.(\d)\.right_branch\.(\d)\.", r"discriminator.blocks.\1.body.\2."),
    (r"disc\.sn_dense\.", r"discriminator.verdict."),
    (r"disc\.embd\.", r"discriminator.embedding."),
]
# Its loss terms -> ours, and how much of ours one of its is.
TERMS = {
    "g_adv": ("adv", 1.0),
    "g_kl": ("kl", 1.0),
    "g_rec_loss": ("rec", 1.0),
    "g_minc_loss": ("minc", 1.0),
    "g_tv": ("tv", 1.0),
    "d_real_loss": ("d_real", 0.5),
    "d_fake_loss": ("d_fake", 0.5),
}
GENERATOR_EVERY = 5


class Options(dict[str, Any]):
    """A dictionary whose keys are attributes too."""

    __getattr__ = dict.__getitem__


class OneLogit(nn.Module):
    """The classifier as that code wants it: one logit for abnormal."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, image: Tensor) -> Tensor:
        logits = self.classifier(image)
        return logits[:, 1:] - logits[:, :1]


def schedule(checkout: Path, method: Coin, images: list[Tensor], width: float) -> Callable[[int], dict[str, float]]:
    """The number of a step -> its loss terms."""
    with redirect_stdout(StringIO()):  # it announces its channels
        model = imported(checkout)(images[0].shape[2:], options(width))
    model.classifier_f = OneLogit(method.classifier).eval()
    copy_weights(method.modules, model)
    model.train()
    batches = [
        {"image": image, "label": torch.zeros(len(image)), "masks": torch.zeros_like(image).repeat(1, 3, 1, 1)}
        for image in images
    ]

    def step(number: int) -> dict[str, float]:
        found = model(batches[number % len(batches)], training=True, global_step=number)["loss"]
        learns = number % GENERATOR_EVERY == 0  # otherwise its generator terms are those of an earlier step
        return {ours: share * found[name] for name, (ours, share) in TERMS.items() if learns or name.startswith("d_")}

    return step


def imported(checkout: Path) -> Any:
    """Its class of COIN's first version."""
    for name in ABSENT:
        sys.modules.setdefault(name, MagicMock())
    lightning = ModuleType("lightning")
    lightning.Fabric = lightning_fabric.Fabric  # type: ignore[attr-defined]
    sys.modules.setdefault("lightning", lightning)
    sys.path.insert(0, str(checkout))
    return import_module("src.models.cgan.counterfactual_inpainting_cgan").CounterfactualInpaintingCGAN


def options(width: float) -> Options:
    """Its configuration of the synthetic experiments."""
    channels = [max(8, int(width * full)) for full in (64, 128, 256, 512, 1024)]
    return Options(
        ptb_based=True,
        in_channels=1,
        gen_update_freq=GENERATOR_EVERY,
        adv_loss="mse",
        lambda_adv=1.0,
        lambda_kl=5.0,
        lambda_rec=1.0,
        lambda_tv=0.05,
        precision="32",
        cyclic_rec=True,
        lr=0.0002,
        b1=0.0,
        b2=0.999,
        num_bins=2,
        explain_class_idx=0,
        n_classes=1,
        classifier_kind="resnet18",
        classifier_ckpt=None,
        enc_params={"downsample_scales": [2] * 5, "out_channels": channels},
        gen_params={
            "upsample_scales": [2] * 5,
            "out_channels": channels[::-1],
            "upsample_kind": "nearest",
            "skip_conn": [1, 2, 3, 4],
        },
        disc_params={"downsample_scales": [2] * 5 + [1], "out_channels": [*channels, channels[-1]]},
    )


def copy_weights(modules: nn.Module, model: nn.Module) -> None:
    """Ours into its parameters and buffers; each must have its own."""
    ours = {
        name.replace("parametrizations.weight.original", "weight").replace("parametrizations.weight.0.u", "u"): value
        for name, value in modules.state_dict().items()
        if not name.startswith("average.")
    }
    theirs = {name: value for name, value in model.state_dict().items() if not name.startswith("classifier_f.")}
    pairs = {our_name(name): value for name, value in theirs.items()}
    if pairs.keys() != ours.keys():
        raise SystemExit(f"--peer: its networks are others: {sorted(pairs.keys() ^ ours.keys())[:3]}")
    for name, value in pairs.items():
        value.copy_(ours[name].reshape(value.shape))


def our_name(name: str) -> str:
    pattern, replacement = next(pair for pair in NAMES if re.match(pair[0], name))
    return re.sub(pattern, replacement, name).replace(".bn.", ".norm.").replace(".embed.", ".embedding.")
