# SPDX-License-Identifier: Apache-2.0
"""What no call may do: before cuInit, in a host function, in a forked child."""

from __future__ import annotations

from asking import answers

from native.api import cuda, soft

NOT_INITIALIZED, NOT_PERMITTED, NOT_SUPPORTED = 3, 800, 801

#: No driver need be there for these (what begins a life, versions, names, ways to functions; what
#: is asked of another process).
FREE = ("cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString", "cuGetProcAddress",
        "cuGetProcAddress_v2", "cuGetExportTable", "cuCheckpointProcessGetRestoreThreadId",
        "cuCheckpointProcessGetState", "cuCheckpointProcessLock", "cuCheckpointProcessCheckpoint",
        "cuCheckpointProcessRestore", "cuCheckpointProcessUnlock")  # fmt: skip

ASK = """
import ctypes as c, json, os, sys
cu = c.CDLL("libcuda.so.1")
names = json.load(sys.stdin)

def answers():
    return {n: getattr(cu, n)(*[c.c_void_p(0)] * 12) for n in names}

out = {"before": answers()}
assert cu.cuInit(0) == 0
ctx, stream = c.c_void_p(), c.c_void_p()
assert cu.cuCtxCreate_v2(c.byref(ctx), 0, 0) == 0
host = c.CFUNCTYPE(None, c.c_void_p)(lambda _: out.update(host=answers()))
assert cu.cuLaunchHostFunc(None, host, None) == 0
assert cu.cuCtxSynchronize() == 0
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, json.dumps(answers()).encode())
    os._exit(0)
os.close(write)
with os.fdopen(read) as pipe:
    out["child"] = json.load(pipe)
os.wait()
print(json.dumps(out))
"""


def test_every_function_asks_first_whether_it_may(soft_env: dict[str, str]) -> None:
    there = soft.implemented() - {*FREE}
    names = [s.name for s in cuda.SYMBOLS if (s.plain or s.name) in there]
    assert len(names) > 400
    seen = answers(ASK, names, soft_env)
    for when, code in (
        ("before", NOT_INITIALIZED),
        ("host", NOT_PERMITTED),
        ("child", NOT_INITIALIZED),
    ):
        others = {name: got for name, got in seen[when].items() if got not in {code, NOT_SUPPORTED}}
        assert not others, (when, others)
