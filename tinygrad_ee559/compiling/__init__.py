"""Compilation: a whole training step, a loop of them, or many models' steps as one program."""

from tinygrad_ee559.compiling.compiled import Compiled, compile
from tinygrad_ee559.compiling.ensemble import Ensemble, ensemble

__all__ = ["Compiled", "Ensemble", "compile", "ensemble"]
