"""Attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928)."""

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from cfxai.attribution.layouts import Tokens, patch_grid, vision_transformer
from cfxai.attribution.target_layer import upsample
from cfxai.errors import UnsuitableError
from cfxai.nn.freeze import frozen
from cfxai.protocols import Image, Labels, Saliency, Target


class AttentionRollout:
    """How much of each patch flows into what a vision transformer's head reads, through all layers.

    The product over layers of (A + I) / 2, A a layer's attention averaged over heads; its row of the class token, or
    the mean over the patches' rows where the head averages them. It says where the network looks, not why: the map is
    the same whatever the target, and never negative.

    Args:
        classifier: images in [-1, 1] to logits, with one of timm's vision transformers inside.

    Raises:
        UnsuitableError: (when asked) another kind of network, or attention of another kind than timm's `Attention`.
    """

    def __init__(self, classifier: nn.Module) -> None:
        self.classifier = classifier

    @torch.no_grad()
    def attribute(self, image: Image, target: Labels | Target) -> Saliency:
        transformer = self._transformer()
        rollout: list[Tensor] = []
        with ExitStack() as hooks, frozen(self.classifier):
            for block in transformer.blocks:
                # Fused attention never has its weights in memory; queries and keys pass through these two layers.
                queries: list[Tensor] = []
                hooks.enter_context(block.attn.q_norm.register_forward_hook(partial(_keep, queries)))
                hooks.enter_context(
                    block.attn.k_norm.register_forward_hook(partial(_roll, rollout, queries, block.attn))
                )
            self.classifier(image)
        tokens = Tokens(transformer.num_prefix_tokens, patch_grid(transformer, image.shape))
        read = rollout[0][:, :1] if transformer.global_pool == "token" else rollout[0][:, tokens.prefix :]
        maps = tokens.maps(read.mean(1)[..., None])  # one channel
        return upsample(maps[:, 0], image.shape[2:])

    def _transformer(self) -> Any:
        found = vision_transformer(self.classifier)
        blocks = list(getattr(found, "blocks", []))
        if not blocks or not all(type(getattr(block, "attn", None)) is Attention for block in blocks):
            raise UnsuitableError(
                "attention_rollout: this network's layers are not those of timm's vision transformers, whose attention "
                "it reads; use grad_cam, integrated_gradients, rise or occlusion."
            )
        return found


def _keep(queries: list[Tensor], _module: nn.Module, _args: object, output: Tensor) -> None:
    queries[:] = [output]


def _roll(
    rollout: list[Tensor], queries: list[Tensor], attention: Attention, _module: nn.Module, _args: object, keys: Tensor
) -> None:
    """Multiply one layer's (A + I) / 2 onto what `rollout` holds, [b n n]; queries and keys are [b heads n d]."""
    weights = (queries[0] @ keys.transpose(-2, -1) * attention.scale).softmax(-1).mean(1)
    step = (weights + torch.eye(weights.shape[-1]).to(weights)) / 2
    rollout[:] = [step @ rollout[0] if rollout else step]
