"""The diffusion autoencoder's own code, from a checkout of matanat/dae_counterfactual, on our initial weights."""

import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from cfxai.loop import keyed
from cfxai.methods.diffusion_autoencoder import DiffusionAutoencoder
from cfxai.nn.diffusion_unet import DiffusionUNet
from cfxai.nn.modulated_block import SelfAttention

# What it imports and does not need for a step, or does not have.
ABSENT = ("pytorch_lightning.callbacks", "lmdb", "lmdb_writer", "medmnist", "medmnist.dataset", "pytorch_fid", "lpips")
# The names inside of its blocks and attentions -> ours.
INSIDE = {
    "in_layers.0.": "norm.",
    "in_layers.2.": "conv.",
    "emb_layers.1.": "from_time.",
    "cond_emb_layers.1.": "from_z.",
    "out_layers.0.": "second_norm.",
    "out_layers.3.": "second_conv.",
    "skip_connection.": "shortcut.",
    "qkv.": "inputs.",
    "proj_out.": "output.",
}
STAGE = ("block", "then")
MIDDLE = ("middle.0.block", "middle.0.then", "middle.1.block")


class Module(nn.Module):
    """What its class uses of a LightningModule; logging costs nothing."""

    global_rank = 0

    def save_hyperparameters(self, *_: Any) -> None:
        pass

    def log(self, *_: Any) -> None:
        pass

    def all_gather(self, value: Tensor) -> Tensor:
        return value


def schedule(
    checkout: Path, method: DiffusionAutoencoder, images: list[Tensor], width: int, half: bool
) -> tuple[nn.Module, Callable[[int], dict[str, float]]]:
    """Its network, and the number of a step -> the loss; `half`: in fp16, as it is trained on GPUs."""
    device = images[0].device
    with redirect_stdout(StringIO()):  # it announces its size
        code = imported(checkout)
        configuration = code.brats64_autoenc()
        configuration.net_ch, configuration.fp16, configuration.seed = width, half, None
        configuration.make_model_conf()
        model = code.LitModel(configuration).to(device)
    for network in (model.model, model.ema_model):
        copy_weights(method, network)
    optimizer, scaler = model.configure_optimizers()["optimizer"], GradScaler(device.type, enabled=half)

    def drawn(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return torch.randint(configuration.T, (size,), device=device), torch.ones(size, device=device)

    model.T_sampler.sample = drawn  # times as we draw them: its own come from numpy

    def step(number: int) -> dict[str, float]:
        torch.manual_seed(keyed(0, number))
        batch = {configuration.dataset_img_key: (images[number % len(images)] + 1) / 2}
        loss = model.training_step(batch, number)["loss"]
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        model.on_before_optimizer_step(optimizer)
        scaler.step(optimizer)
        scaler.update()
        code.ema(model.model, model.ema_model, configuration.ema_decay)
        return {"denoise": loss.item()}

    return model.model, step


def imported(checkout: Path) -> Any:
    """Its module of templates, with stand-ins for Lightning and for what a step does not need."""
    lightning = MagicMock()
    lightning.LightningModule = Module
    sys.modules["pytorch_lightning"] = lightning
    for name in ABSENT:
        sys.modules[name] = MagicMock()
    sys.path.insert(0, str(checkout))
    warnings.simplefilter("ignore")  # of the torch that it was written for
    return import_module("templates")


def copy_weights(method: DiffusionAutoencoder, network: nn.Module) -> None:
    """Ours into its parameters; each must have its own.

    Raises:
        SystemExit: the networks are others.
    """
    ours, unet = dict(method.autoencoder.named_parameters()), method.autoencoder.unet
    pairs = {our_name(name, unet): value for name, value in network.named_parameters()}
    if pairs.keys() != ours.keys():
        raise SystemExit(f"--peer: its networks are others: {sorted(pairs.keys() ^ ours.keys())[:3]}")
    with torch.no_grad():
        for name, value in pairs.items():
            value.copy_(ours[name].reshape(value.shape))


def our_name(name: str, unet: DiffusionUNet) -> str:
    network = "encoder." if name.startswith("encoder.") else "unet."
    part, number, *inside = name.removeprefix("encoder.").removeprefix("time_embed.").split(".")
    index = int(number)
    match part:
        case "time_embed":
            place = f"time.{index}"
        case "out":
            place = f"head.{index}"
        case "middle_block":
            place = MIDDLE[index]
        case "input_blocks":
            place = f"down.stages.{index - 1}.{STAGE[int(inside[0])]}" if index else "down.stem.1"
            inside = inside[1:]
        case _:
            level, stage = divmod(index, unet.plan.blocks + 1)
            attends = isinstance(cast(nn.ModuleList, unet.up[level])[stage].then, SelfAttention)
            there = [f"up.{level}.{stage}.{kind}" for kind in STAGE[: 1 + attends]]
            place = [*there, f"grow.{level}.block"][int(inside[0])]
            inside = inside[1:]
    found = ".".join(inside)
    for theirs, own in INSIDE.items():
        found = own + found.removeprefix(theirs) if found.startswith(theirs) else found
    return f"{network}{place}.{found}"
