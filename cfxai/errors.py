"""What can go wrong for a user, one class per exit code.

Each message is one sentence that names the file or key at fault and how to mend it; `cli` prints it without a
traceback and exits with `exit_code`.
"""


class CfxError(Exception):
    """A mistake or event that a user can act on."""

    exit_code = 1


class ConfigError(CfxError):
    """An unknown key, a wrong type, a missing config file, a component that is not allowed."""

    exit_code = 2


class UnsuitableError(ConfigError):
    """A method that would give a wrong map for this network or head, and so gives none."""


class DataError(CfxError):
    """A missing or corrupted file, a leaking split, an image that cannot be used."""

    exit_code = 3


class NumericsError(CfxError):
    """A loss or gradient that is not finite."""

    exit_code = 4


class Preempted(CfxError):
    """SIGTERM or SIGUSR1 arrived; the run was saved and can be continued."""

    exit_code = 5
