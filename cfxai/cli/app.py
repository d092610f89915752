"""The command `tools/app.py`: a run's explanations on a page in the browser."""

from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from cfxai.cli.commands import Arguments, run
from cfxai.cli.help import app_help
from cfxai.errors import ConfigError
from cfxai.run.locate import locate

PORTS = range(1024, 65536)


def app() -> NoReturn:
    """`tools/app.py`."""
    run(app_command)


def app_command(argv: list[str]) -> int:
    """Serve the page until it is interrupted; return the exit code."""
    parser = Arguments()
    parser.add_argument("--port", type=int)
    parser.add_argument("--reader-study", type=Path)
    arguments = parser.read(argv)
    if arguments.help:
        print(app_help())
        return 0
    if arguments.run is None:
        raise ConfigError("name a run: python tools/app.py -cp runs/NAME")
    locate(arguments.run)
    if arguments.port is not None and arguments.port not in PORTS:
        raise ConfigError(f"--port {arguments.port}: must be between {PORTS.start} and {PORTS.stop - 1}")
    if find_spec("gradio") is None:
        raise ConfigError("the page needs gradio; install it with: python -m uv pip install -e '.[app]'")
    from cfxai.app.serve import serve

    serve(arguments.run, arguments.port, arguments.reader_study)
    return 0
