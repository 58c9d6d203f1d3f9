#!/usr/bin/python3
"""Writes the vectors of the repository format, the same bytes each time.

    make.py            (re)write everything below this directory
    make.py --check    compare with what is there, then hold reader.py against it

    sealed/NN-name.sealed   one object each, sound or with one damage
    vectors.tsv             file, object name, key, repository id, expected
    repository/             a small repository, encrypted; its key is repository.key
    repository-clear/       the same with a clear keyring

`key` is the epoch key of a sealed object and the recipient key (or `none`) of a
keyring.  `expected` is `ok` and the SHA-256 of the plain bytes (of a keyring:
of its epochs, key id and key each), or `damaged` and a word for what is wrong;
the words are those of reader.py, other readers need only refuse.
A manifest vector is sound only when it also parses.

Salts, keys and times are fixed: nothing here may ever protect real data.
zstd frames are made of raw and RLE blocks by hand, so no library's version
shows in the bytes.
"""
import hashlib
import json
import os
import shutil
import struct
import sys
import tempfile

import reader
from reader import CHUNK, TAG, crc32c, seal

HERE = os.path.dirname(os.path.abspath(__file__))
TIME = 1767225600                                # 2026-01-01 00:00:00 UTC
SYSID = '7300000000000000001'
ID = '20260101T000000Z-full-c0ffee'
BACKUP = f'{SYSID}/backup/{ID}'
NAME = f'{BACKUP}/pack-00000001'
SEGMENT_SIZE = 16 << 20


def noise(label, n):
    """n bytes that don't compress, from a label."""
    blocks = (hashlib.sha256(f'{label}/{i}'.encode()).digest() for i in range(n // 32 + 1))
    return b''.join(blocks)[:n]


RECIPIENT, EPOCH, NEWER, OTHER = (noise(label, 32) for label in ('recipient', 'epoch', 'newer', 'other'))
REPOSITORY = noise('repository', 16)


def zstd(plain):
    """A zstd frame with its content size, of raw and RLE blocks (RFC 8878)."""
    out, at = [b'\x28\xb5\x2f\xfd\xa0' + struct.pack('<I', len(plain))], 0
    while True:
        block = plain[at:at + (128 << 10)]
        at += len(block)
        last = at == len(plain)
        same = len(block) > 1 and block.count(block[0]) == len(block)
        out.append((len(block) << 3 | same << 1 | last).to_bytes(3, 'little') + (block[:1] if same else block))
        if last:
            return b''.join(out)


def make_object(name, plain, key=EPOCH, content=None, sealed_as=None, salt=None, **header):
    """A sealed object; header= overrides fields, sealed_as= the name that is bound."""
    kind = header.get('kind', reader.kind_of(name))
    codec = header.get('codec', reader.CODEC[kind])
    if content is None:
        content = zstd(plain) if codec else plain
    fields = reader.OBJECT_HEADER.pack(
        b'PGDRSEAL', header.get('version', 1), kind, codec, header.get('reserved1', 0),
        header.get('crc', crc32c(plain)), header.get('repository', REPOSITORY), header.get('key_id', 1),
        header.get('length', len(plain)), TIME * 1000000, header.get('reserved8', 0))
    context = b'pg_dr/1 object' + fields + (sealed_as or name).encode()
    return fields + seal(key, salt or noise('salt ' + name, 24), context, content)


# ------------------------------------------------------- a manifest, a keyring

def text(value):
    return struct.pack('<H', len(value)) + value.encode()


def record(kind, payload):
    if isinstance(payload, dict):
        payload = json.dumps(payload, separators=(',', ':')).encode()
    return kind.encode() + struct.pack('<I', len(payload)) + payload


def file_record(path, data, frames, kind=0):
    """frames: (pack, offset, stored length, raw bytes)"""
    return record('F', struct.pack('<BIQQI', kind, 0o100600, TIME, len(data), crc32c(data)) + text(path)
                  + struct.pack('<I', len(frames))
                  + b''.join(struct.pack('<IIIII', pack, at, stored, len(raw), crc32c(raw))
                             for pack, at, stored, raw in frames))


def small_backup():
    """-> pack content, [records before E], E: six files, one of two frames, one empty."""
    files = [('PG_VERSION', b'15\n', 0), ('base/1/1259', noise('1259', 8192) + bytes(1 << 20), 1),
             ('base/1/PG_VERSION', b'15\n', 0), ('base/1/empty', b'', 0),
             ('postgresql.conf', b"cluster_name = 'vectors'\n", 6), ('global/pg_control', noise('control', 8192), 5)]
    content, records, frame_count = b'', [], 0
    directories = {'base': 'PG_VERSION', 'base/1': 'PG_VERSION', 'global': 'base/1/empty', 'pg_wal': 'base/1/empty'}
    for path, data, kind in files:
        frames = []
        for start in range(0, len(data), 1 << 20):
            raw = data[start:start + (1 << 20)]
            frames.append((1, len(content), len(zstd(raw)), raw))
            content += zstd(raw)
        frame_count += len(frames)
        records.append(file_record(path, data, frames, kind))
        records += [record('D', struct.pack('<I', 0o40700) + text(directory))
                    for directory, after in directories.items() if after == path]
    pack = make_object(NAME, content)
    records.insert(0, record('B', {
        'id': ID, 'kind': 'full', 'label': None, 'system_identifier': SYSID, 'server_version_num': 150018,
        'control_version': 1300, 'catalog_version': 202209061, 'block_size': 8192, 'segment_blocks': 131072,
        'wal_segment_size': SEGMENT_SIZE, 'data_checksums': True, 'timeline': 1, 'start_lsn': '0/2000028',
        'started_at': '2026-01-01T00:00:00.000000Z', 'data_directory': '/data', 'config_directory': '/etc/vectors',
        'host': 'vectors', 'program_version': '1.0.0'}))
    records.append(record('P', struct.pack('<IQ', 1, len(pack)) + hashlib.sha256(pack).digest()
                          + struct.pack('<I', frame_count) + text(NAME)))
    end = {'stop_lsn': '0/3000100', 'stop_timeline': 1, 'stopped_at': '2026-01-01T00:00:10.000000Z',
           'backup_label': 'START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n', 'tablespace_map': '',
           'files': len(files), 'directories': len(directories), 'frames': frame_count,
           'bytes': sum(len(data) for _path, data, _kind in files), 'bytes_stored': len(pack), 'packs': 1, 'corrupt_pages': 0}
    return content, records, end


def manifest(records, end):
    return b'PGDRMANI\1\0\0\0' + b''.join(records) + (record('E', end) if end else b'')


def make_keyring(generation, recipient, epochs, sealed_as=None, repository=REPOSITORY):
    """recipient None: clear.  epochs: {key id: key}"""
    name = f'keys/{generation:08d}'
    file_key = noise(f'file key {generation}', 32)
    header = reader.KEYRING_HEADER.pack(b'PGDRKEYS', 1, bytes(3), generation, repository, 1,
                                        72 + 48 * len(epochs), TIME * 1000000, bytes(16))
    if recipient is None:
        stanza = bytes(16) + file_key + bytes(72 + 8)
    else:
        head = b'\1' + bytes(7) + hashlib.sha256(b'pg_dr/1 recipient' + recipient).digest()[:8]
        stanza = head + seal(recipient, noise(f'wrap {generation}', 24), b'pg_dr/1 wrap' + header + head, file_key) + bytes(8)
    records = b''.join(struct.pack('<QQ', key_id, TIME * 1000000) + key for key_id, key in epochs.items())
    return header + stanza + seal(file_key, noise(f'epochs {generation}', 24),
                                  b'pg_dr/1 keyring' + header + stanza + (sealed_as or name).encode(), records)


# -------------------------------------------------------------------- vectors

def flip(data, at, bit=1):
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1:]


def vectors():
    """Yields (slug, object name, key, data, plain | damage word)."""
    ok = []
    for k in range(17):
        ok += [n for n in ((1 << k) - 1, 1 << k, (1 << k) + 1) if n not in ok]
    for n in ok:
        yield f'size-{n}', NAME, EPOCH, make_object(NAME, noise('size', n)), noise('size', n)
    wal = f'{SYSID}/wal/00000001/000000010000000000000002'
    for slug, name in (('segment', wal), ('partial', wal + '.partial'), ('backup-history', wal + '.00000028.backup'),
                       ('history', f'{SYSID}/wal/00000001/00000001.history')):
        yield slug, name, EPOCH, make_object(name, bytes(40000)), bytes(40000)
    lineage = json.dumps({'token': noise('token', 32).hex(), 'host': 'vectors', 'data_directory': '/data'}).encode()
    yield 'lineage', f'{SYSID}/lineage/00000001', EPOCH, make_object(f'{SYSID}/lineage/00000001', lineage), lineage

    # Three chunks: 0 and 1 full, 2 of 7 bytes.  Chunk i begins at body + i * step.
    plain, body, step = noise('damage', 2 * CHUNK + 7), 64 + 56, CHUNK + TAG
    good = make_object(NAME, plain)
    chunk = [good[body:body + step], good[body + step:body + 2 * step], good[body + 2 * step:]]
    full = make_object(NAME, plain[:2 * CHUNK])
    for slug, data, word in (
            ('no-chunks', good[:body], 'cut'),
            ('last-chunk-full', full[:-TAG], 'cut'),
            ('cut-at-chunk-boundary', good[:body + step], 'cut'),
            ('cut-inside-tag', good[:-3], 'chunk'),
            ('cut-inside-chunk', good[:body + step + 100], 'chunk'),
            ('cut-inside-header', good[:63], 'cut'),
            ('cut-inside-commitment', good[:100], 'cut'),
            ('empty-file', b'', 'cut'),
            ('swapped-chunks', good[:body] + chunk[1] + chunk[0] + chunk[2], 'chunk'),
            ('duplicated-chunk', good[:body] + chunk[0] + chunk[0] + chunk[1] + chunk[2], 'chunk'),
            ('removed-chunk', good[:body] + chunk[0] + chunk[2], 'chunk'),
            ('trailing-byte', good + b'\0', 'chunk'),
            ('bad-tag-first', flip(good, body + step - 1), 'chunk'),
            ('bad-tag-second', flip(good, body + 2 * step - 1), 'chunk'),
            ('bad-tag-last', flip(good, len(good) - 1), 'chunk'),
            ('bad-text-last', flip(good, len(good) - TAG - 1), 'chunk'),
            ('empty-last-chunk-bad-tag', flip(full, len(full) - 1), 'chunk'),
            ('flipped-salt', flip(good, 64), 'commitment'),
            ('flipped-commitment', flip(good, 64 + 24), 'commitment'),
            ('foreign-key', make_object(NAME, plain, key=OTHER), 'commitment'),
            ('wrong-name', make_object(NAME, plain, sealed_as=f'{BACKUP}/pack-00000002'), 'commitment'),
            ('wrong-kind', make_object(NAME, plain, kind=reader.SEGMENT, codec=0), 'kind'),
            ('flipped-kind', flip(good, 9, 3), 'kind'),
            ('flipped-magic', flip(good, 0), 'magic'),
            ('next-version', make_object(NAME, plain, version=2), 'version'),
            ('reserved-byte-set', make_object(NAME, plain, reserved1=1), 'reserved'),
            ('reserved-bytes-set', make_object(NAME, plain, reserved8=1 << 63), 'reserved'),
            ('foreign-repository', make_object(NAME, plain, repository=noise('elsewhere', 16)), 'repository'),
            ('unknown-codec', make_object(NAME, plain, codec=2, content=plain), 'codec'),
            ('flipped-created', flip(good, 48), 'commitment'),
            ('flipped-key-id', flip(good, 32), 'commitment'),
            ('wrong-length', make_object(NAME, plain, length=len(plain) + 1), 'length'),
            ('wrong-crc', make_object(NAME, plain, crc=0), 'crc')):
        yield slug, NAME, EPOCH, data, word
    half = bytes(20000)
    for slug, options, word in (
            ('zstd-garbage', {'content': noise('garbage', 100)}, 'codec'),
            ('zstd-cut', {'content': zstd(half)[:-1]}, 'codec'),
            ('zstd-empty', {'content': b''}, 'codec'),
            ('zstd-trailing-byte', {'content': zstd(half) + b'\0'}, 'codec'),
            ('zstd-two-frames', {'content': zstd(half[:10000]) * 2}, 'codec'),
            ('zstd-longer-than-said', {'length': 19999}, 'codec'),
            ('zstd-shorter-than-said', {'length': 20001}, 'length'),
            ('zstd-wrong-crc', {'crc': 1}, 'crc')):
        yield slug, wal, EPOCH, make_object(wal, half, **options), word

    name, (_content, records, end) = f'{BACKUP}/manifest', small_backup()
    begin, files, pack = records[0], records[1:-1], records[-1]
    ascended = file_record('../evil', b'', [])
    for slug, plain, word in (
            ('manifest', manifest(records, end), None),
            ('manifest-magic', b'PGDRMANJ' + manifest(records, end)[8:], 'manifest'),
            ('manifest-version', manifest(records, end).replace(b'PGDRMANI\1', b'PGDRMANI\2'), 'manifest'),
            ('manifest-without-end', manifest(records, None), 'manifest'),
            ('manifest-after-end', manifest(records, end) + files[0], 'manifest'),
            ('manifest-cut', manifest(records, end)[:-1], 'manifest'),
            ('manifest-two-begins', manifest([begin] + records, end), 'manifest'),
            ('manifest-no-begin', manifest(records[1:], end), 'manifest'),
            ('manifest-unknown-record', manifest(records + [record('X', b'')], end), 'manifest'),
            ('manifest-record-too-long', manifest(records[:-1] + [record('P', pack[5:] + b'\0')], end), 'manifest'),
            ('manifest-record-too-short', manifest(records[:-1] + [record('P', pack[5:-1])], end), 'manifest'),
            ('manifest-not-json', manifest([record('B', b'{"id":')] + records[1:], end), 'manifest'),
            ('manifest-other-backup', manifest([begin.replace(b'c0ffee', b'c0ffef')] + records[1:], end), 'manifest'),
            ('manifest-other-cluster', manifest([begin.replace(SYSID.encode(), b'73' + b'1' * 17)] + records[1:], end), 'manifest'),
            ('manifest-missing-file', manifest([begin] + files[1:] + [pack], end), 'manifest'),
            ('manifest-file-after-pack', manifest([begin] + files[1:] + [pack, files[0]], end), 'manifest'),
            ('manifest-out-of-order', manifest([begin] + files[:1] + files[:0:-1] + [pack], end), 'manifest'),
            ('manifest-control-not-last', manifest([begin] + files[:-2] + [files[-1], files[-2], pack], end), 'manifest'),
            ('manifest-path-up', manifest([begin, ascended] + files + [pack], {**end, 'files': 7}), 'manifest'),
            ('manifest-path-absolute', manifest([begin, file_record('/evil', b'', [])] + files + [pack],
                                                {**end, 'files': 7}), 'manifest'),
            ('manifest-path-nul', manifest([begin, file_record('A\0', b'', [])] + files + [pack],
                                           {**end, 'files': 7}), 'manifest'),
            ('manifest-unlisted-pack', manifest([begin] + files, {**end, 'packs': 0, 'bytes_stored': 0}), 'manifest'),
            ('manifest-pack-is-no-pack', manifest(
                records[:-1] + [pack.replace(b'pack-00000001', b'pack-0000000a')], end), 'manifest'),
            ('manifest-frames-not-size', manifest([begin, file_record('A', b'123', [])] + files + [pack],
                                                  {**end, 'files': 7, 'bytes': end['bytes'] + 3}), 'manifest'),
            *((f'manifest-wrong-{key.replace("_", "-")}', manifest(records, {**end, key: end[key] + 1}), 'manifest')
              for key in ('files', 'directories', 'frames', 'bytes', 'bytes_stored', 'packs', 'corrupt_pages'))):
        yield slug, name, EPOCH, make_object(name, plain), word or plain

    ring, two = make_keyring(1, RECIPIENT, {1: EPOCH}), make_keyring(2, RECIPIENT, {1: EPOCH, 2: NEWER})
    clear = make_keyring(1, None, {1: EPOCH})
    for slug, generation, key, data, expected in (
            ('keyring', 1, RECIPIENT, ring, {1: EPOCH}),
            ('keyring-two-epochs', 2, RECIPIENT, two, {1: EPOCH, 2: NEWER}),
            ('keyring-clear', 1, None, clear, {1: EPOCH}),
            ('keyring-clear-with-key', 1, RECIPIENT, clear, 'recipient'),
            ('keyring-sealed-without-key', 1, None, ring, 'recipient'),
            ('keyring-foreign-key', 1, OTHER, ring, 'recipient'),
            ('keyring-wrong-name', 2, RECIPIENT, ring, 'name'),
            ('keyring-sealed-as-another', 1, RECIPIENT, make_keyring(1, RECIPIENT, {1: EPOCH}, 'keys/00000002'), 'commitment'),
            ('keyring-foreign-repository', 1, RECIPIENT,
             make_keyring(1, RECIPIENT, {1: EPOCH}, repository=noise('elsewhere', 16)), 'repository'),
            ('keyring-magic', 1, RECIPIENT, flip(ring, 7), 'magic'),
            ('keyring-version', 1, RECIPIENT, flip(ring, 8), 'version'),
            ('keyring-reserved-3', 1, RECIPIENT, flip(ring, 11), 'reserved'),
            ('keyring-reserved-16', 1, RECIPIENT, flip(ring, 63), 'reserved'),
            ('keyring-no-stanza', 1, RECIPIENT, flip(ring, 32), 'stanzas'),
            ('keyring-17-stanzas', 1, RECIPIENT, flip(ring, 32, 16), 'stanzas'),
            ('keyring-stanza-type', 1, RECIPIENT, flip(ring, 64, 2), 'stanza'),
            ('keyring-stanza-reserved', 1, RECIPIENT, flip(ring, 65), 'reserved'),
            ('keyring-stanza-end', 1, RECIPIENT, flip(ring, 191), 'reserved'),
            ('keyring-clear-trailing', 1, None, flip(clear, 64 + 16 + 32), 'reserved'),
            ('keyring-created', 1, RECIPIENT, flip(ring, 40), 'commitment'),
            ('keyring-wrap', 1, RECIPIENT, flip(ring, 64 + 16 + 60), 'chunk'),
            ('keyring-payload', 1, RECIPIENT, flip(ring, len(ring) - 1), 'chunk'),
            ('keyring-cut', 1, RECIPIENT, ring[:-1], 'length'),
            ('keyring-trailing-byte', 1, RECIPIENT, ring + b'\0', 'length'),
            ('keyring-no-epoch', 1, RECIPIENT, make_keyring(1, RECIPIENT, {}), 'length')):
        if isinstance(expected, dict):
            expected = b''.join(struct.pack('<Q', key_id) + epoch for key_id, epoch in expected.items())
        yield slug, f'keys/{generation:08d}', key, data, expected


# --------------------------------------------------------------------- output

def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as file:
        file.write(data)


def write_repository(top, recipient):
    head = f'{{"pg_dr":"repository","format":1,"id":"{REPOSITORY.hex()}","created":"2026-01-01T00:00:00Z"'
    check = hashlib.sha256(head.encode()).hexdigest()[:16]
    write(f'{top}/repository.json', f'{head},"check":"{check}"}}\n'.encode())
    write(f'{top}/keys/00000001', make_keyring(1, recipient, {1: EPOCH}))
    write(f'{top}/keys/00000002', make_keyring(2, recipient, {1: EPOCH, 2: NEWER}))
    content, records, end = small_backup()
    lineage = {'token': noise('token', 32).hex(), 'host': 'vectors', 'data_directory': '/data'}
    wal = f'{SYSID}/wal/00000001/0000000100000000000000'
    for name, plain in ((f'{SYSID}/lineage/00000001', json.dumps(lineage).encode()),
                        (NAME, content), (f'{BACKUP}/manifest', manifest(records, end)),
                        (wal + '02', bytes(SEGMENT_SIZE)), (wal + '03', bytes(SEGMENT_SIZE)),
                        (wal + '02.00000028.backup', b'START WAL LOCATION: 0/2000028\n'),
                        (wal + '04.partial', bytes(SEGMENT_SIZE)),
                        (f'{SYSID}/wal/00000002/00000002.history', b'1\t0/4000000\tno recovery target specified\n')):
        write(f'{top}/{name}', make_object(name, plain))


def generate(top):
    rows = []
    for number, (slug, name, key, data, expected) in enumerate(vectors(), 1):
        path = f'sealed/{number:03d}-{slug}.sealed'
        write(f'{top}/{path}', data)
        verdict = f'damaged {expected}' if isinstance(expected, str) else 'ok ' + hashlib.sha256(expected).hexdigest()
        rows.append('\t'.join((path, name, key.hex() if key else 'none', REPOSITORY.hex(), verdict)))
    write(f'{top}/vectors.tsv', ('\n'.join(['file\tname\tkey\trepository\texpected'] + rows) + '\n').encode())
    check = hashlib.sha256(b'pg_dr/1 key file' + RECIPIENT).hexdigest()[:8]
    write(f'{top}/repository.key', f'# of the vectors: protects nothing\npgdr-key-1-{RECIPIENT.hex()}-{check}\n'.encode())
    write_repository(f'{top}/repository', RECIPIENT)
    write_repository(f'{top}/repository-clear', None)


GENERATED = ('sealed', 'vectors.tsv', 'repository.key', 'repository', 'repository-clear')


def files_below(top):
    found = {}
    for entry in GENERATED:
        for path in [os.path.join(top, entry)] if not os.path.isdir(os.path.join(top, entry)) else \
                [os.path.join(at, file) for at, _dirs, files in os.walk(os.path.join(top, entry)) for file in files]:
            with open(path, 'rb') as file:
                found[os.path.relpath(path, top)] = file.read()
    return found


def read_one(name, key, repository, data):
    """What reader.py makes of one vector: `ok <sha256>` or `damaged <word>`."""
    try:
        if reader.kind_of(name) == 'keyring':
            keys = reader.open_keyring(data, name, repository, key)
            plain = b''.join(struct.pack('<Q', key_id) + epoch for key_id, epoch in keys.items())
        else:
            plain = reader.open_object(data, name, repository, lambda _key_id: key)
        if reader.kind_of(name) == reader.MANIFEST:
            reader.Manifest(plain, name)
        return 'ok ' + hashlib.sha256(plain).hexdigest()
    except reader.Damaged as damage:
        return f'damaged {damage.word}'


def check():
    """Same bytes as committed, and reader.py agrees with every row."""
    with tempfile.TemporaryDirectory(prefix='pgdr_t_vectors') as top:
        generate(top)
        fresh, here = files_below(top), files_below(HERE)
    problems = [f'{path}: differs from what make.py writes' for path in sorted(set(fresh) | set(here))
                if fresh.get(path) != here.get(path)]
    rows = here['vectors.tsv'].decode().splitlines()[1:]
    for path, name, key, repository, expected in (row.split('\t') for row in rows):
        got = read_one(name, None if key == 'none' else bytes.fromhex(key), bytes.fromhex(repository), here[path])
        if got != expected:
            problems.append(f'{path}: {got}, expected {expected}')
    for directory, key_file in (('repository', f'{HERE}/repository.key'), ('repository-clear', 'none')):
        reader.Repository(f'{HERE}/{directory}', key_file).verify(
            lambda name, problem, top=directory: problems.append(f'{top}/{name}: {problem}'))
    print('\n'.join(problems) if problems else f'vectors: {len(rows)} objects and 2 repositories agree')
    return 1 if problems else 0


if __name__ == '__main__':
    if sys.argv[1:] == ['--check']:
        sys.exit(check())
    for old in GENERATED:
        shutil.rmtree(os.path.join(HERE, old), ignore_errors=True)
    generate(HERE)
