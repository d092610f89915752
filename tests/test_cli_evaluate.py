"""`tools/eval_counterfactual.py`: what its flags ask of the evaluation, which is a stand-in."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from command_line import complaint, exit_code, stand_in_project

from cfxai.cli import commands as cli
from cfxai.config.catalogue import groups

project = pytest.fixture(stand_in_project)


@pytest.fixture
def evaluated(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, dict[str, Any]]]:
    """Calls of a stand-in for `evaluate`, with a run to evaluate at hand."""
    calls: list[tuple[Path, dict[str, Any]]] = []
    evaluation: Any = ModuleType("cfxai.evaluation")
    evaluation.evaluate = lambda path, **options: calls.append((path, options))
    monkeypatch.setitem(sys.modules, "cfxai.evaluation", evaluation)
    exit_code("-c small.yaml")
    return calls


def test_what_is_not_said_is_left_to_the_run(evaluated: list[tuple[Path, dict[str, Any]]]) -> None:
    assert exit_code("-cp runs/small", cli.evaluate_command) == 0
    ((path, options),) = evaluated
    assert path == Path("runs/small")
    assert set(options.values()) == {None}


def test_short_and_long_flags(evaluated: list[tuple[Path, dict[str, Any]]]) -> None:
    short_flags = "-cft 0.25 -t 0.9 -pcf -st 0.9 -sf -fa -sa -op youden -n 9 -at rise layer_cam"
    exit_code(f"{short_flags} -cp runs/small", cli.evaluate_command)
    long = "--run runs/small --cf-threshold 0.25 --tau 0.9 --postprocess --saliency-threshold 0.9 --skip-fid"
    long += " --faithfulness --sanity --operating-point youden --max-images 9"
    exit_code(f"{long} --attributors rise layer_cam", cli.evaluate_command)
    exit_code("-cp runs/small -cft auto -at all -op 0.3", cli.evaluate_command)
    (_, short), (_, spelt_out), (_, everything) = evaluated
    assert short == spelt_out
    assert short == {
        "cf_threshold": 0.25,
        "tau": 0.9,
        "postprocess": True,
        "saliency_threshold": 0.9,
        "skip_fid": True,
        "faithfulness": True,
        "sanity": True,
        "attributors": ["rise", "layer_cam"],
        "operating_point": "youden",
        "max_images": 9,
    }
    assert everything["operating_point"] == 0.3
    assert (everything["cf_threshold"], everything["attributors"]) == ("auto", list(groups()["attribution"]))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "name a run: python tools/eval_counterfactual.py -cp"),
        ("-cp runs/smal", "no such run; did you mean runs/small?"),
        ("-cp runs/small -cft 1.5", "-cft/--cf-threshold: must be between 0 and 1, got 1.5"),
        ("-cp runs/small -cft aut", "-cft/--cf-threshold: expected a number, got 'aut'"),
        ("-cp runs/small -op 2", "-op/--operating-point: must be youden, sensitivity>=0.95,"),
        ("-cp runs/small -op yuden", "a probability between 0 and 1, got yuden"),
        ("-cp runs/small -n 0", "-n/--max-images: must be a whole number, 1 or more, got 0"),
        ("-cp runs/small -at rize", "-at rize: no such attributor; did you mean rise?"),
        ("-cp runs/small --taw 1", "--taw: no such flag; did you mean --tau?"),
    ],
)
def test_mistaken_evaluations(evaluated: list[tuple[Path, dict[str, Any]]], line: str, said: str) -> None:
    assert said in complaint(line, cli.evaluate_command)
    assert not evaluated
