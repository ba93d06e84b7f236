"""Compilation: a whole training step, a loop of them, or many models' steps as one program.

    compiled, ensemble     what users call: `compile` and `ensemble`
    program, together      a captured run compiled: of one model, of many
    inputs                 the tensors that a program computes with, fetched at each call
    runs                   a function is watched until two runs did the same
    capture, recorder      what one run did, as a graph of operators
    arguments, histories   what a run was given, what tensors were computed from
    conditions             what has to be as it was for a program to run
    alike                  what members of an ensemble have in common
    state, places          where a function keeps tensors and all else
    owner, classes, code   whose method it is, what objects have, what code names
    memory                 which inputs a graph changes, and which tensors share memory
    executable             what graphs are compiled to
    lowering, products,    graphs that compilers like: without changes in place, with products as
    lanes                  sums, for many models
    unseen, layout         where gradients and members' tensors are kept
    native, product.h      kernels and the loop around them in C++; matrix products
    streams                arguments of many calls
    cache, progress        programs on disk; what is seen of a compiler at work
    private                all that is private to torch

Files import only from files further down.
"""

from tinygrad_ee559.compiling.compiled import Compiled, compile
from tinygrad_ee559.compiling.ensemble import Ensemble, ensemble

__all__ = ["Compiled", "Ensemble", "compile", "ensemble"]
