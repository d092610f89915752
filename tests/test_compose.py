"""Composing an experiment: every mistake in a file or an override is one sentence that names the key."""

import dataclasses
import random
import string
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from cfxai.config import overrides, schema
from cfxai.config.catalogue import CONF, description
from cfxai.config.compose import compose, require_complete
from cfxai.config.nearest import hint
from cfxai.errors import ConfigError

EXPERIMENT = """\
# a small experiment
defaults: [base, {loss: mild}, _self_]
method: {_target_: cfxai.methods.coin.Coin, steps: 2, momentum: [0.5, 0.9]}
data: {_target_: cfxai.data.dataset.Data, size: 64, plane: axial, flip: true, manifest: null, tags: {}}
classifier: {_target_: cfxai.nn.Net, width: 8}
trainer: {steps: 10}
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mild.yaml").write_text("# mild\nkl: 1.0\ntv: 0.1\nadversarial: hinge\n")
    (tmp_path / "loss" / "strong.yaml").write_text("# strong\nkl: 9.0\ntv: 0.9\nadversarial: hinge\n")
    file = tmp_path / "small.yaml"
    file.write_text(EXPERIMENT)
    return file


def message(experiment: Path, *lines: str, multirun: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(experiment, lines, multirun)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_experiment_is_a_difference_to_base(experiment: Path) -> None:
    cfg = compose(experiment, ["loss.kl=2", "trainer.batch_size=4", "evaluation.cf_threshold=0.25", "+data.extra=1"])
    base = OmegaConf.load(CONF / "base.yaml")
    assert (cfg.trainer.steps, cfg.trainer.batch_size, cfg.trainer.log_every) == (10, 4, base.trainer.log_every)
    assert (cfg.loss.kl, cfg.loss.tv, cfg.evaluation.cf_threshold, cfg.data.extra) == (2, 0.1, 0.25, 1)
    assert "hydra" not in cfg
    require_complete(cfg)


def test_components_are_chosen_by_name_and_interpolations_resolved(experiment: Path) -> None:
    cfg = compose(experiment, ["loss=strong", "loss.tv=${loss.kl}"])
    assert (cfg.loss.kl, cfg.loss.tv) == (9.0, 9.0)


def test_an_experiment_can_build_on_another(experiment: Path) -> None:
    file = experiment.with_name("ablation.yaml")
    file.write_text("defaults: [small, _self_]\nloss: {kl: 0.0}\n")
    assert compose(file, []).loss.kl == 0.0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("loss.kll=2", "loss.kll: no such key; did you mean loss.kl?"),
        ("trainr.steps=2", "trainr.steps: no such key; did you mean trainer.steps?"),
        ("trainer.stepz=2", "trainer.stepz: no such key; did you mean trainer.steps?"),
        ("los=mild", "los: no such key; did you mean loss?"),
        ("loss=mildd", "loss=mildd: no such option; did you mean mild?"),
        ("data=phantomm", "data=phantomm: no such option; did you mean phantom?"),
        ("~loss.x", "loss.x: no such key"),
        ("loss.kl=abc", "loss.kl: expected a number, got 'abc'"),
        ("loss={kl: abc}", "loss.kl: expected a number, got 'abc'"),
        ("loss={kll: 1}", "loss.kll: no such key; did you mean loss.kl?"),
        ("loss.adversarial=1", "loss.adversarial: expected text, got 1"),
        ("data.flip=1", "data.flip: expected true or false, got 1"),
        ("data.size=true", "data.size: expected a number, got True"),
        ("data.plane=[a]", "data.plane: expected text, got ['a']"),
        ("method.momentum=0.9", "method.momentum: expected a list, got 0.9"),
        ("method.momentum=[a,b]", "method.momentum: expected a number, got 'a'"),
        ("trainer.steps=abc", "trainer.steps: expected a whole number, got 'abc'"),
        ("trainer.steps=1.5", "trainer.steps: expected a whole number, got '1.5'"),
        ("seed=abc", "seed: expected a number, got 'abc'"),
        ("seed=1.5", "seed: must be a whole number, 0 or more, got 1.5"),
        ("trainer.steps=0", "trainer.steps: must be more than 0, got 0"),
        ("trainer.precision=bf17", "trainer.precision: must be one of"),
        ("evaluation.cf_threshold=1.5", "evaluation.cf_threshold: must be between 0 and 1, or auto, got 1.5"),
        ("evaluation.cf_threshold=automatic", "evaluation.cf_threshold: must be between 0 and 1, or auto"),
        ("evaluation.attributors=[rize]", "evaluation.attributors: rize: no such attributor; did you mean rise?"),
        ("loss.kl=${loss.kll}", "${loss.kll} points to no key; did you mean loss.kl?"),
        ("a=[1", "a=[1: not an override"),
        ("loss.kl=1,2", "several values make a sweep; add -m"),
        ("data._target_=os.system", "data._target_: os.system is not allowed"),
        ("hydra.run.dir=x", "hydra.run.dir: has no effect without -m"),
    ],
)
def test_mistaken_overrides(experiment: Path, override: str, said: str) -> None:
    assert said in message(experiment, override)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("trainr: {steps: 3}", "small.yaml: trainr: no such key; did you mean trainer?"),
        ("loss: {kll: 3}", "small.yaml: loss.kll: no such key; did you mean loss.kl?"),
        ("loss: {kl: abc}", "small.yaml: loss.kl: expected a number, got 'abc'"),
        ("sed: 3", "small.yaml: sed: no such key; did you mean seed?"),
        ("seed: {a: 1}", "small.yaml: seed: expected a number"),
        ("evaluation: {taw: 0.5}", "evaluation.taw: no such key; did you mean evaluation.tau?"),
        ("evaluation: {tau: much}", "evaluation.tau: expected a number, got 'much'"),
        ("generator: [1\nx", "small.yaml, line "),
        (
            "loss: {kl: !!python/object/apply:os.system [echo]}",
            "line 7: YAML tags that build Python objects are refused",
        ),
        ("loss: {adversarial: !!python/object/apply:pathlib.Path [x]}", "loss.adversarial: is a Python object"),
        ("loss: {adversarial: !!binary aGk=}", "loss.adversarial: is a Python object"),
        ("encoder: {_target_: os.system}", "encoder._target_: os.system is not allowed"),
        ("hydra: {callbacks: {x: {_target_: os.system}}}", "small.yaml: hydra.callbacks: is set by cfxai"),
        ("hydra: {job_logging: {root: {level: DEBUG}}}", "small.yaml: hydra.job_logging: is set by cfxai"),
        ("hydra: {launcher: {_target_: os.system}}", "hydra.launcher._target_: os.system is not a plugin"),
    ],
)
def test_mistakes_in_the_file(experiment: Path, line: str, said: str) -> None:
    experiment.write_text(EXPERIMENT + line + "\n")
    assert said in message(experiment)


def test_a_file_that_does_not_build_on_base(experiment: Path) -> None:
    experiment.write_text("method: null\n")
    assert "begin it with defaults: [base, _self_]" in message(experiment)
    experiment.write_text("defaults: [bas, _self_]\n")
    assert "builds on bas.yaml, which is not found" in message(experiment)
    experiment.write_text("defaults: [base, {loss: mid}, _self_]\n")
    assert "loss=mid: no such option; did you mean mild?" in message(experiment)


def test_a_component_of_ones_own_is_not_a_typo(experiment: Path) -> None:
    experiment.write_text(EXPERIMENT + "plugins: [mine]\nsegmenter: {_target_: mine.Net, width: 3}\n")
    assert compose(experiment, ["segmenter.width=4"]).segmenter.width == 4


def test_missing_values_are_named_with_their_options(experiment: Path) -> None:
    experiment.write_text("defaults: [base, _self_]\nmethod: null\nclassifier: null\n")
    with pytest.raises(ConfigError, match=r"data: has no value; set data=… \(one of conf/data\)"):
        require_complete(compose(experiment, []))


def test_every_value_of_a_sweep_is_checked(experiment: Path) -> None:
    assert compose(experiment, ["loss.kl=0.5,1,2", "loss=mild,strong", "seed=range(0,3)"], multirun=True).loss.kl == 0.5
    assert "loss.kl: expected a number, got 'x'" in message(experiment, "loss.kl=1,x", multirun=True)
    assert "trainer.steps: expected a whole number, got 'x'" in message(experiment, "trainer.steps=1,x", multirun=True)
    assert "trainer.steps: must be more than 0" in message(experiment, "seed=1,2", "trainer.steps=5,0", multirun=True)
    assert "loss=odd: no such option" in message(experiment, "loss=mild,odd", multirun=True)
    assert "run.name: belongs to the whole sweep" in message(experiment, "run.name=a,b", multirun=True)
    assert "hydra.sweep.dir: is set by cfxai" in message(experiment, "hydra.sweep.dir=x", multirun=True)


@pytest.fixture
def family(experiment: Path) -> Path:
    """An experiment in which one of a family of experiments is chosen."""
    folder = experiment.parent / "experiment/family"
    folder.mkdir(parents=True)
    (folder / "first.yaml").write_text("# @package _global_\ndefaults: [override /loss: strong, _self_]\nseed: 3\n")
    (folder / "second.yaml").write_text("# @package _global_\nloss: {kl: 0.5}\npaper: {iou: 0.4}\n")
    experiment.write_text(EXPERIMENT.replace("_self_]", "_self_, experiment/family: first]"))
    return experiment


def test_an_experiment_of_a_family_is_chosen_like_a_component(family: Path) -> None:
    first, second = compose(family, []), compose(family, ["experiment/family=second"])
    assert (first.loss.kl, first.seed, first.paper.iou) == (9.0, 3, None)
    assert (second.loss.kl, second.seed, second.paper.iou) == (0.5, 0, 0.4)
    assert compose(family, ["loss.kl=7"]).loss.kl == 7
    for choice in ("glob(*)", "glob(f*)", "first,second"):
        assert compose(family, [f"experiment/family={choice}"], multirun=True).seed == 3
    assert compose(family, ["experiment/family=glob(s*)"], multirun=True).seed == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sede: 1", "sede: no such key; did you mean seed?"),
        ("loss: {kll: 1}", "loss.kll: no such key; did you mean loss.kl?"),
        ("loss: {kl: abc}", "loss.kl: expected a number, got 'abc'"),
        ("paper: {fidd: 1}", "paper.fidd: no such key; did you mean paper.fid?"),
        ("paper: {iou: high}", "paper.iou: expected a number, got 'high'"),
        ("data: {_target_: os.system}", "data._target_: os.system is not allowed"),
        ("trainer: {steps: 0}", "trainer.steps: must be more than 0, got 0"),
    ],
)
def test_every_experiment_that_a_sweep_chooses_is_checked(family: Path, text: str, said: str) -> None:
    (family.parent / "experiment/family/third.yaml").write_text(f"# @package _global_\n{text}\n")
    assert said in message(family, "experiment/family=third")
    assert said in message(family, "experiment/family=glob(*)", multirun=True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("experiment/family=frist", "experiment/family=frist: no such option; did you mean first?"),
        ("experiment/family=first,frist", "experiment/family=frist: no such option; did you mean first?"),
        ("experiment/family=glob(x*)", "experiment/family=glob(x*): no option matches"),
        ("experiment/famly=first", "experiment/famly: no such key; did you mean experiment/family?"),
    ],
)
def test_mistaken_choices_of_experiments(family: Path, line: str, said: str) -> None:
    assert said in message(family, line, multirun=True)


def test_a_hundred_misspelt_keys_are_rejected_with_the_right_hint(experiment: Path) -> None:
    """Edit distance 1: a letter dropped, added or changed."""
    draw = random.Random(0)
    tree: Any = OmegaConf.to_container(compose(experiment, []))
    known = sorted(overrides.paths(tree))
    hints: list[bool] = []
    with initialize_config_dir(str(experiment.parent), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        taken = {*known, *loader.list_groups("")}
        while len(hints) < 100:
            key = draw.choice(known)
            at, letter = draw.randrange(len(key)), draw.choice(string.ascii_lowercase)
            rest = draw.choice([key[at + 1 :], letter + key[at:], letter + key[at + 1 :]])
            misspelt = key[:at] + rest
            if misspelt not in taken and all(name.isidentifier() for name in misspelt.split(".")):
                with pytest.raises(ConfigError, match="no such key") as caught:
                    overrides.check(overrides.read(f"{misspelt}=1", loader, False), loader, tree, tree)
                hints.append(str(caught.value).endswith(f"did you mean {key}?"))
    assert sum(hints) >= 95


@pytest.mark.parametrize(
    ("word", "end"), [("kll", "; did you mean kl?"), ("zzz", "; choose from kl, tv"), ("", "; choose from kl, tv")]
)
def test_hints(word: str, end: str) -> None:
    assert hint(word, ["tv", "kl"]) == end
    assert hint("zzz", [f"option_{number}" for number in range(40)]) == ""
    assert hint("zzz", []) == ""


def test_base_has_a_default_for_every_setting_and_explains_each() -> None:
    text = (CONF / "base.yaml").read_text()
    base: Any = OmegaConf.load(CONF / "base.yaml")
    for name, section in schema.SECTIONS.items():
        assert {field.name for field in dataclasses.fields(section)} == set(base[name])
    assert set(schema.RANGES) <= set(overrides.paths(OmegaConf.to_container(base)))
    settings = [line for line in text.splitlines() if ": " in line and not line.startswith(("defaults", "#"))]
    assert all("#" in line for line in settings)


def test_every_component_file_says_what_it_is() -> None:
    for file in CONF.rglob("*.yaml"):
        assert description(file), file
