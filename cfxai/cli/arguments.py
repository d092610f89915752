"""What all commands share: reading flags, and leaving the process with an exit code."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from cfxai.config.catalogue import options
from cfxai.config.nearest import hint
from cfxai.errors import CfxError, ConfigError

INTERRUPTED = 130
PIPE_CLOSED = 141


class Arguments(ArgumentParser):
    """An argument parser whose mistakes are ConfigErrors."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.add_argument("-h", "--help", action="store_true")
        self.add_argument("-cp", "--run", type=Path)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")

    def read(self, argv: list[str]) -> Namespace:
        """Parse with flags and other arguments in any order."""
        arguments, unknown = self.parse_known_intermixed_args(argv)
        if unknown:
            raise ConfigError(f"{unknown[0]}: no such flag{hint(unknown[0], self._option_string_actions)}")
        return arguments


def run(command: Callable[[list[str]], int]) -> NoReturn:
    """Leave the process with the command's exit code; a user's mistake is one sentence, a bug keeps its traceback."""
    try:
        code = command(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python flushes once more at its end
        code = PIPE_CLOSED
    except CfxError as error:
        print(f"cfxai: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def attributors(names: Sequence[str]) -> list[str]:
    """Those of conf/attribution that `-at` names, all of them for `all`.

    Raises:
        ConfigError: there is none of a name.
    """
    known = options("attribution")
    for name in names:
        if name not in {*known, "all"}:
            raise ConfigError(f"-at {name}: no such attributor{hint(name, [*known, 'all'])}")
    return list(known) if "all" in names else list(names)
