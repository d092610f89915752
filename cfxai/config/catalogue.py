"""What `conf/` offers: experiments, component groups and their options, each with its one-line description."""

from pathlib import Path

CONF = Path(__file__).resolve().parents[2] / "conf"
EXPERIMENT = "experiment/"
"""Begins the groups whose options are experiments, each a difference to the one that it is chosen in."""


def experiments() -> dict[str, str]:
    """Experiment files as `conf/name.yaml` -> description."""
    files = sorted(CONF.glob("*.yaml"))
    return {f"{CONF.name}/{file.name}": description(file) for file in files if file.stem != "base"}


def groups() -> dict[str, dict[str, str]]:
    """Component groups, nested ones as `outer/inner`: group -> {option: description}."""
    folders = {file.parent for file in CONF.glob("*/**/*.yaml")}
    return {
        folder.relative_to(CONF).as_posix(): {file.stem: description(file) for file in sorted(folder.glob("*.yaml"))}
        for folder in sorted(folders)
    }


def options(group: str) -> dict[str, str]:
    """The options of one group: name -> description; empty for an unknown group."""
    return groups().get(group, {})


def description(file: Path) -> str:
    """The comment on a YAML file's first line (below Hydra's `# @package`), without its `#`; empty if there is none."""
    with file.open(encoding="utf-8") as lines:
        first = next((line.strip() for line in lines if not line.startswith("# @")), "")
    return first.lstrip("# ") if first.startswith("#") else ""
