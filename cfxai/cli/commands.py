"""The commands `tools/train.py` and `tools/eval_counterfactual.py`: arguments in, work started, exit code out.

Hydra, torch and the drivers are imported only once the arguments are known to need them, so that `--help` is instant.
`-c` and `-cp` mean what they mean to COIN's users (an experiment, a run); `-c job` still means Hydra's `--cfg job`.
"""

import os
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cfxai.cli.arguments import INTERRUPTED, Arguments, attributors, run
from cfxai.cli.help import evaluate_help, train_help
from cfxai.config.catalogue import CONF, experiments
from cfxai.config.nearest import hint
from cfxai.errors import ConfigError, DataError
from cfxai.run.locate import discard_empty, locate, reserve

if TYPE_CHECKING:
    from omegaconf import DictConfig

SHOW = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def train() -> NoReturn:
    """`tools/train.py`."""
    run(train_command)


def evaluate() -> NoReturn:
    """`tools/eval_counterfactual.py`."""
    run(evaluate_command)


def train_command(argv: list[str]) -> int:
    """Start a run, a sweep or a continuation; return the exit code."""
    arguments = _train_arguments(argv)
    if arguments.help:
        print(train_help())
        return 0
    if arguments.run and arguments.config:
        raise ConfigError("-c starts a new run and -cp continues one; give only one of them")
    if arguments.run:
        return _continue(arguments)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # otherwise Hydra prints errors and exits by itself
    experiment = _experiment(arguments)
    asked = _questions_to_hydra(arguments)
    if asked:
        return _ask_hydra(experiment, asked, arguments)
    return _start(experiment, arguments)


def evaluate_command(argv: list[str]) -> int:
    """Evaluate a run; return the exit code."""
    arguments = _evaluate_arguments(argv)
    if arguments.help:
        print(evaluate_help())
        return 0
    if arguments.run is None:
        raise ConfigError("name a run: python tools/eval_counterfactual.py -cp runs/NAME")
    directory, checkpoint = locate(arguments.run)
    from cfxai.evaluation import evaluate as evaluate_run

    evaluate_run(
        checkpoint or directory,
        cf_threshold=arguments.cf_threshold,
        tau=arguments.tau,
        postprocess=arguments.postprocess,
        saliency_threshold=arguments.saliency_threshold,
        skip_fid=arguments.skip_fid,
        faithfulness=arguments.faithfulness,
        sanity=arguments.sanity,
        attributors=arguments.attributors,
        operating_point=arguments.operating_point,
        max_images=arguments.max_images,
    )
    return 0


def _train_arguments(argv: list[str]) -> Namespace:
    parser = Arguments()
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--cfg", choices=SHOW)
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("-p", "--package")
    parser.add_argument("--info", nargs="?", const="all", choices=INFO)
    parser.add_argument("-sc", "--shell-completion", action="store_true")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.read(argv)
    arguments.cfg = next((value for value in arguments.config if value in SHOW), arguments.cfg)
    arguments.config = [value for value in arguments.config if value not in SHOW]
    for word in arguments.overrides:
        if "=" not in word and not word.startswith("~"):
            advice = f"write -c {word}" if word.endswith((".yaml", ".yml")) else "a setting reads key=value"
            raise ConfigError(f"{word}: {advice}")
    return arguments


def _evaluate_arguments(argv: list[str]) -> Namespace:
    parser = Arguments()
    parser.add_argument("-cft", "--cf-threshold", type=_threshold)
    parser.add_argument("-t", "--tau", type=_fraction)
    parser.add_argument("-pcf", "--postprocess", action="store_true", default=None)
    parser.add_argument("-st", "--saliency-threshold", type=_fraction)
    parser.add_argument("-sf", "--skip-fid", action="store_true", default=None)
    parser.add_argument("-fa", "--faithfulness", action="store_true", default=None)
    parser.add_argument("-sa", "--sanity", action="store_true", default=None)
    parser.add_argument("-at", "--attributors", nargs="+", metavar="NAME")
    parser.add_argument("-op", "--operating-point", type=_operating_point)
    parser.add_argument("-n", "--max-images", type=_count)
    arguments = parser.read(argv)
    if arguments.attributors is not None:
        arguments.attributors = attributors(arguments.attributors)
    return arguments


def _threshold(text: str) -> float | str:
    return "auto" if text == "auto" else _fraction(text)


def _operating_point(text: str) -> float | str:
    from cfxai.config.schema import OPERATING_POINT

    value = float(text) if text.replace(".", "", 1).isdigit() else text
    holds, range_ = OPERATING_POINT
    if not holds(value):
        raise ArgumentTypeError(f"must be {range_}, got {text}")
    return value


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"must be a whole number, 1 or more, got {text}")
    return int(text)


def _fraction(text: str) -> float:
    """For argparse, which names the flag in front of the message."""
    try:
        value = float(text)
    except ValueError:
        raise ArgumentTypeError(f"expected a number, got {text!r}") from None
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return value


def _experiment(arguments: Namespace) -> Path:
    """The file that `-c` names; Hydra's own questions can also be asked of `conf/base.yaml`."""
    if len(arguments.config) > 1:
        raise ConfigError(f"-c {arguments.config[1]}: one experiment at a time; start the other one by itself")
    if arguments.config:
        return _existing(arguments.config[0])
    if arguments.cfg or arguments.info or arguments.shell_completion:
        return CONF / "base.yaml"
    raise ConfigError("name an experiment: python tools/train.py -c conf/coin_kidney.yaml (or -cp RUN, or --help)")


def _existing(name: str) -> Path:
    file = Path(name)
    if file.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"-c {name}: not a .yaml file{hint(f'conf/{file.name}.yaml', experiments())}")
    if not file.is_file():
        if name in experiments():  # started from another folder
            return CONF.parent / name
        beside = [str(other) for other in file.parent.glob("*.yaml")]
        raise ConfigError(f"-c {name}: no such file{hint(name, [*beside, *experiments()])}")
    return file


def _questions_to_hydra(arguments: Namespace) -> list[str]:
    """The flags with which Hydra shows something instead of running."""
    asked = []
    if arguments.cfg:
        asked += [f"--cfg={arguments.cfg}"]
        asked += ["--resolve"] if arguments.resolve else []
        asked += [f"--package={arguments.package}"] if arguments.package else []
    elif arguments.resolve or arguments.package:
        raise ConfigError("--resolve and --package go with --cfg job")
    asked += [f"--info={arguments.info}"] if arguments.info else []
    asked += ["--shell-completion"] if arguments.shell_completion else []
    if asked and arguments.multirun:
        raise ConfigError("-m starts runs and --cfg, --info and --shell-completion show things; leave one of them out")
    return asked


def _ask_hydra(experiment: Path, asked: list[str], arguments: Namespace) -> int:
    from cfxai.cli.sweep import run_hydra
    from cfxai.config.compose import complaints, compose, prepare_hydra

    if arguments.cfg == "job" and arguments.config:
        compose(experiment, arguments.overrides)
    prepare_hydra()
    with complaints(experiment, []):
        run_hydra(experiment, [*asked, *arguments.overrides])
    return 0


def _start(experiment: Path, arguments: Namespace) -> int:
    from cfxai.config.compose import complaints, compose, require_complete

    cfg = compose(experiment, arguments.overrides, arguments.multirun)
    require_complete(cfg)
    directory = reserve(Path(cfg.run.root), cfg.run.name or experiment.stem)
    if not arguments.multirun:
        try:
            return _work(cfg, directory)
        except (ConfigError, DataError):
            discard_empty(directory)
            raise
    from cfxai.cli.sweep import sweep

    try:
        with complaints(experiment, []):
            return sweep(experiment, arguments.overrides, directory)
    except KeyboardInterrupt:
        return _interrupted(directory / "JOB")


def _continue(arguments: Namespace) -> int:
    if arguments.multirun or arguments.cfg or arguments.info:
        raise ConfigError("-cp continues one run as it was configured; -m, --cfg and --info go with -c")
    directory, checkpoint = locate(arguments.run)
    if checkpoint and checkpoint.name != "last.ckpt":
        raise ConfigError(
            f"-cp {arguments.run}: a run continues from its last checkpoint; name the run: -cp {directory}"
        )
    from cfxai.cli.saved import load_with

    return _work(load_with(directory, arguments.overrides), directory)


def _work(cfg: "DictConfig", directory: Path) -> int:
    from cfxai.training import train as train_run

    try:
        train_run(cfg, directory)
    except KeyboardInterrupt:
        return _interrupted(directory)
    return 0


def _interrupted(directory: Path) -> int:
    print(f"interrupted; continue with: python tools/train.py -cp {directory}", file=sys.stderr)
    return INTERRUPTED
