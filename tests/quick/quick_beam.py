"""Lets Beam do once what it does over and over, for the hundreds of small pipelines of the tests.

A pipeline of a few rows takes half a second, and Beam spends most of it on the sources and signatures
of the same few functions, on parsers of the same flags, and on packing a few bytes as if they were
many. None of it changes, and nothing that is asked of a pipeline depends on it.
"""

import argparse
import bz2
import copy
import functools
import gettext
from types import FunctionType, MethodType, SimpleNamespace

from apache_beam.internal import cloudpickle_pickler
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core, userstate


def quicken() -> None:
    """Puts the quick ways in the place of Beam's."""
    gettext.find = functools.cache(gettext.find)
    core._check_fn_use_yield_and_return = _of_functions(core._check_fn_use_yield_and_return)
    core.get_function_args_defaults = _of_functions(core.get_function_args_defaults)
    userstate.get_dofn_specs = _of_classes(userstate.get_dofn_specs)
    PipelineOptions.view_as = _of_flags(PipelineOptions.view_as)
    # A block of 900 kB is cleared for each at level 9, which Beam asks for.
    cloudpickle_pickler.bz2 = SimpleNamespace(
        compress=lambda data, compresslevel: bz2.compress(data, 1), decompress=bz2.decompress
    )


def _of_functions(look):
    """Has `look`, which is called with methods of ever new objects, called once a function."""
    of_function = functools.lru_cache(1000)(look)
    of_method = functools.lru_cache(1000)(lambda function: look(MethodType(function, 0)))

    @functools.wraps(look)
    def quick(function):
        if isinstance(function, MethodType):
            return of_method(function.__func__)
        return of_function(function)

    return quick


def _of_classes(look):
    """Has `look`, which goes through the methods of an object, called once a class."""
    found = {}

    @functools.wraps(look)
    def quick(dofn):
        if any(isinstance(value, FunctionType | MethodType) for value in vars(dofn).values()):
            return look(dofn)
        if type(dofn) not in found:
            found[type(dofn)] = look(dofn)
        return found[type(dofn)]

    return quick


def _of_flags(view_as):
    """Has a view of options parse the flags once for each kind of options."""

    @functools.lru_cache(10_000)
    def parsed(kind, flags):
        return vars(kind(list(flags))._visible_options)

    @functools.wraps(view_as)
    def quick(self, kind):
        if self._flags is None:  # those of this process, which may change
            return view_as(self, kind)
        view = kind.__new__(kind)
        view._flags = self._flags
        found = {name: _own(value) for name, value in parsed(kind, tuple(self._flags)).items()}
        view._visible_options = argparse.Namespace(**found)
        view._all_options = self._all_options
        for name, value in found.items():
            self._all_options.setdefault(name, value)
        return view

    return quick


def _own(value):
    """Returns a value that nobody else changes."""
    return copy.deepcopy(value) if isinstance(value, list | dict | set) else value
