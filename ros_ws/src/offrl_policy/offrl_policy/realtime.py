"""What the operating system can do for a tick that is on time; where it may not, that is said."""

import ctypes
import os

_CURRENT, _FUTURE = 1, 2  # of mlockall(2)


def set_up(priority: int, lock_memory: bool) -> list[str]:
    """Give this thread a SCHED_FIFO priority and lock memory; return what was not permitted."""
    problems = []
    if priority:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
        except OSError as error:
            problems.append(
                f"parameter realtime.priority: {priority}: {error.strerror}. The user needs "
                "LimitRTPRIO= in the systemd unit, or rtprio in /etc/security/limits.conf"
            )
    if lock_memory:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlockall(_CURRENT | _FUTURE):
            problems.append(
                f"parameter realtime.lock_memory: {os.strerror(ctypes.get_errno())}. The user "
                "needs LimitMEMLOCK=infinity in the systemd unit, or memlock in limits.conf"
            )
    return problems
