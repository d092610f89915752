"""How images become noise and noise becomes images: a grid, an inversion and a solver that belong together."""

from typing import Literal, cast, get_args

from cfxai.diffusion.denoiser import Denoiser
from cfxai.diffusion.grid import Grid, Spacing, time_grid
from cfxai.diffusion.inversion import euler_inversion, fixed_point_inversion
from cfxai.diffusion.solvers import ddim, dpm_solver
from cfxai.errors import ConfigError
from cfxai.protocols import Image

Solver = Literal["ddim", "dpm_solver"]
Inversion = Literal["fixed_point", "euler"]


class Sampling:
    """Settings of `invert` and `render`.

    Args:
        steps: of the grid, in both directions.
        spacing: of the grid, see `time_grid`.
        solver: `ddim`, which the inversion is exact for, or `dpm_solver`, better images in few steps.
        inversion: `fixed_point`, or the published `euler`.
        iterations: of `fixed_point` in each step: it evaluates the network steps * iterations times.
        until: the share of all times at which inversion ends and rendering begins. At 1 the image has become noise; the
            earlier it ends, the less a changed z can change, and the less it changes that it should not.

    Raises:
        ConfigError: an unknown spacing, solver or inversion, or a number out of range.
    """

    def __init__(
        self,
        steps: int = 36,
        spacing: str = "log_snr",
        solver: str = "ddim",
        inversion: str = "fixed_point",
        iterations: int = 3,
        until: float = 1.0,
    ) -> None:
        for key, (value, known) in {
            "spacing": (spacing, get_args(Spacing)),
            "solver": (solver, get_args(Solver)),
            "inversion": (inversion, get_args(Inversion)),
        }.items():
            if value not in known:
                raise ConfigError(f"method.sampling.{key}: choose {' or '.join(known)}, not '{value}'.")
        if steps < 1 or iterations < 1:
            raise ConfigError(f"method.sampling: steps and iterations must be 1 or more, got {steps} and {iterations}.")
        if not 0 < until <= 1:
            raise ConfigError(f"method.sampling.until: must be more than 0 and at most 1, got {until}.")
        self.until = until
        self.steps, self.spacing, self.iterations = steps, cast(Spacing, spacing), iterations
        self.solver, self.inversion = solver, inversion

    def invert(self, denoise: Denoiser, image: Image) -> Image:
        """The noise x_T that `render` makes the image [b c *spatial] of."""
        grid = self._grid(denoise)
        if self.inversion == "euler":
            return euler_inversion(denoise, image, grid)
        return fixed_point_inversion(denoise, image, grid, self.iterations)

    def render(self, denoise: Denoiser, noise: Image) -> Image:
        """The image [b c *spatial] that the noise x_T becomes."""
        solve = ddim if self.solver == "ddim" else dpm_solver
        return solve(denoise, noise, self._grid(denoise))

    def _grid(self, denoise: Denoiser) -> Grid:
        return time_grid(denoise.schedule, self.steps, self.spacing, self.until)
