"""What `conf/` offers: experiments, component groups and their options, each with its one-line description."""

from pathlib import Path

CONF = Path(__file__).resolve().parents[2] / "conf"


def experiments() -> dict[str, str]:
    """Experiment files as `conf/name.yaml` -> description."""
    files = sorted(CONF.glob("*.yaml"))
    return {f"{CONF.name}/{file.name}": description(file) for file in files if file.stem != "base"}


def groups() -> dict[str, dict[str, str]]:
    """Component groups: group -> {option: description}."""
    folders = sorted(folder for folder in CONF.iterdir() if folder.is_dir()) if CONF.is_dir() else []
    listed = {
        folder.name: {file.stem: description(file) for file in sorted(folder.glob("*.yaml"))} for folder in folders
    }
    return {group: options for group, options in listed.items() if options}


def options(group: str) -> dict[str, str]:
    """The options of one group: name -> description; empty for an unknown group."""
    return groups().get(group, {})


def description(file: Path) -> str:
    """The comment on a YAML file's first line, without its `#`; empty if there is none."""
    with file.open(encoding="utf-8") as lines:
        first = lines.readline().strip()
    return first.lstrip("# ") if first.startswith("#") else ""
