"""CAMs by gradients against pytorch-grad-cam, captum and each other."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from attributor_promises import LABELS, SIZE, BlobDetector, Promises, SmallNet, calibrated, planted, random_images
from captum.attr import GuidedBackprop as CaptumGuidedBackprop
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM as PeerGradCAM
from pytorch_grad_cam import GradCAMPlusPlus as PeerGradCAMPlusPlus
from pytorch_grad_cam import HiResCAM as PeerHiResCAM
from pytorch_grad_cam import LayerCAM as PeerLayerCAM
from pytorch_grad_cam import XGradCAM as PeerXGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from cfxai.attribution.cam import CAM, GradCAM, GradCAMPlusPlus, GradientCAM, HiResCAM, LayerCAM, XGradCAM
from cfxai.attribution.guided_grad_cam import GuidedGradCAM
from cfxai.attribution.targets import Contrast, Finding
from cfxai.errors import UnsuitableError

ATTRIBUTORS = {
    "cam": CAM,
    "grad_cam": GradCAM,
    "grad_cam_plus_plus": GradCAMPlusPlus,
    "xgrad_cam": XGradCAM,
    "hires_cam": HiResCAM,
    "layer_cam": LayerCAM,
    "guided_grad_cam": GuidedGradCAM,
}
PEERS = {
    GradCAM: PeerGradCAM,
    GradCAMPlusPlus: PeerGradCAMPlusPlus,
    XGradCAM: PeerXGradCAM,
    HiResCAM: PeerHiResCAM,
    LayerCAM: PeerLayerCAM,
}


@pytest.mark.parametrize("make", ATTRIBUTORS.values(), ids=ATTRIBUTORS)
class TestEveryAttributor(Promises): ...


class MLPHead(SmallNet):
    """Its gradients differ from position to position, and it is not linear in the maps."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 6 * 5, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(self.stem(image)))


def network(make: Callable[[], nn.Module] = SmallNet) -> nn.Module:
    torch.manual_seed(0)
    return calibrated(make(), *SIZE)


@pytest.mark.parametrize("make", [SmallNet, MLPHead])
@pytest.mark.parametrize("ours", PEERS, ids=lambda method: method.__name__)
def test_is_pytorch_grad_cams_before_its_scaling(ours: type[GradientCAM], make: Callable[[], nn.Module]) -> None:
    net, images = network(make), random_images()
    with torch.no_grad():
        for parameter in net.head.parameters():
            parameter *= 1000  # beside which the peer's epsilons are nothing
    targets = [ClassifierOutputTarget(int(label)) for label in LABELS]
    with PEERS[ours](model=net, target_layers=[net.body]) as peer:
        peer(input_tensor=images, targets=targets)
        seen = peer.activations_and_grads
        activations, gradients = seen.activations[0].numpy(), seen.gradients[0].numpy()
        small = torch.from_numpy(peer.get_cam_image(images, net.body, targets, activations, gradients, False))
    expected = F.interpolate(small[:, None], size=SIZE, mode="bilinear")[:, 0]
    assert torch.allclose(ours(net).attribute(images, LABELS), expected, rtol=1e-4, atol=1e-5 * small.abs().max())


def test_grad_cam_is_captums() -> None:
    net, images = network(MLPHead), random_images()
    expected = LayerGradCam(net, net.body).attribute(images, target=LABELS).detach()
    expected = F.interpolate(expected, size=SIZE, mode="bilinear")[:, 0]
    assert torch.allclose(GradCAM(net).attribute(images, LABELS), expected, atol=1e-6)


def test_layer_cam_weighs_each_position_by_its_positive_gradient() -> None:
    net, images = network(MLPHead), random_images()
    maps = net.body(net.stem(images)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(net.head(maps).gather(1, LABELS[:, None]).sum(), maps)
    expected = (gradient.clamp_min(0) * maps).sum(1, keepdim=True).detach()
    expected = F.interpolate(expected, size=SIZE, mode="bilinear")[:, 0]
    assert torch.allclose(LayerCAM(net).attribute(images, LABELS), expected, atol=1e-6)


def test_linear_heads_make_cam_grad_cam_and_hires_cam_the_same_up_to_the_number_of_positions() -> None:
    net, images = network(), random_images()
    cam, grad_cam, hires_cam = (method(net).attribute(images, LABELS) for method in (CAM, GradCAM, HiResCAM))
    assert torch.allclose(grad_cam, hires_cam, atol=1e-7)
    assert torch.allclose(cam, grad_cam * 6 * 5, atol=1e-6)
    assert (cam < 0).any()
    maps = net.body(net.stem(images)).detach()
    expected = torch.einsum("bk,bkhw->bhw", net.head.weight[LABELS], maps)
    assert torch.allclose(cam, F.interpolate(expected[:, None], size=SIZE, mode="bilinear")[:, 0], atol=1e-6)


@pytest.mark.parametrize("method", [HiResCAM, XGradCAM])
def test_sums_over_positions_to_gradient_times_activation(method: type[GradientCAM]) -> None:
    net, images = network(MLPHead), random_images()
    maps = net.body(net.stem(images)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(net.head(maps).gather(1, LABELS[:, None]).sum(), maps)
    expected = (gradient * maps).flatten(1).sum(1).detach()
    assert torch.allclose(method(net).combine(maps.detach(), gradient).flatten(1).sum(1), expected, atol=1e-6)


def test_grad_cam_plus_plus_is_its_formula_before_anything_cancels() -> None:
    net, images = network(MLPHead), random_images()
    maps = net.body(net.stem(images)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(net.head(maps).gather(1, LABELS[:, None]).sum(), maps)
    a, g = maps.detach().double(), gradient.double()
    alpha = g**2 / (2 * g**2 + a.sum((2, 3), keepdim=True) * g**3)
    expected = ((alpha.nan_to_num() * g.relu()).sum((2, 3), keepdim=True) * a).sum(1).float()
    assert torch.allclose(GradCAMPlusPlus(net).combine(maps.detach(), gradient), expected, rtol=1e-4)


def test_cam_refuses_another_head() -> None:
    class Squared(SmallNet):
        def forward(self, image: Tensor) -> Tensor:
            return self.head(self.pool(self.body(self.stem(image))).flatten(1)) ** 2

    for make in (MLPHead, Squared):
        with pytest.raises(UnsuitableError, match=r"cam: layer 'body' is not followed .* use grad_cam"):
            CAM(network(make)).attribute(random_images(), LABELS)


def test_grad_cam_plus_plus_refuses_negative_maps() -> None:
    maps = -torch.ones(1, 2, 3, 3)
    with pytest.raises(UnsuitableError, match="negative"):
        GradCAMPlusPlus(network()).combine(maps, torch.ones_like(maps))


def test_a_layer_that_the_target_does_not_read_is_refused() -> None:
    class TwoHeads(SmallNet):
        def forward(self, image: Tensor) -> Tensor:
            self.body(self.stem(image))
            return self.head(image[:, :, :8, 0].flatten(1))

    with pytest.raises(UnsuitableError, match="does not depend on 'body'"):
        GradCAM(network(TwoHeads)).attribute(random_images(), LABELS)


def test_a_contrast_is_the_difference_of_findings() -> None:
    net, images = network(), random_images()
    ones = torch.ones_like(LABELS)
    difference = GradCAM(net).attribute(images, Finding(2 * ones)) - GradCAM(net).attribute(images, Finding(0 * ones))
    assert torch.allclose(GradCAM(net).attribute(images, Contrast(2, 0)), difference, atol=1e-6)


def test_points_away_from_the_lesion_for_the_other_direction() -> None:
    image, lesion = planted()
    saliency = GradCAM(BlobDetector()).attribute(image, Contrast(0, 1))
    assert saliency[lesion].max() < 0


def test_guided_grad_cam_is_captums_guided_backprop_where_grad_cam_is_positive() -> None:
    net, images = network(), random_images()
    net.stem[2].inplace = net.body[1].inplace = False  # which captum's hooks need
    guided = CaptumGuidedBackprop(net).attribute(images, target=LABELS).sum(1)
    expected = guided * GradCAM(net).attribute(images, LABELS).clamp_min(0)
    assert torch.allclose(GuidedGradCAM(net).attribute(images, LABELS), expected, atol=1e-6)
