#!/usr/bin/python3
"""Runs a command and measures every process of a tool while it runs.

    measure.py PATTERN COMMAND...  ->  one line: wall s, CPU s, peak PSS bytes (tab-separated)

A tool's work isn't always below the command: pg_dr's data plane is a child of
the server.  So all processes whose command line matches PATTERN are sampled in
/proc, 50 times a second: user + system time (at least what the last sample of a
process saw: short by 20 ms at most for each), and 10 times a second the sum of
their proportional set sizes.  What a process had used before is not counted.
"""
import os
import re
import subprocess
import sys
import threading
import time

TICK = os.sysconf('SC_CLK_TCK')
pattern, command = re.compile(sys.argv[1]), sys.argv[2:]
started, last = {}, {}          # (pid, start time) -> CPU ticks
peak = 0
done = threading.Event()


def read(path):
    try:
        with open(path, 'rb') as file:
            return file.read()
    except OSError:             # gone meanwhile
        return b''


def processes():
    """Pids that match; command lines are read once per process."""
    for pid in filter(str.isdigit, os.listdir('/proc')):
        if int(pid) != os.getpid() and pattern.search(
                read(f'/proc/{pid}/cmdline').replace(b'\0', b' ').decode(errors='replace')):
            yield pid


def sample(first=False):
    pids = []
    for pid in processes():
        stat = read(f'/proc/{pid}/stat').rpartition(b') ')[2].split()
        if stat:
            key = pid, stat[19]
            last[key] = int(stat[11]) + int(stat[12])
            started.setdefault(key, last[key] if first else 0)
            pids.append(pid)
    return pids


def watch():
    global peak
    turn = 0
    while not done.wait(0.02):
        pids = sample()
        if turn % 5 == 0:
            pss = sum(int(match[1]) for pid in pids
                      if (match := re.search(rb'^Pss:\s+(\d+) kB', read(f'/proc/{pid}/smaps_rollup'), re.M)))
            peak = max(peak, pss * 1024)
        turn += 1


sample(first=True)
watcher = threading.Thread(target=watch)
watcher.start()
begin = time.monotonic()
status = subprocess.run(command, stdout=sys.stderr).returncode
wall = time.monotonic() - begin
sample()
done.set()
watcher.join()
cpu = sum(last[key] - started[key] for key in last) / TICK
print(f'{wall:.3f}\t{cpu:.3f}\t{peak}')
sys.exit(status)
