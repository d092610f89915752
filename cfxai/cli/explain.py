"""The command `tools/explain.py`: a run applied to a user's images."""

from argparse import Namespace
from pathlib import Path
from typing import NoReturn

from cfxai.cli.commands import Arguments, run
from cfxai.cli.help import explain_help
from cfxai.config.catalogue import options
from cfxai.config.nearest import hint
from cfxai.errors import ConfigError, DataError
from cfxai.run.locate import locate


def explain() -> NoReturn:
    """`tools/explain.py`."""
    run(explain_command)


def explain_command(argv: list[str]) -> int:
    """Explain images; return the exit code."""
    arguments = _arguments(argv)
    if arguments.help:
        print(explain_help())
        return 0
    if arguments.run is None:
        raise ConfigError("name a run: python tools/explain.py -cp runs/NAME IMAGE")
    locate(arguments.run)
    if not arguments.images:
        raise ConfigError(f"name images: python tools/explain.py -cp {arguments.run} IMAGE")
    from cfxai.explain_files import explain_files
    from cfxai.loaded import load_run

    problems = explain_files(
        load_run(arguments.run),
        arguments.images,
        arguments.out,
        attributors=arguments.attributors,
        threshold=arguments.cf_threshold,
        sweep=arguments.sweep,
    )
    return DataError.exit_code if problems else 0


def _arguments(argv: list[str]) -> Namespace:
    parser = Arguments()
    parser.add_argument("images", nargs="*", type=Path)
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("-at", "--attributors", nargs="+", metavar="NAME", default=[])
    parser.add_argument("-cft", "--cf-threshold", type=float)
    parser.add_argument("--sweep", action="store_true")
    arguments = parser.read(argv)
    if arguments.cf_threshold is not None and not 0 <= arguments.cf_threshold <= 1:
        raise ConfigError(f"-cft {arguments.cf_threshold}: must be between 0 and 1")
    known = options("attribution")
    # `-at rise scan.nii.gz` is meant as it reads: what is a file and no attributor is an image.
    names = [word for word in arguments.attributors if word in {*known, "all"} or not Path(word).exists()]
    arguments.images += [Path(word) for word in arguments.attributors if word not in names]
    for name in names:
        if name not in {*known, "all"}:
            raise ConfigError(f"-at {name}: no such attributor{hint(name, [*known, 'all'])}")
    arguments.attributors = list(known) if "all" in names else names
    return arguments
