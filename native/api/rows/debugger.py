# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""The debugger's back end: exported by drivers, in no header of the toolkit, dlsym only."""

from __future__ import annotations

from native.api.model import Cls, Function, Gate, fn

NO_API = 4  # CUDBG_ERROR_INITIALIZATION_FAILURE

ROWS: tuple[Function, ...] = tuple(
    fn(name, Cls.OTHER, Gate.NONE, f"{name} - ({args})", fail=NO_API, ret="int",
       remote="refused: the debugger's back end is on the GPU's machine")
    for name, args in (
        ("cudbgGetAPI",
         "unsigned int major, unsigned int minor, unsigned int revision, const void **api"),
        ("cudbgGetAPIVersion",
         "unsigned int *major, unsigned int *minor, unsigned int *revision"),
        ("cudbgMain", """int apiClientPid, unsigned int apiClientRevision, int sessionId,
                         int attachState, int attachEventInitialized, int writeFd, int detachFd"""),
        ("cudbgApiInit", "unsigned int arg"),
        ("cudbgApiAttach", "void"),
        ("cudbgApiDetach", "void"),
        ("cudbgReportDriverApiError", "void"),
        ("cudbgReportDriverInternalError", "void"),
    )
)
