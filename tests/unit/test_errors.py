# SPDX-License-Identifier: Apache-2.0
"""The error tree, its drawing, and its way across the control API."""

from __future__ import annotations

import builtins
import inspect

import grpc
import pytest

from harp import errors
from harp.api import status


def _drawn() -> dict[str, str]:
    """{name: parent} as the module's docstring draws them."""
    parents: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        indent, words = len(line) - len(line.lstrip()), line.split()
        if indent < 4 or not words or not hasattr(errors, words[0]):
            continue
        while stack and stack[-1][0] >= indent:
            stack.pop()
        parents[words[0]] = stack[-1][1] if stack else "Exception"
        stack.append((indent, words[0]))
    return parents


def _defined() -> dict[str, str]:
    return {
        name: cls.__mro__[1].__name__
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.HarpError)
    }


def test_the_docstring_draws_the_tree_that_is_there() -> None:
    assert _drawn() == _defined()
    assert sorted(_defined()) == errors.__all__


def test_no_error_shadows_a_builtin() -> None:
    assert not set(_defined()) & set(dir(builtins))


class _Call(grpc.RpcError, grpc.Call):  # type: ignore[misc]
    """What a stub raises."""

    def __init__(self, error: errors.HarpError) -> None:
        self._error = error

    def code(self) -> grpc.StatusCode:
        return status.code_of(self._error)

    def details(self) -> str:
        return self._error.message

    def trailing_metadata(self) -> object:
        return status.trailers_of(self._error)

    add_callback = cancel = initial_metadata = is_active = time_remaining = lambda *_: None


@pytest.mark.parametrize(
    "cls",
    [c for _, c in inspect.getmembers(errors, inspect.isclass) if not c.__subclasses__()],
    ids=lambda c: c.__name__,
)
def test_every_leaf_crosses_the_control_api_unchanged(cls: type[errors.HarpError]) -> None:
    error = cls("3 GiB asked, 2 GiB left", "ask for 2 GiB: größer geht nicht")
    assert status.code_of(error) is not grpc.StatusCode.UNKNOWN
    back = status.from_rpc(_Call(error))
    assert type(back) is cls
    assert (back.message, back.hint) == (error.message, error.hint)


def test_a_finer_error_crosses_as_the_leaf_it_refines() -> None:
    class Finer(errors.QuotaExceeded):
        pass

    assert type(status.from_rpc(_Call(Finer("x")))) is errors.QuotaExceeded


def test_a_call_that_an_older_daemon_does_not_know_says_so() -> None:
    class Unknown(_Call):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.UNIMPLEMENTED

        def trailing_metadata(self) -> object:
            return ()

    back = status.from_rpc(Unknown(errors.ConfigError("Method not found!")))
    assert type(back) is errors.DaemonError
    assert "older" in back.message
    assert "harp daemon --upgrade" in back.hint
