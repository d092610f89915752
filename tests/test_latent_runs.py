"""Whole runs that explain in the code of an autoencoder, from their config, on a few small images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_method_runs import CLASSIFIER, KIDNEY, run

from cfxai import load_run
from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF
from cfxai.config.compose import compose
from cfxai.errors import ConfigError, DataError
from cfxai.losses import logit_lead
from cfxai.methods.latent_shift import LatentShift
from cfxai.methods.optimise_latent import OptimiseLatent
from cfxai.training import train

SMALL = (
    *("trainer.steps=4", "trainer.validation_images=4", "autoencoder.width=8", "autoencoder.latent=8"),
    *("autoencoder.multipliers=[1,2]", "autoencoder.encoder_multipliers=[1,2]", "method.autoencoder.sampling.steps=3"),
    *("evaluation.max_images=6", "evaluation.threshold_images=4", "evaluation.panels=2", "evaluation.sweep_images=0"),
)


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[str, ...]:
    """Of three classes: dark, bright above, bright below; with an age, and a scanner that one does not state."""
    random = np.random.default_rng(0)
    label = np.arange(60) % 3
    images = random.uniform(0, 60, (60, 32, 32))
    images[label == 1, :16] += 150
    images[label == 2, 16:] += 150
    np.savez(tmp_path / "stack.npz", images=images.astype(np.uint8))
    rows = [{"image": f"stack.npz::{i}", "label": label[i], "patient": f"p{i}"} for i in range(60)]
    scanner = ["", "B"] + ["A", "B"] * 29
    table = pd.DataFrame(rows).assign(age=(50 + 10 * label + random.normal(size=60)).round(1), scanner=scanner)
    table.assign(split=["train"] * 42 + ["val"] * 6 + ["test"] * 12).iloc[::-1].to_csv(
        tmp_path / "table.csv", index=False
    )
    return (
        "data=folder", f"data.manifest={tmp_path / 'table.csv'}", "data.size=32", "data.classes=[dark,above,below]",
        "classifier.classes=3", "method.told=label", "method.space.kind=multinomial", "method.space.classes=3",
    )  # fmt: skip


def test_three_classes_without_order_and_a_column_held(pictures: tuple[str, ...], tmp_path: Path) -> None:
    directory, found = run(tmp_path, "dae_kidney", *pictures, *SMALL, "method.space.hold=[age]")
    ours = found["explainers"]["latent_shift"]
    assert ours["reencoded_flip_rate"] is not None
    loaded = load_run(directory)
    test = loaded.data.split("test")
    batch = test.batch(range(12))
    ages = pd.read_csv(tmp_path / "table.csv", dtype=str).set_index("patient")["age"]
    assert batch["columns"]["age"] == ages[batch["group"]].tolist()
    method = loaded.method
    assert isinstance(method, LatentShift)
    z = method.encode(batch["image"])
    target = (batch["label"] + 1) % 3
    moved = method.space.to_class(z, target, 1.0)
    assert torch.equal(method.space.predicted(moved), target)
    assert method.space.confounders.any()
    assert ((moved - z) @ method.space.confounders.T).abs().max() < 1e-5 * (moved - z).abs().max()


def test_the_published_form_explains(tmp_path: Path) -> None:
    published = ("compat=dae2024", "autoencoder.attention=[]", "autoencoder.heads=1", "autoencoder.embedding=8")
    steps = ("method.autoencoder.sampling.inversion_steps=3", "method.autoencoder.sampling.render_steps=2")
    small = [setting for setting in SMALL if "sampling.steps" not in setting]
    directory, found = run(tmp_path, "dae_kidney", *published, *steps, *KIDNEY, *small)
    assert found["explainers"]["latent_shift"]["head_auroc"] is not None
    assert load_run(directory).require_graded()


def test_an_autoencoder_by_itself_is_trained_and_explains_nothing(tmp_path: Path) -> None:
    small = [setting.replace("method.autoencoder.", "method.") for setting in SMALL]
    directory, found = run(tmp_path, "dae_kidney", "method=diffusion_autoencoder", *KIDNEY, *small)
    assert found["explainers"] == {}
    assert found["classifier"]["auroc"] is not None
    assert (directory / "latents/latents.npz").is_file()
    assert "val_z_wrong" in (directory / "metrics.csv").read_text().splitlines()[0]
    loaded = load_run(directory)
    assert loaded.method is None
    with pytest.raises(ConfigError, match="diffusion_autoencoder, which explains nothing by itself"):
        loaded.require_method()


def test_columns_are_asked_for_before_the_training(pictures: tuple[str, ...], tmp_path: Path) -> None:
    settings = [*pictures, *SMALL, *CLASSIFIER, f"cache={tmp_path / 'cache'}"]
    cfg = compose(CONF / "dae_kidney.yaml", [*settings, "method.space.hold=[weight]"])
    with pytest.raises(DataError, match=r"no column weight.*they have age, label, scanner"):
        train(cfg, tmp_path / "run")
    parts = Parts(compose(CONF / "dae_kidney.yaml", [*settings, "method.space.hold=[scanner]"]))
    with pytest.raises(DataError, match="Column scanner is empty for 1 of 42"):
        parts["method"].require(parts["data"].split("train").known(range(42)))


def test_a_search_goes_through_a_real_rendering(pictures: tuple[str, ...], tmp_path: Path) -> None:
    settings = [*pictures, *SMALL, *CLASSIFIER, "verify=none", f"cache={tmp_path / 'cache'}"]
    cfg = compose(CONF / "optimise_latent_kidney.yaml", settings)
    method = Parts(cfg)["method"]
    assert isinstance(method, OptimiseLatent)
    random = torch.Generator().manual_seed(0)
    for weight in method.network.parameters():  # some are zero before any training
        weight.data += 0.1 * torch.randn(weight.shape, generator=random)
    method.space.fit(torch.randn(60, 8, generator=random), torch.arange(60) % 3)
    image, target = torch.rand(3, 1, 32, 32, generator=random) - 0.5, torch.tensor([2, 1, 0])
    found = method.generate(image, target)
    z = method.encode(image)
    rendered = method.autoencoder.render(method.autoencoder.encode_stochastic(image, z), z).clamp(-1, 1)
    leads = [logit_lead(method.classifier(x), target).detach() for x in (rendered, found.counterfactual)]
    assert (found.extras["move"] > 0).any()
    assert (leads[1] > leads[0])[found.extras["move"] > 0].all()
    assert not found.counterfactual.requires_grad
