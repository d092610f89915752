"""A run as an object, for notebooks and scripts: its data, its classifier, its method, and any attributor or regions.

run = cfxai.load_run("runs/coin_kidney")
batch = run.data.split("test").batch([0, 1])
counterfactual = run.method.generate(batch["image"], torch.zeros(2, dtype=torch.long))
saliency = run.attributor("rise", masks=200).attribute(batch["image"], batch["label"])

explanation = run.explain("patient.nii.gz")     # or a PNG, JPEG, DICOM file, an array, a Pillow picture
print(explanation.before, explanation.after)
explanation.save("explained")
run.sweep("patient.nii.gz").save("explained")   # at every severity, if the run's method has such a scale
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from numpy import ndarray
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cfxai.config.catalogue import CONF, options
from cfxai.config.nearest import hint
from cfxai.data.dataset import Data
from cfxai.errors import ConfigError
from cfxai.evaluation import best_checkpoint, load_config, load_parts
from cfxai.explaining.classify import classify
from cfxai.explaining.explain import explain, saliency
from cfxai.explaining.explanation import Explanation
from cfxai.explaining.opening import Openable, Opened, open_image
from cfxai.explaining.sweep import Sweep, severity, sweep
from cfxai.protocols import Attributor, Explainer, Graded, Regions
from cfxai.run.checkpoint import load_checkpoint, restore
from cfxai.run.directory import Run, shown
from cfxai.run.locate import locate

COINS_THRESHOLD = 0.25
"""Of |x - x_cf|, for runs that were not evaluated."""


class LoadedRun:
    """What a run trained, on the CPU or, if the run may use one, the GPU.

    Attributes:
        run: its directory. config: as it was resolved. device: where its networks are.
        classifier: frozen, in evaluation mode: images in [-1, 1] to logits.
        method: what it trained to explain the classifier; None where it has the classifier alone, or what explains
            nothing by itself.
    """

    def __init__(self, path: Path) -> None:
        directory, checkpoint = locate(path)
        self.run = Run(directory)
        self.config = load_config(self.run)
        self.parts = load_parts(self.config, self.run)
        wants_gpu = self.config.trainer.accelerator != "cpu" and torch.cuda.is_available()
        self.device = torch.device("cuda" if wants_gpu else "cpu")
        self.classifier: nn.Module = self.parts["classifier"].to(self.device).eval().requires_grad_(False)
        self.method: Explainer | None = None
        if self.config.method:
            method = self.parts["method"]
            tensors, state = load_checkpoint(checkpoint or best_checkpoint(self.run))
            restore(method, tensors, state)
            method.modules.to(self.device)
            self.method = method if isinstance(method, Explainer) else None

    @property
    def data(self) -> Data:
        """Its images, prepared when they are first asked for."""
        return self.parts["data"]

    @property
    def threshold(self) -> float:
        """Of |x - x_cf|, from which a pixel is in the mask: that of the run's evaluation, or COIN's 0.25."""
        metrics = self.run.evaluation / "metrics.json"
        found = json.loads(metrics.read_text()).get("cf_threshold") if metrics.is_file() else None
        return COINS_THRESHOLD if found is None else float(found)

    def open(self, image: Openable, name: str | None = None) -> Opened:
        """An image of the user's, prepared as the run's own were; `name` is what messages call it.

        Raises:
            DataError: it cannot be read, is huge or tiny, or is not of the kind that the run explains.
        """
        return open_image(image, self.data.recipe, self.config.classifier.get("channels"), name)

    def explain(
        self,
        image: Openable | Opened,
        *,
        threshold: float | None = None,
        attributors: Iterable[str] | Mapping[str, Attributor] = (),
    ) -> Explanation:
        """What the image would have looked like for the classifier to call it otherwise, on the image's own grid.

        Args:
            image: a file (PNG, JPEG, TIFF, DICOM, NIfTI, NRRD, .npy), a folder with the slices of a DICOM series, an
                array of native values [row, column], [row, column, 3] or axial [slice, row, column], or a picture.
            threshold: of the mask, in [0, 1]; the run's own if None.
            attributors: saliency maps to show beside it, by name.

        Raises:
            ConfigError: the run has no method, or there is no such attributor.
            DataError: the image cannot be used.
        """
        method = self.require_method()
        if not isinstance(attributors, Mapping):
            attributors = {name: self.attributor(name) for name in attributors}
        return explain(
            image if isinstance(image, Opened) else self.open(image),
            self.classifier,
            method,
            classes=self.data.classes,
            device=self.device,
            threshold=self.threshold if threshold is None else threshold,
            attributors=attributors,
            batch_size=self.config.evaluation.batch_size,
        )

    def sweep(self, image: Openable | Opened, levels: Sequence[float] | None = None) -> Sweep:
        """The image as it would look at each level of severity, on its own grid; of a volume, all slices.

        Args:
            image: as for `explain`.
            levels: on the method's scale: grades, or from 0 = as normal images are to 1 = as abnormal ones are. None =
                up to nine over the whole scale.

        Raises:
            ConfigError: the run's method has no such scale, or does not know a level.
            DataError: the image cannot be used.
        """
        return sweep(
            image if isinstance(image, Opened) else self.open(image),
            self.classifier,
            self.require_graded(),
            levels,
            classes=self.data.classes,
            device=self.device,
            batch_size=self.config.evaluation.batch_size,
        )

    def severity(self, opened: Opened) -> float | None:
        """Where an image of `open`, or its most severe slice, is on the method's scale; None if that has none."""
        if not isinstance(self.method, Graded):
            return None
        try:
            return severity(opened, self.method, self.device, self.config.evaluation.batch_size)
        except ConfigError:  # its classes have no order
            return None

    def classify(self, opened: Opened) -> dict[str, float]:
        """By class, the probability of an image of `open`, or of a volume's most abnormal slice."""
        return classify(opened, self.classifier, self.data.classes, self.device, self.config.evaluation.batch_size)

    def saliency(self, opened: Opened, name: str) -> Float[ndarray, "depth h w"]:
        """An attributor's map of an image of `open`: what speaks for its most probable abnormal class, >= 0.

        Raises:
            ConfigError: there is no such attributor, or it does not suit the classifier.
        """
        batch_size = self.config.evaluation.batch_size
        return saliency(opened, self.attributor(name), self.classify(opened), self.device, batch_size)

    def require_method(self) -> Explainer:
        """The method.

        Raises:
            ConfigError: the run has none that explains.
        """
        if self.method is None:
            has = "has a classifier alone"
            if self.config.method:
                has = f"has {self.parts['method'].name}, which explains nothing by itself"
            raise ConfigError(f"-cp {shown(self.run.directory)}: {has}; name a run of a method that explains.")
        return self.method

    def require_graded(self) -> Graded:
        """The method, which can show an image at any severity.

        Raises:
            ConfigError: it cannot, or the run has a classifier alone.
        """
        if not isinstance(method := self.require_method(), Graded):
            raise ConfigError(
                f"-cp {shown(self.run.directory)}: its method has no scale of severity; name a run of"
                " method=latent_shift."
            )
        return method

    def attributor(self, name: str, classifier: nn.Module | None = None, **settings: Any) -> Attributor:
        """An attributor of conf/attribution for its classifier (or another one), set up as in the run, then as given.

        Raises:
            ConfigError: there is none of that name, or it has no such setting.
        """
        offered = {} if classifier is None else {"classifier": classifier}
        node = self.config.attribution[name] if name in self.config.attribution else _option("attribution", name)
        return self.parts.fresh(_changed(node, settings), f"attribution.{name}", **offered)

    def regions(self, name: str, **settings: Any) -> Regions:
        """The regions of conf/regions, set up as there, then as given.

        Raises:
            ConfigError: there are none of that name, or they have no such setting.
        """
        return self.parts.fresh(_changed(_option("regions", name), settings), "regions")


def load_run(path: str | Path) -> LoadedRun:
    """The run in a directory, at its best checkpoint, or at the checkpoint that `path` names.

    Raises:
        ConfigError: not a run, or one that is not trained yet.
    """
    return LoadedRun(Path(path))


def _option(group: str, name: str) -> DictConfig:
    known = options(group)
    if name not in known:
        raise ConfigError(f"{group}={name}: no such option{hint(name, known)}")
    node = OmegaConf.load(CONF / group / f"{name}.yaml")
    assert isinstance(node, DictConfig)
    return node


def _changed(node: DictConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """With `settings`, whose keys may be dotted."""
    node = node.copy()
    for key, value in settings.items():
        OmegaConf.update(node, key, value, force_add=True)
    changed = OmegaConf.to_container(node)
    assert isinstance(changed, dict)
    return {str(key): value for key, value in changed.items()}
