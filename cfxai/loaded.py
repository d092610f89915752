"""A run as an object, for notebooks and scripts: its data, its classifier, its method, and any attributor or regions.

run = cfxai.load_run("runs/coin_kidney")
batch = run.data.split("test").batch([0, 1])
counterfactual = run.method.generate(batch["image"], torch.zeros(2, dtype=torch.long))
saliency = run.attributor("rise", masks=200).attribute(batch["image"], batch["label"])
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cfxai.config.catalogue import CONF, options
from cfxai.config.nearest import hint
from cfxai.data.dataset import Data
from cfxai.errors import ConfigError
from cfxai.evaluation import best_checkpoint, load_config, load_parts
from cfxai.protocols import Attributor, Explainer, Regions
from cfxai.run.checkpoint import load_checkpoint, restore
from cfxai.run.directory import Run
from cfxai.run.locate import locate


class LoadedRun:
    """What a run trained, on the CPU or, if the run may use one, the GPU.

    Attributes:
        run: its directory. config: as it was resolved. device: where its networks are.
        classifier: frozen, in evaluation mode: images in [-1, 1] to logits.
        method: what it trained to explain the classifier; None where it has the classifier alone.
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
            self.method = method

    @property
    def data(self) -> Data:
        """Its images, prepared when they are first asked for."""
        return self.parts["data"]

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
