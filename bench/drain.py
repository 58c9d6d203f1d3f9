#!/usr/bin/python3
"""Lets a stopped archiver go and measures until its backlog is gone.

    drain.py ARCHIVER_PID ARCHIVE_STATUS_DIRECTORY N  ->  wall s, CPU s of the whole machine
"""
import os
import signal
import sys
import time

pid, directory, n = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])


def busy():
    """Seconds that the processors worked for anybody: user, nice, system, irq, softirq."""
    with open('/proc/stat') as stat:
        fields = [int(f) for f in stat.readline().split()[1:]]
    return sum(fields[i] for i in (0, 1, 2, 5, 6)) / os.sysconf('SC_CLK_TCK')


def ready():
    return sum(name.endswith('.ready') for name in os.listdir(directory))


assert ready() >= n, f'{ready()} files are ready, not {n}'
cpu, begin = busy(), time.monotonic()
os.kill(pid, signal.SIGCONT)
os.kill(pid, signal.SIGHUP)     # it may have been asleep, for up to a minute
while ready():
    time.sleep(0.05)
print(f'{time.monotonic() - begin:.3f}\t{busy() - cpu:.3f}')
