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

from apache_beam.internal import cloudpickle_pickler, pickler
from apache_beam.options import pipeline_options
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.worker import bundle_processor
from apache_beam.transforms import core, userstate
from apache_beam.typehints.decorators import IOTypeHints


def quicken() -> None:
    """Puts the quick ways in the place of Beam's."""
    gettext.find = functools.cache(gettext.find)
    core._check_fn_use_yield_and_return = _of_functions(core._check_fn_use_yield_and_return)
    core.get_function_args_defaults = _of_functions(core.get_function_args_defaults)
    userstate.get_dofn_specs = _of_classes(userstate.get_dofn_specs)
    IOTypeHints.from_callable = staticmethod(_of_functions(IOTypeHints.from_callable))
    IOTypeHints._make_origin = _without_traceback(IOTypeHints._make_origin)
    PipelineOptions.view_as = _of_flags(PipelineOptions.view_as)
    pipeline_options._BeamArgumentParser._get_formatter = _one_formatter()
    bundle_processor.pickler = _told_windows()
    # A block of 900 kB is cleared for each at level 9, which Beam asks for.
    cloudpickle_pickler.bz2 = SimpleNamespace(
        compress=functools.lru_cache(1000)(lambda data, compresslevel: bz2.compress(data, 1)),
        decompress=functools.lru_cache(1000)(bz2.decompress),
    )


def _of_functions(look):
    """Has `look`, which is called with methods of ever new objects, called once a function."""
    of_function = functools.lru_cache(1000)(look)
    of_method = functools.lru_cache(1000)(lambda function: look(MethodType(function, 0)))

    @functools.wraps(look)
    def quick(function):
        if isinstance(function, MethodType):
            return of_method(function.__func__)
        return of_function(function) if isinstance(function, FunctionType) else look(function)

    return quick


def _without_traceback(make_origin):
    """Has type hints not note where in the source they were given."""
    return staticmethod(lambda bases, tb=True, msg=(): make_origin(bases, False, msg))


def _one_formatter():
    """Has flags be looked at, as they are added, with a formatter that is made once."""
    one = argparse.HelpFormatter("")
    return lambda parser: one


def _told_windows():
    """Has a DoFn be told of its windows, for which it is unpickled and pickled, once.

    Every thread of every pipeline does that with the same few.
    """
    loads = functools.lru_cache(1000)(pickler.loads)
    dumped = {}

    def dumps(what):
        *dofn, windows = what
        if not isinstance(windows, core.Windowing):
            return pickler.dumps(what)
        key = *map(id, dofn), windows
        if key not in dumped:
            dumped[key] = pickler.dumps(what), dofn  # which keeps their ids theirs
        return dumped[key][0]

    return SimpleNamespace(loads=loads, dumps=dumps)


def _of_classes(look):
    """Has `look`, which goes through the methods of an object, called once for the same methods."""
    found = {}

    @functools.wraps(look)
    def quick(dofn):
        own = {name: value for name, value in vars(dofn).items() if isinstance(value, MethodType)}
        same = type(dofn), *((name, value.__func__) for name, value in own.items())
        if same not in found:
            found[same] = look(dofn)
        return found[same]

    return quick


def _of_flags(view_as):
    """Has a view of options parse the flags with the one parser of its kind of options."""

    @functools.cache
    def parser_of(kind):
        parser = pipeline_options._BeamArgumentParser(allow_abbrev=False)
        for each in kind.mro():
            if "_add_argparse_args" in vars(each) and each is not PipelineOptions:
                each._add_argparse_args(parser)
        return parser

    @functools.lru_cache(1000)
    def parsed(kind, flags):
        return vars(parser_of(kind).parse_known_args(list(flags))[0])

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
