"""What components promise each other. Images are in [-1, 1] everywhere; normalisation lives inside the classifier."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

Image = Float[Tensor, "b c *spatial"]
Saliency = Float[Tensor, "b *spatial"]
Mask = Bool[Tensor, "b *spatial"]
RegionMaps = Float[Tensor, "b r *spatial"]
Labels = Int[Tensor, " b"]
Logits = Float[Tensor, "b k"]

Verify = Callable[[Image, Image, Labels, nn.Module], Image]
"""(image, counterfactual, target, classifier) -> the counterfactual without needless changes, as of `HideAndSeek`."""

NORMAL = 0
"""The label of images without a finding, and the classifier's class for them."""


@dataclass(frozen=True)
class Counterfactual:
    """An image and what it would have looked like for the classifier to call it `target`; all detached.

    Attributes:
        channel: the one that masks belong to, where others are neighbouring slices; None = all alike.
    """

    image: Image
    counterfactual: Image
    target: Labels
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    channel: int | None = None

    @property
    def difference(self) -> Saliency:
        """|x - x_cf|, of `channel` or averaged over all, halved, so that [0, 1] is the whole intensity range."""
        change = (self.image - self.counterfactual).abs() / 2
        return change.mean(1) if self.channel is None else change[:, self.channel]


@dataclass(frozen=True)
class Result:
    """One batch of one explainer's explanations: all that a metric may look at.

    Attributes:
        image: [b c *spatial] in [-1, 1].
        label: [b], 0 = normal.
        saliency: [b *spatial], the map after the mask extractor's normalisation, in [0, 1].
        mask: [b *spatial], `saliency` thresholded and post-processed.
        group: patient of each image, the unit of the bootstrap.
        probability: [b k], the classifier's softmax on `image`.
        truth: [b *spatial] lesion mask; None when the data set has none.
        counterfactual: None for attributors.
        counterfactual_probability: [b k], the classifier's softmax on the counterfactual; None for attributors.
        case: the volume that each image is or is a slice of; of pictures, the patient. None = the patients.
        voxel_mm3: what a pixel of each image stands for (of a slice, area times thickness), mm³; None where unknown.
        grade: [b], the severity, 0 = normal; None when the data set has none.
        returned: [b c *spatial], the counterfactual's counterfactual for the image's own label; None where the
            explainer goes one way only.
    """

    image: Image
    label: Labels
    saliency: Saliency
    mask: Mask
    group: tuple[str, ...]
    probability: Logits
    truth: Mask | None = None
    counterfactual: Counterfactual | None = None
    counterfactual_probability: Logits | None = None
    case: tuple[str, ...] | None = None
    voxel_mm3: tuple[float | None, ...] | None = None
    grade: Labels | None = None
    returned: Image | None = None


@runtime_checkable
class Classifier(Protocol):
    """The classifier under explanation: always k >= 2 logits, class 0 normal."""

    def __call__(self, image: Image) -> Logits: ...


@runtime_checkable
class Explainer(Protocol):
    """Moves an image to the target class. Manages its own grad mode; leaves the classifier untouched.

    The normal class can always be asked for; an abnormal one if the explainer has `both_ways = True`.
    """

    def generate(self, image: Image, target: Labels) -> Counterfactual: ...


def goes_both_ways(explainer: Any) -> bool:
    """Whether an explainer can also make images abnormal."""
    return isinstance(explainer, Explainer) and bool(getattr(explainer, "both_ways", False))


@runtime_checkable
class Target(Protocol):
    """What an attributor is asked about: one number per image, made from the network's output.

    `target[i]`, with an index, slice or tensor of indices, is the same question about those images of the batch.
    """

    def score(self, output: Tensor) -> Float[Tensor, " b"]:
        """On the scale of logits, differentiable."""
        ...

    def probability(self, output: Tensor) -> Float[Tensor, " b"]:
        """The same in [0, 1], for methods that average probabilities."""
        ...

    def __getitem__(self, images: int | slice | Tensor) -> "Target": ...


@runtime_checkable
class Attributor(Protocol):
    """What each pixel contributes to the target: raw, > 0 for it, < 0 against it; never rescaled per image.

    The same map for an image alone and inside a batch; the classifier's weights, modes and hooks stay as they were.
    Labels ask about a class's logit. A map that would be wrong for the network or the target is an `UnsuitableError`.
    """

    def attribute(self, image: Image, target: Labels | Target) -> Saliency: ...


@runtime_checkable
class Regions(Protocol):
    """Where the parts of an image are: one map in [0, 1] per name; parts may overlap and need not cover the image.

    `batch` has "image" [b c *spatial], and with some data sets "region", "organ" or "mask".
    """

    names: Sequence[str]

    def __call__(self, batch: Mapping[str, Any]) -> RegionMaps: ...


@runtime_checkable
class MaskExtractor(Protocol):
    """A map to a binary mask; the only place where a map is normalised."""

    def __call__(self, saliency: Saliency) -> Mask: ...


@runtime_checkable
class Metric(Protocol):
    """A running metric; ignores results that it does not apply to."""

    def update(self, result: Result) -> None: ...

    def compute(self) -> dict[str, Any]: ...


@runtime_checkable
class Method(Protocol):
    """Something trainable.

    `losses` yields (optimizer name, weighted loss terms); when control returns, that optimizer has stepped. A GAN step
    then reads as its paper does and the loop knows nothing of GANs.
    """

    modules: nn.ModuleDict
    optimizers: Mapping[str, Optimizer]

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Iterator[tuple[str, dict[str, Tensor]]]: ...


@runtime_checkable
class Clips(Protocol):
    """A method that wants gradients cut to a norm before a step: the most it may be, by the optimizer's name."""

    clips: Mapping[str, float]


@runtime_checkable
class Fitted(Protocol):
    """A method with a part that is fitted to the whole training split, anew whenever the method is to explain.

    `batches` have the split's images as they are, on the method's device: "image", "label", "group", perhaps "grade"
    and the manifest's other "columns". Before the training, `require` is shown what is known of all the images, without
    their pixels, to refuse data that could not be fitted to.
    """

    def require(self, batch: Mapping[str, Any]) -> None: ...

    def fit(self, batches: Iterable[Mapping[str, Any]]) -> None: ...


@runtime_checkable
class ChecksItself(Protocol):
    """A method that measures on validation images what only it knows to measure, by name."""

    def checks(self, image: Image) -> dict[str, float]: ...


@runtime_checkable
class Encodes(Protocol):
    """A method that makes a code of each image, always the same one; `network` is what makes it."""

    network: nn.Module

    def encode(self, image: Image) -> Float[Tensor, "b z"]: ...


@runtime_checkable
class Graded(Protocol):
    """An explainer that can show an image at any severity, along one scale from normal to the worst."""

    def levels(self, count: int) -> Float[Tensor, " n"]: ...

    def severity(self, image: Image) -> Float[Tensor, " b"]: ...

    def sweep(self, image: Image, levels: Float[Tensor, " n"]) -> Float[Tensor, "n b c *spatial"]: ...
