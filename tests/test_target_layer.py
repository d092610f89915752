"""Which layer a CAM reads and how, of convolutional networks, segmentation networks and transformers; rollout."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from attributor_promises import LABELS, SIZE, SmallNet, SmallSegmenter, calibrated, everything, random_images
from pytorch_grad_cam import GradCAM as PeerGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cfxai.attribution.ablation_cam import AblationCAM
from cfxai.attribution.attention_rollout import AttentionRollout
from cfxai.attribution.cam import GradCAM, HiResCAM, LayerCAM
from cfxai.attribution.rise import RISE
from cfxai.attribution.score_cam import ScoreCAM
from cfxai.attribution.targets import MaskedSum
from cfxai.errors import ConfigError, UnsuitableError
from cfxai.nn.classifiers import ImageClassifier

PICTURES = random_images(2, (32, 48))
CLASSES = torch.tensor([1, 0])


@cache
def vit(global_pool: str = "token", register_tokens: int = 0) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=(32, 48), patch_size=8, in_chans=1, num_classes=2, embed_dim=24, depth=3, num_heads=2,
        global_pool=global_pool, reg_tokens=register_tokens,
    ).eval()  # fmt: skip


@cache
def swin() -> SwinTransformer:
    torch.manual_seed(0)
    return SwinTransformer(
        img_size=(32, 48), patch_size=2, in_chans=1, num_classes=2, embed_dim=12, depths=(2, 2), num_heads=(2, 2),
        window_size=4,
    ).eval()  # fmt: skip


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return calibrated(SmallNet(), *SIZE)


def enlarged(maps: Tensor, size: tuple[int, ...] = (32, 48)) -> Tensor:
    return F.interpolate(maps[:, None], size=size, mode="bilinear")[:, 0]


def test_the_last_layer_with_positions_is_found() -> None:
    network, images = convolutional(), random_images()
    found = LayerCAM(network)
    found.attribute(images, LABELS)
    assert found.layer.name == "body"
    earlier = LayerCAM(network, layer="stem.0").attribute(images, LABELS)
    assert not torch.allclose(earlier, found.attribute(images, LABELS))


@pytest.mark.parametrize("layer", ["bdy", "head", "pool"])
def test_a_layer_without_maps_is_refused_by_name(layer: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{layer}' is not a layer .* stem.0, .* body"):
        LayerCAM(convolutional(), layer=layer).attribute(random_images(), LABELS)


def test_of_a_segmentation_network_the_bottleneck_is_read() -> None:
    mask = torch.zeros(3, *SIZE, dtype=torch.bool)
    mask[:, 4:10, 4:10] = True
    torch.manual_seed(0)
    grad_cam = GradCAM(SmallSegmenter())
    saliency = grad_cam.attribute(random_images(), MaskedSum(1, mask))
    assert grad_cam.layer.name == "down"
    assert saliency.any()


@pytest.mark.parametrize("channels_at_the_end", [True, False])
def test_transformers_of_unknown_layout_are_refused_with_the_way_out(channels_at_the_end: bool) -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.mix, self.head = nn.Conv2d(1, 16, 8, 8), nn.Linear(16, 16), nn.Linear(16, 2)

        def forward(self, image: Tensor) -> Tensor:
            patches = self.patches(image).permute(0, 2, 3, 1)  # [b h w c], as Swin; flattened, as ViT
            tokens = self.mix(patches if channels_at_the_end else patches.flatten(1, 2))
            return self.head(tokens.flatten(1, -2).mean(1))

    image, target = torch.rand(1, 1, 32, 32), torch.tensor([1])
    for attributor in (LayerCAM(Patches()), ScoreCAM(Patches()), AblationCAM(Patches())):
        with pytest.raises(UnsuitableError, match="rise"):
            attributor.attribute(image, target)
    assert RISE(Patches(), masks=8).attribute(image, target).shape == (1, 32, 32)


@pytest.mark.parametrize(("pool", "layer"), [("token", "blocks.2.norm1"), ("avg", "norm")])
def test_of_a_vit_the_last_patches_that_reach_the_head_are_read(pool: str, layer: str) -> None:
    network = vit(pool, register_tokens=0 if pool == "avg" else 4)
    prefix = network.num_prefix_tokens
    assert prefix == (0 if pool == "avg" else 5) or pool == "avg"

    def grid(tokens: Tensor) -> Tensor:
        return tokens[:, prefix:].transpose(1, 2).unflatten(2, (4, 6))

    targets = [ClassifierOutputTarget(int(label)) for label in CLASSES]
    module = network.get_submodule(layer)
    with PeerGradCAM(model=network, target_layers=[module], reshape_transform=grid) as peer:
        peer(input_tensor=PICTURES, targets=targets)
        seen = peer.activations_and_grads
        small = peer.get_cam_image(
            PICTURES, module, targets, seen.activations[0].numpy(), seen.gradients[0].numpy(), False
        )
    grad_cam = GradCAM(ImageClassifier(network, mean=[0.5], std=[0.5]))
    found = grad_cam.attribute(PICTURES, CLASSES)
    assert grad_cam.layer.name == f"network.{layer}"
    assert torch.allclose(found, enlarged(torch.from_numpy(small)), atol=1e-6)


def test_of_a_vit_a_layer_whose_patches_do_not_reach_the_head_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'norm' is not a layer .* blocks.2.norm1"):
        GradCAM(vit(), layer="norm").attribute(PICTURES, CLASSES)


def test_of_a_swin_transformer_channels_are_those_at_the_end() -> None:
    network, hires_cam = swin(), HiResCAM(swin())
    found = hires_cam.attribute(PICTURES, CLASSES)
    assert hires_cam.layer.name == "norm"
    tokens = network.norm(network.layers(network.patch_embed(PICTURES)))  # [b 8 12 c]
    expected = (tokens * network.head.fc.weight[CLASSES][:, None, None]).sum(3) / (8 * 12)
    assert torch.allclose(found, enlarged(expected.detach()), atol=1e-6)


@pytest.mark.parametrize("method", [ScoreCAM, AblationCAM])
def test_transformers_have_other_cams_too(method: type) -> None:
    for network in (vit(), swin()):
        saliency = method(network).attribute(PICTURES, CLASSES)
        assert saliency.shape == (2, 32, 48)
        assert saliency.isfinite().all()
        assert saliency.any()


@pytest.mark.parametrize(("pool", "registers"), [("token", 0), ("token", 4), ("avg", 0)])
def test_rollout_is_the_product_of_attention_with_skips(pool: str, registers: int) -> None:
    network = vit(pool, registers)
    before = everything(network)
    found = AttentionRollout(ImageClassifier(network, mean=[0.5], std=[0.5])).attribute(PICTURES, CLASSES)
    assert before == everything(network)

    weights: list[Tensor] = []
    for block in network.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _module, _args, output: weights.append(output))
    with torch.no_grad():
        network(PICTURES)
    for block in network.blocks:
        block.attn.fused_attn = True
        block.attn.attn_drop._forward_hooks.clear()
    product = torch.eye(weights[0].shape[-1])
    for attention in weights:
        product = (attention.mean(1) + torch.eye(len(product[-1]))) / 2 @ product
    prefix = network.num_prefix_tokens
    row = product[:, 0] if pool == "token" else product[:, prefix:].mean(1)
    assert torch.allclose(row.sum(1), torch.ones(2))
    assert torch.allclose(found, enlarged(row[:, prefix:].unflatten(1, (4, 6))), atol=1e-6)


def test_rollout_keeps_the_promises() -> None:
    rollout = AttentionRollout(vit())
    together = rollout.attribute(PICTURES, CLASSES)
    with torch.inference_mode():
        alone = rollout.attribute(PICTURES[1:], CLASSES[1:])
    assert torch.allclose(together[1:], alone, atol=1e-6)
    assert not together.requires_grad
    assert together.shape == (2, 32, 48)


@pytest.mark.parametrize("network", [convolutional, swin])
def test_rollout_refuses_networks_without_its_attention(network: object) -> None:
    with pytest.raises(UnsuitableError, match=r"attention_rollout: .* use grad_cam"):
        AttentionRollout(network()).attribute(PICTURES, CLASSES)  # type: ignore[operator]
