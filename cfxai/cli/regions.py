"""The command `tools/regions.py`: where in the anatomy a run's maps lie, with tests and a page to look at."""

from argparse import Namespace
from pathlib import Path
from typing import NoReturn

from cfxai.cli.arguments import Arguments, attributors, run
from cfxai.cli.help import regions_help
from cfxai.config.catalogue import options
from cfxai.errors import ConfigError

SCORES = ("share", "enrichment", "mean", "positive", "negative")


def regions() -> NoReturn:
    """`tools/regions.py`."""
    run(regions_command)


def regions_command(argv: list[str]) -> int:
    """Study a run; return the exit code."""
    arguments = _arguments(argv)
    if arguments.help:
        print(regions_help())
        return 0
    if arguments.run is None:
        raise ConfigError("name a run: python tools/regions.py -cp runs/NAME regions=lung_zones")
    name, changes = _regions(arguments.overrides)
    from cfxai.region_study.study import Study, study

    study(
        arguments.run,
        Study(
            regions=name,
            changes=changes,
            attributors=arguments.attributors,
            split=arguments.split,
            score=arguments.score,
            contrast=tuple(arguments.contrast),
            covariates=arguments.covariates,
            table=arguments.table,
            published=arguments.published,
            findings=arguments.findings,
            terms=arguments.terms,
            draws=arguments.permutations,
            max_images=arguments.max_images,
            seed=arguments.seed,
        ),
    )
    return 0


def _arguments(argv: list[str]) -> Namespace:
    parser = Arguments()
    parser.add_argument("-at", "--attributors", nargs="+", metavar="NAME")
    parser.add_argument("-s", "--split", choices=("test", "val", "train"), default="test")
    parser.add_argument("-sc", "--score", choices=SCORES, default="share")
    parser.add_argument("-ct", "--contrast", nargs=2, type=int, metavar=("A", "B"), default=(1, 0))
    parser.add_argument("-cov", "--covariates", nargs="+", metavar="COLUMN", default=[])
    parser.add_argument("--table", type=Path)
    parser.add_argument("-pub", "--published", choices=("seed", "paper"))
    parser.add_argument("--findings", type=Path)
    parser.add_argument("--terms", type=Path)
    parser.add_argument("-p", "--permutations", type=int, default=5000)
    parser.add_argument("-n", "--max-images", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.read(argv)
    # `-at rise regions=thirds` is meant as it reads: what has an equals sign is no name.
    for flag in ("attributors", "covariates"):
        words = getattr(arguments, flag) or []
        arguments.overrides += [word for word in words if "=" in word]
        if words:
            setattr(arguments, flag, [word for word in words if "=" not in word])
    if arguments.attributors is not None:
        arguments.attributors = attributors(arguments.attributors)
    for flag, least in (("permutations", 100), ("max_images", 2), ("seed", 0)):
        value = getattr(arguments, flag)
        if value is not None and value < least:
            raise ConfigError(f"--{flag.replace('_', '-')} {value}: must be {least} or more")
    return arguments


def _regions(words: list[str]) -> tuple[str, dict[str, object]]:
    """`regions=NAME regions.key=value …` as the name and the changes."""
    from omegaconf import OmegaConf

    name, changes = None, {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key.partition(".")[0] != "regions":
            raise ConfigError(f"{word}: write regions=NAME, or regions.KEY=VALUE for a setting of theirs")
        if key == "regions":
            name = value
        else:
            inner = key.removeprefix("regions.")
            changes[inner] = OmegaConf.select(OmegaConf.from_dotlist([f"{inner}={value}"]), inner)
    if name is None:
        raise ConfigError(f"name the regions: regions=NAME with one of {', '.join(options('regions'))}")
    return name, changes
