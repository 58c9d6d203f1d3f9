#!/usr/bin/python3
"""How soon the archiver has its answer: the program's op archive, asked as the server asks.

    answer.py PG_DR DATA_DIRECTORY URL KEY_FILE CREDENTIALS JOBS SEGMENT...

Twice: one segment at a time, each asked for when it becomes ready (a copy of the
data directory's segments stands in for the server); then all of them ready at once.
"""
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

program, data, url, key_file, credentials, jobs, *names = sys.argv[1:]


class Agent:
    def __init__(self, sysid, directory):
        self.process = subprocess.Popen([program, 'agent'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        hello = json.loads(self.process.stdout.readline())
        self.ask({'op': 'open', 'protocol': hello['protocol'], 'version': hello['version'], 'repository_name': 'main',
                  'repository': url, 'key_file': key_file, 'credentials_file': credentials, 'system_identifier': sysid,
                  'data_directory': directory, 'wal_segment_size': 16 << 20, 'jobs': int(jobs),
                  'compression_level': 1, 'max_rate': 0, 'writer': True, 'hold_at': ''})

    def ask(self, request):
        begin = time.monotonic()
        self.process.stdin.write(json.dumps(request) + '\n')
        self.process.stdin.flush()
        while True:
            event = json.loads(self.process.stdout.readline())
            if event['event'] == 'error':
                sys.exit(event['message'])
            if event['event'] == 'done':
                return (time.monotonic() - begin) * 1000


def measure(what, together, offset):
    """Segments under another cluster's identifier, so that nothing of them is stored yet."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(data)) as directory:
        status = f'{directory}/pg_wal/archive_status'
        os.makedirs(status)
        os.makedirs(f'{directory}/pg_dynshmem')
        sysid = offset
        for name in names:
            shutil.copyfile(f'{data}/pg_wal/{name}', f'{directory}/pg_wal/{name}')
            with open(f'{directory}/pg_wal/{name}', 'r+b') as segment:
                segment.seek(24)        # the system identifier in the first page's header
                segment.write(struct.pack('<Q', sysid))
            if together:
                open(f'{status}/{name}.ready', 'w').close()
        agent = Agent(str(sysid), directory)
        times = []
        begin = time.monotonic()
        for name in names:
            open(f'{status}/{name}.ready', 'w').close()
            times.append(agent.ask({'op': 'archive', 'name': name}))
            os.rename(f'{status}/{name}.ready', f'{status}/{name}.done')
        wall = time.monotonic() - begin
        agent.process.stdin.close()
        agent.process.wait()
    times.sort()
    print(f'{what}: p50 {statistics.median(times):.1f} ms, p90 {times[int(len(times) * 0.9)]:.1f} ms, '
          f'most {times[-1]:.1f} ms; {len(names) / wall:.1f} segments/s')


print()
measure('one segment at a time', False, 1)
measure('all of them ready    ', True, 2)
