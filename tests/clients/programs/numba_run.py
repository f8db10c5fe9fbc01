# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN001, ANN002, ANN003, ANN201, ANN202
"""numba-cuda's cases, every launch counted where numba makes it: `numba_run.py [CASE...]`."""

from __future__ import annotations

from contextlib import contextmanager
from math import prod

import numba_cases
import numba_host
import numba_values
from counters import Watch
from numba import cuda
from numba.cuda import dispatcher

#: the watch of the case that runs
watching: list[Watch] = []


def count_launches() -> None:
    plain = dispatcher.launch

    def launch(stream, config, kernel, *arguments):
        if watching:
            watching[-1].launched(names[int(kernel.handle)], prod(config.grid), prod(config.block))
        return plain(stream, config, kernel, *arguments)

    names: dict[int, str] = {}
    whole = dispatcher._Kernel.launch

    def kernel_launch(self, *arguments, **more):
        function = self._codelibrary.get_cufunc()
        names[int(function.kernel.handle)] = function.name[:255]  # as the counter keeps it
        return whole(self, *arguments, **more)

    dispatcher.launch, dispatcher._Kernel.launch = launch, kernel_launch


@contextmanager
def watch():
    with Watch(cuda.synchronize) as one:
        watching.append(one)
        try:
            yield one
        finally:
            watching.clear()


count_launches()
(numba_cases.BOOK | numba_values.BOOK | numba_host.BOOK).main(watch)
