"""Lets Beam look at a function once, and not again for each transform of each pipeline.

A pipeline of a few rows takes 0.7 s, and Beam spends almost half of it on the sources and signatures
of the same few functions and on translations of its help. What it finds is the same each time.
"""

import functools
import gettext
from types import MethodType


def remember() -> None:
    """Keeps, for the rest of the process, what Beam finds out about functions."""
    from apache_beam.transforms import core

    gettext.find = functools.cache(gettext.find)
    core._check_fn_use_yield_and_return = _of_functions(core._check_fn_use_yield_and_return)
    core.get_function_args_defaults = _of_functions(core.get_function_args_defaults)


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
