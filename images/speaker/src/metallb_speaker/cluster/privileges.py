"""The child process gives up what its parent needs: capabilities, and root where it can.

In our chart the cluster half is a container of its own, without any of this to begin with.
"""

from __future__ import annotations

import contextlib
import os
import stat

from metallb_common.app import SERVICE_ACCOUNT
from metallb_common.obs import logs

NOBODY = 65534
_PR_SET_NO_NEW_PRIVS = 38  # prctl(2)
_CAPABILITY_VERSION_3 = 0x20080522  # capset(2)


def drop(token: str = f"{SERVICE_ACCOUNT}/token") -> None:
    """Become nobody if the token stays readable; lose every capability for good. Never raises."""
    if os.geteuid() == 0 and _readable_by_all(token):
        with contextlib.suppress(OSError):  # without SETUID and SETGID we stay root, without any power
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
    try:
        _empty_capabilities()
    except (OSError, AttributeError) as failure:
        logs.warn(op="privileges", msg="capabilities were not dropped", error=str(failure))


def _readable_by_all(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False


def _empty_capabilities() -> None:
    """capset(2) with nothing in it, and no way back through exec. Raises OSError."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.capset(ctypes.byref(header), ctypes.byref(nothing)):
        raise OSError(ctypes.get_errno(), "capset")


def effective() -> int:
    """The process's effective capabilities, as /proc shows them."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
