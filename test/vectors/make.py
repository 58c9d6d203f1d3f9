#!/usr/bin/python3
"""Writes the vectors of the repository format, the same bytes each time.

    make.py            (re)write everything below this directory
    make.py --check    compare with what is there, then hold reader.py against it

    sealed/NN-name.sealed   one object each, sound or with one damage
    vectors.tsv             file, object name, key, repository id, expected
    repository/             a small repository, encrypted: a full backup and two incremental ones; its key is repository.key
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


def file_record(path, data, frames, kind=0, extents=None, crc=None, counts=(0, 0)):
    """frames: (pack, offset, stored length, raw bytes); extents: (frame, skip, length); counts: added to what is true"""
    if crc is None:
        crc = crc32c(data) if extents is None else 0
    payload = struct.pack('<BIQQI', kind, 0o100600, TIME, len(data), crc) + text(path) \
        + struct.pack('<I', len(frames) + counts[0]) \
        + b''.join(struct.pack('<IIIII', pack, at, stored, len(raw), crc32c(raw)) for pack, at, stored, raw in frames)
    if extents is None:
        return record('F', payload)
    return record('G', payload + struct.pack('<I', len(extents) + counts[1])
                  + b''.join(struct.pack('<III', *extent) for extent in extents))


def pack_record(number, name, size, sha, frames, used):
    return record('P', struct.pack('<IQ32sIQ', number, size, sha, frames, used) + text(name))


BLOCK, RELATION = 8192, 'base/1/1259'
CONTROL = ('global/pg_control', noise('control', BLOCK), 5)
FILES = [('PG_VERSION', b'15\n', 0), (RELATION, noise('1259', BLOCK) + bytes(1 << 20), 1),
         ('base/1/PG_VERSION', b'15\n', 0), ('base/1/empty', b'', 0),
         ('postgresql.conf', b"cluster_name = 'vectors'\n", 6), CONTROL]
DIRECTORIES = {'base': 'PG_VERSION', 'base/1': 'PG_VERSION', 'global': 'base/1/empty', 'pg_wal': 'base/1/empty'}


class Backup:
    """Six files, one of two frames, one empty; a relation that may take frames from the backup before."""

    def __init__(self, backup, files, before=None, pieces=None, start='0/2000028', stop='0/3000100', **begin):
        """pieces: of the relation; (block in it, blocks) from the one before, or bytes that are stored"""
        self.id, self.content, self.inherited = backup, b'', []
        self.name = f'{SYSID}/backup/{backup}/pack-00000001'
        self.begin = {
            'id': backup, 'kind': backup.split('-')[1], 'label': None, 'system_identifier': SYSID, 'server_version_num': 150018,
            'control_version': 1300, 'catalog_version': 202209061, 'block_size': BLOCK, 'segment_blocks': 131072,
            'wal_segment_size': SEGMENT_SIZE, 'data_checksums': True, 'timeline': 1, 'start_lsn': start,
            'started_at': '2026-01-01T00:00:00.000000Z', 'data_directory': '/data', 'config_directory': '/etc/vectors',
            'host': 'vectors', 'parent': before and before.id, 'lineage': 1, 'program_version': '1.0.0', **begin}
        self.stop, self.read = stop, 0
        self.files = [self.relation(before, pieces) if path == RELATION and before else self.whole(path, data, kind)
                      for path, data, kind in files]
        self.sealed = make_object(self.name, self.content)

    def store(self, raw):
        frame = 1, len(self.content), len(zstd(raw)), raw
        self.content += zstd(raw)
        self.read += len(raw)
        return frame

    def whole(self, path, data, kind):
        return {'path': path, 'data': data, 'kind': kind,
                'frames': [self.store(data[start:start + (1 << 20)]) for start in range(0, len(data), 1 << 20)]}

    def relation(self, before, pieces):
        theirs = next(file for file in before.files if file['path'] == RELATION)
        where = theirs.get('extents') or [(i, 0, len(frame[3])) for i, frame in enumerate(theirs['frames'])]
        blocks = [(frame, skip + at) for frame, skip, length in where for at in range(0, length, BLOCK)]
        frames = [self.inherit(before, frame) for frame in theirs['frames']]
        stored = self.store(b''.join(piece for piece in pieces if isinstance(piece, bytes)))
        extents, done = [], 0
        for piece in pieces:
            if isinstance(piece, bytes):
                extents.append((len(frames), done, len(piece)))
                done += len(piece)
                continue
            for frame, skip in blocks[piece[0]:sum(piece)]:
                if extents and extents[-1][0] == frame and sum(extents[-1][1:]) == skip:
                    extents[-1] = frame, extents[-1][1], extents[-1][2] + BLOCK
                else:
                    extents.append((frame, skip, BLOCK))
        frames.append(stored)
        data = b''.join(frames[frame][3][skip:skip + length] for frame, skip, length in extents)
        return {'path': RELATION, 'data': data, 'kind': 1, 'frames': frames, 'extents': extents}

    def inherit(self, before, frame):
        pack = (before.name, before.sealed) if frame[0] == 1 else before.inherited[frame[0] - reader.INHERITED - 1]
        if pack not in self.inherited:
            self.inherited.append(pack)
        return reader.INHERITED + 1 + self.inherited.index(pack), *frame[1:]

    def packs(self):
        """What P records say: (number, name, object size, SHA-256, frames used, bytes used)."""
        found = []
        for number, (name, sealed) in [(1, (self.name, self.sealed)), *enumerate(self.inherited, reader.INHERITED + 1)]:
            used = [stored for file in self.files for pack, _at, stored, _raw in file['frames'] if pack == number]
            found.append((number, name, len(sealed), hashlib.sha256(sealed).digest(), len(used), sum(used)))
        return found

    def records(self, begin=None, packs=None, **relation):
        """All before E; relation: arguments of its record instead of what is true."""
        records = [record('B', {**self.begin, **(begin or {})})]
        for file in self.files:
            records.append(file_record(**{**file, **(relation if file['path'] == RELATION else {})}))
            records += [record('D', struct.pack('<I', 0o40700) + text(directory))
                        for directory, after in DIRECTORIES.items() if after == file['path']]
        return records + [pack_record(*pack) for pack in packs or self.packs()]

    def end(self):
        own, *inherited = self.packs()
        data = sum(len(file['data']) for file in self.files)
        return {'stop_lsn': self.stop, 'stop_timeline': 1, 'stopped_at': '2026-01-01T00:00:10.000000Z',
                'backup_label': 'START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n', 'tablespace_map': '',
                'files': len(self.files), 'directories': len(DIRECTORIES),
                'frames': sum(len(file['frames']) for file in self.files), 'bytes': data,
                'bytes_read': self.read, 'bytes_changed': self.read, 'bytes_stored': own[2], 'packs': 1,
                'bytes_referenced': sum(pack[5] for pack in inherited), 'inherited_packs': len(inherited),
                'restore_bytes': own[2] + sum(pack[2] for pack in inherited), 'restore_requests': 1 + len(inherited),
                'corrupt_pages': 0, 'full_scan': None}

    def manifest(self, end=None, **changes):
        return manifest(self.records(**changes), {**self.end(), **(end or {})})


def small_backups():
    """A full one; one that changes two blocks of the relation; and one that changes a block and adds two."""
    full = Backup(ID, FILES)
    second = Backup('20260102T000000Z-incremental-bada55', FILES, full, start='0/3000200', stop='0/3000300', pieces=[
        (0, 3), noise('1259/3', BLOCK), (4, 56), noise('1259/60', BLOCK), (61, 68)])
    third = Backup('20260103T000000Z-incremental-f00d00', FILES, second, start='0/3000400', stop='0/3000500', pieces=[
        (0, 3), noise('1259/3 again', BLOCK), (4, 125), noise('1259/129', 2 * BLOCK)])
    return full, second, third


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


def file_vectors(full):
    """Of a full backup whose files are not as they must be; its counts are those of what is there."""
    name = f'{BACKUP}/manifest'
    few = [file for file in FILES if file[0] != RELATION]
    for slug, files, frames in (
            ('no-control', few[:-1], None),
            ('control-elsewhere', few[:-1] + [('global/pg_controm', *CONTROL[1:])], None),
            ('control-of-class-0', few[:3] + [CONTROL[:2] + (0,)] + few[3:], None),
            ('two-controls', few + [CONTROL], None),
            ('path-twice', few[:2] + few[1:], None),
            ('unknown-class', few[:2] + [few[2][:2] + (7,)] + few[3:], None),
            ('frame-of-no-bytes', few, [(1, 0, 9, b'')]),
            ('frame-too-large', few, [(1, 0, 9, bytes((1 << 20) + 1))]),
            ('frame-not-stored', few, [(1, 0, 0, b'15\n')]),
            ('frame-of-pack-0', few, [(0, 0, 9, b'15\n')])):
        backup = Backup(ID, files)
        if frames:
            backup.files[0].update(frames=frames, data=b''.join(frame[3] for frame in frames))
        yield f'manifest-{slug}', name, EPOCH, make_object(name, backup.manifest()), 'manifest'


def incremental_vectors():
    _full, second, third = small_backups()
    name = f'{SYSID}/backup/{third.id}/manifest'
    relation = next(file for file in third.files if file['path'] == RELATION)
    frames, extents, size = relation['frames'], relation['extents'], len(relation['data'])
    own, first, other = third.packs()
    end, old = third.end(), reader.INHERITED
    assert extents[0] == (0, 0, 3 * BLOCK) and [frame[0] for frame in frames] == [old + 1, old + 1, old + 2, 1]

    def renumbered(number, to):
        return {'frames': [(to if frame[0] == number else frame[0], *frame[1:]) for frame in frames],
                'packs': [(to if pack[0] == number else pack[0], *pack[1:]) for pack in (own, first, other)]}

    def with_first(*extent):
        return {'extents': [extent] + extents[1:]}

    def pack(was, **fields):
        place = {key: i for i, key in enumerate(('number', 'name', 'size', 'sha', 'frames', 'used'))}
        changed = list(was)
        for key, value in fields.items():
            changed[place[key]] = value
        return {'packs': [tuple(changed) if other == was else other for other in third.packs()]}

    for slug, changes, sound in (
            ('incremental', {}, True),
            ('frame-twice-and-never', {'extents': [(0, 0, 1 << 20), (0, BLOCK, size - (1 << 20))]}, True),
            ('frames-in-any-order', {'frames': frames[::-1],
                                     'extents': [(3 - frame, skip, length) for frame, skip, length in extents]}, True),
            ('told-otherwise', {'end': {'bytes_read': 0, 'bytes_changed': 1 << 62, 'restore_bytes': 0, 'restore_requests': 7,
                                        'full_scan': 'why not'}}, True),
            ('extent-beyond-frame', with_first(0, (1 << 20) - 3 * BLOCK + 1, 3 * BLOCK), False),
            ('extent-wraps', with_first(0, (1 << 32) - BLOCK, 3 * BLOCK), False),
            ('extent-longer-than-frame', {'extents': [(0, 0, (1 << 20) + 1), (0, 0, size - (1 << 20) - 1)]}, False),
            ('extent-of-no-frame', with_first(4, 0, 3 * BLOCK), False),
            ('extent-of-last-number', with_first((1 << 32) - 1, 0, 3 * BLOCK), False),
            ('extent-empty', {'extents': extents + [(0, 0, 0)]}, False),
            ('extents-less-than-size', with_first(0, 0, 2 * BLOCK), False),
            ('extents-more-than-size', with_first(0, 0, 4 * BLOCK), False),
            ('extents-and-crc', {'crc': crc32c(relation['data'])}, False),
            ('extents-fewer-than-said', {'counts': (0, 1)}, False),
            ('extents-more-than-said', {'counts': (0, -1)}, False),
            ('extents-as-many-as-can-be', {'counts': (0, (1 << 32) - 1 - len(extents))}, False),
            ('extents-none-said', {'counts': (0, -len(extents))}, False),
            ('frames-fewer-than-said', {'counts': (1, 0)}, False),
            ('frames-as-many-as-can-be', {'counts': ((1 << 32) - 1 - len(frames), 0)}, False),
            ('extents-none', {'data': b'', 'extents': [], 'end': {'bytes': end['bytes'] - size}}, False),
            ('inherited-before-own', {'packs': [first, other, own]}, False),
            ('inherited-around-own', {'packs': [first, own, other]}, False),
            ('inherited-gap', renumbered(old + 2, old + 3), False),
            ('inherited-from-0', renumbered(old + 1, old), False),
            ('inherited-out-of-order', {'packs': [own, other, first]}, False),
            ('inherited-as-own', renumbered(old + 1, 2), False),
            ('own-gap', renumbered(1, 2), False),
            ('own-from-0', renumbered(1, 0), False),
            ('inherited-not-listed', {'packs': [own, first], 'end': {
                'inherited_packs': 1, 'bytes_referenced': first[5]}}, False),
            ('inherited-no-frame', {'frames': [(old, *frames[0][1:])] + frames[1:]}, False),
            ('used-too-much', pack(own, used=own[5] + 1), False),
            ('used-nothing', {**pack(first, used=0), 'end': {'bytes_referenced': other[5]}}, False),
            ('used-of-another', {'packs': [own, (*first[:5], other[5]), (*other[:5], first[5])]}, False),
            ('used-of-own', {'packs': [(*own[:5], own[5] - 1), first, (*other[:5], other[5] + 1)],
                             'end': {'bytes_referenced': end['bytes_referenced'] + 1}}, False),
            ('used-frames-of-another', {'packs': [own, (*first[:4], 1, first[5]), (*other[:4], 2, other[5])]}, False),
            ('used-frames-too-many', pack(other, frames=2), False),
            ('own-pack-of-another', pack(own, name=second.name.replace('pack-00000001', 'pack-00000002')), False),
            ('own-pack-of-another-number', pack(own, name=own[1][:-1] + '2'), False),
            ('own-pack-of-another-cluster', pack(own, name='1' + own[1]), False),
            ('inherited-pack-is-own', pack(first, name=own[1][:-1] + '2'), False),
            ('inherited-pack-of-another-cluster', pack(first, name='1' + first[1]), False),
            ('inherited-pack-is-no-pack', pack(first, name=f'{BACKUP}/manifest'), False),
            ('inherited-pack-is-pack-0', pack(first, name=first[1][:-1] + '0'), False),
            ('inherited-pack-listed-twice', pack(other, name=first[1]), False),
            ('parent-no-id', {'begin': {'parent': third.id[:-1]}}, False),
            ('parent-a-name', {'begin': {'parent': f'{SYSID}/backup/{second.id}'}}, False),
            ('parent-itself', {'begin': {'parent': third.id}}, False),
            ('parent-a-number', {'begin': {'parent': 1}}, False),
            ('parent-empty', {'begin': {'parent': ''}}, False),
            ('parent-none', {'begin': {'parent': None}}, False),
            ('parent-of-full', {'begin': {'kind': 'full'}}, False),
            ('lineage-0', {'begin': {'lineage': 0}}, False),
            ('lineage-a-text', {'begin': {'lineage': '1'}}, False),
            ('lineage-too-large', {'begin': {'lineage': 1 << 32}}, False),
            *((f'no-{key.replace("_", "-")}', {'without': key}, False) for key in (
                'parent', 'lineage', 'bytes_read', 'bytes_changed', 'bytes_referenced', 'inherited_packs', 'restore_bytes',
                'restore_requests', 'full_scan')),
            ('full-scan-a-number', {'end': {'full_scan': 1}}, False),
            ('bytes-read-negative', {'end': {'bytes_read': -1}}, False),
            ('restore-requests-a-text', {'end': {'restore_requests': '1'}}, False),
            *((f'incremental-wrong-{key.replace("_", "-")}', {'end': {key: value}}, False) for key, value in (
                ('packs', 3), ('inherited_packs', 3), ('bytes_referenced', end['bytes_referenced'] + own[5]),
                ('bytes_stored', end['bytes_stored'] + first[2] + other[2]), ('frames', end['frames'] - 3),
                ('bytes', end['bytes'] - size)))):
        missing = changes.pop('without', None)
        if missing:
            plain = manifest(third.records(), third.end()).replace(f'"{missing}":'.encode(), f'"{missing[::-1]}":'.encode())
        else:
            plain = third.manifest(**changes)
        yield f'manifest-{slug}', name, EPOCH, make_object(name, plain), plain if sound else 'manifest'
    scan = Backup('20260104T000000Z-incremental-5cafe5', FILES, start='0/3000600', stop='0/3000700')
    name, plain = f'{SYSID}/backup/{scan.id}/manifest', scan.manifest(end={'full_scan': 'there is no earlier backup'})
    yield 'manifest-full-scan', name, EPOCH, make_object(name, plain), plain


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

    full = small_backups()[0]
    name, records, end = f'{BACKUP}/manifest', full.records(), full.end()
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
            ('manifest-other-backup', manifest([part.replace(b'c0ffee', b'c0ffef') for part in records], end), 'manifest'),
            ('manifest-other-cluster', manifest(
                [part.replace(SYSID.encode(), b'73' + b'1' * 17) for part in records], end), 'manifest'),
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
              for key in ('files', 'directories', 'frames', 'bytes', 'bytes_stored', 'packs', 'corrupt_pages',
                          'bytes_referenced', 'inherited_packs'))):
        yield slug, name, EPOCH, make_object(name, plain), word or plain
    yield from file_vectors(full)
    yield from incremental_vectors()

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
    backups = [pair for backup in small_backups() for pair in (
        (backup.name, backup.content), (f'{SYSID}/backup/{backup.id}/manifest', backup.manifest()))]
    lineage = {'token': noise('token', 32).hex(), 'host': 'vectors', 'data_directory': '/data'}
    wal = f'{SYSID}/wal/00000001/0000000100000000000000'
    for name, plain in ((f'{SYSID}/lineage/00000001', json.dumps(lineage).encode()),
                        *backups,
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


def check_files(directory, key_file):
    """Each backup extracted holds what its files are made of, byte for byte."""
    for backup in small_backups():
        with tempfile.TemporaryDirectory(prefix='pgdr_t_vectors') as out:
            reader.Repository(directory, key_file).extract(backup.id, out)
            for file in backup.files:
                with open(os.path.join(out, file['path']), 'rb') as extracted:
                    if extracted.read() != file['data']:
                        yield f'{file["path"]} of {backup.id} is not what was stored'


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
        problems += [f'{directory}: {problem}' for problem in check_files(f'{HERE}/{directory}', key_file)]
    print('\n'.join(problems) if problems else f'vectors: {len(rows)} objects and 2 repositories agree')
    return 1 if problems else 0


if __name__ == '__main__':
    if sys.argv[1:] == ['--check']:
        sys.exit(check())
    for old in GENERATED:
        shutil.rmtree(os.path.join(HERE, old), ignore_errors=True)
    generate(HERE)
