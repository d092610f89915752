"""Config to objects: sharing by name, and what a config may not do."""

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cfxai.config.build import Parts
from cfxai.config.targets import check_targets, find
from cfxai.errors import ConfigError

HERE = __name__


class Encoder:
    def __init__(self, width: int = 4) -> None:
        self.width = width


class Painter:
    def __init__(self, encoder: Encoder, loss: dict[str, float], *, sharpness: float = 1.0, seed: int = 7) -> None:
        self.encoder, self.loss, self.sharpness, self.seed = encoder, loss, sharpness, seed


class Chicken:
    def __init__(self, egg: Any) -> None: ...


class Egg:
    def __init__(self, chicken: Any) -> None: ...


class Buggy:
    def __init__(self) -> None:
        raise TypeError("a mistake of ours")


def part(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"{HERE}.{name}", **arguments}


def config(**sections: Any) -> dict[str, Any]:
    return {
        "plugins": [HERE],
        "encoder": part("Encoder"),
        "loss": {"kl": 1.0},
        "painter": part("Painter"),
        **sections,
    }


def test_siblings_are_built_once_and_shared_by_name() -> None:
    parts = Parts(config(seed=3))
    painter = parts["painter"]
    assert painter is parts["painter"]
    assert painter.encoder is parts["encoder"]
    assert (painter.loss, painter.seed, painter.sharpness) == ({"kl": 1.0}, 3, 1.0)


def test_given_objects_take_precedence() -> None:
    encoder = Encoder(9)
    assert Parts(config(), encoder=encoder)["painter"].encoder is encoder


def test_fresh_components_are_not_shared_but_their_siblings_are() -> None:
    parts = Parts(OmegaConf.create(config()))
    one, two = parts.fresh(part("Painter")), parts.fresh(part("Painter"), sharpness=2.0, unknown=1)
    assert one is not two
    assert one.encoder is two.encoder is parts["encoder"]
    assert (one.sharpness, two.sharpness) == (1.0, 2.0)


def test_nested_components_receive_siblings_too() -> None:
    parts = Parts(config(team={"members": [part("Painter"), part("Painter", sharpness=3)]}))
    first, second = parts["team"]["members"]
    assert first.encoder is second.encoder is parts["encoder"]
    assert second.sharpness == 3


def test_partial_leaves_the_rest_for_later() -> None:
    optimizer = Parts(
        {"optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.5, "betas": [0.0, 0.9]}}
    )
    made = optimizer["optimizer"]
    assert isinstance(made, partial)
    adam = made([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(adam, torch.optim.Adam)
    assert adam.defaults["lr"] == 0.5


def test_positional_arguments() -> None:
    layers = [{"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}, {"_target_": "torch.nn.ReLU"}]
    model = Parts({"model": {"_target_": "torch.nn.Sequential", "_args_": layers}})["model"]
    assert [type(layer) for layer in model] == [torch.nn.Linear, torch.nn.ReLU]


def test_a_library_takes_no_optional_argument_from_a_sibling_of_the_same_name() -> None:
    parts = Parts(
        config(bias=None, dtype="nonsense", model={"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2})
    )
    assert parts["model"].bias is not None


@pytest.mark.parametrize(
    ("sections", "name", "message"),
    [
        ({"painter": part("Painter", sharpnes=2)}, "painter", r"painter\.sharpnes: .* did you mean sharpness\?"),
        (
            {"painter": part("Painter", sharpness="very")},
            "painter",
            r"painter\.sharpness: expected a number, got 'very'",
        ),
        ({"painter": part("Painter", seed=1.5)}, "painter", r"painter\.seed: expected a whole number, got 1\.5"),
        ({"encoder": None}, "painter", r"painter\.encoder: .* needs it; set painter\.encoder"),
        ({"encoder": part("Encoder", width="???")}, "painter", r"encoder\.width: has no value"),
        ({"encoder": part("Encoda")}, "encoder", r"did you mean Encoder\?"),
        ({"encoder": {"_target_": "torch.nn.Lineer"}}, "encoder", r"encoder: .* did you mean Linear\?"),
        ({"encoder": {"_target_": "cfxai.methds.coin.Coin"}}, "encoder", r"did you mean methods\?"),
        (
            {"encoder": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": -1}},
            "encoder",
            "refuses its",
        ),
        ({}, "paintr", r"paintr: .* did you mean painter\?"),
        ({"egg": part("Egg"), "chicken": part("Chicken")}, "egg", r"egg: needs itself \(egg -> chicken -> egg\)"),
    ],
)
def test_mistakes_are_one_sentence(sections: dict[str, Any], name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Parts(config(**sections))[name]
    assert "\n" not in str(caught.value)


def test_a_bug_in_a_component_stays_a_bug() -> None:
    with pytest.raises(TypeError, match="a mistake of ours"):
        Parts(config(bug=part("Buggy")))["bug"]


FORBIDDEN = [
    "os.system",
    "subprocess.run",
    "builtins.eval",
    "pickle.loads",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.utils.cpp_extension.load",
    "torch.utils.collect_env.run",
    "torch.package.PackageImporter",
    "torch._C._jit_clear_class_registry",
    "torch.nn.modules.module._forward_unimplemented",
    "torch.distributed.run.main",
    "monai.bundle.run",
    "monai.apps.utils.download_url",
    "monai.utils.misc.run_cmd",
    "timm.models.load_checkpoint",
    "numpy.load",
]


@pytest.mark.parametrize("target", FORBIDDEN)
def test_forbidden_targets_are_refused_at_any_depth_before_anything_is_built(target: str) -> None:
    node = {"_target_": target}
    for cfg in (
        {"a": node},
        {"a": {"b": [1, {"c": node}]}},
        {"a": {"_target_": "torch.nn.Sequential", "_args_": [node]}},
    ):
        with pytest.raises(ConfigError, match="not allowed"):
            check_targets(cfg)
        with pytest.raises(ConfigError, match="not allowed"):
            Parts(cfg)
    with pytest.raises(ConfigError, match="not allowed"):
        Parts({}).fresh(node)


@pytest.mark.parametrize(
    "target",
    ["cfxai.config.build.inspect.os.system", "cfxai.config.targets.import_module", "cfxai.cli.commands.sys.exit"],
)
def test_a_name_that_leads_out_of_the_package_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match="which a config may not name"):
        find(target)


@pytest.mark.parametrize("plugin", ["os", "subprocess", "builtins", "torch", "monai"])
def test_plugins_cannot_open_the_standard_library_or_a_whole_framework(plugin: str) -> None:
    with pytest.raises(ConfigError, match="plugins"):
        check_targets({"plugins": [plugin]})


@given(
    st.text(max_size=12).filter(lambda text: not {"$", "."} & set(text))
    | st.integers()
    | st.none()
    | st.lists(st.text(max_size=3), max_size=2)
)
def test_targets_that_are_no_dotted_names(target: Any) -> None:
    with pytest.raises(ConfigError):
        check_targets({"a": {"_target_": target}})


def test_hydra_switches_are_refused() -> None:
    with pytest.raises(ConfigError, match="_recursive_"):
        check_targets({"a": {"_target_": "torch.nn.ReLU", "_recursive_": False}})
