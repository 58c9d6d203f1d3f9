#!/usr/bin/python3
"""An independent reader of pg_dr repositories, written from doc/FORMAT.md alone.

It shares no line with the program, so that a slip in the program's writer
can't hide behind the same slip in its reader.  Section numbers (§) are those
of doc/FORMAT.md.

    reader.py open    --repository DIR --key-file FILE|none NAME
    reader.py verify  --repository DIR --key-file FILE|none
    reader.py extract --repository DIR --key-file FILE|none --backup ID OUTDIR
    reader.py seal-vectors

Debian: python3-cryptography python3-zstandard python3-crcmod
"""
import argparse
import hashlib
import json
import os
import re
import struct
import sys

import zstandard
from crcmod.predefined import mkPredefinedCrcFun
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

CHUNK, TAG = 16384, 16
FRAME_MAX, PACK_MAX, RECORD_MAX = 1 << 20, 64 << 20, 64 << 20
PACK, MANIFEST, SEGMENT, HISTORY, PARTIAL, BACKUP_HISTORY, LINEAGE, FRONTIER, TAIL, EXPIRY = range(1, 11)
CODEC = {PACK: 0, LINEAGE: 0, FRONTIER: 0, MANIFEST: 1, SEGMENT: 1, HISTORY: 1, PARTIAL: 1, BACKUP_HISTORY: 1, TAIL: 1, EXPIRY: 0}

crc32c = mkPredefinedCrcFun('crc-32c')


class Damaged(Exception):
    """What is wrong: one word (vectors.tsv has them), then the detail."""

    def __init__(self, word, detail=''):
        super().__init__(f'{word}: {detail}' if detail else word)
        self.word = word


def need(condition, word, detail=''):
    if not condition:
        raise Damaged(word, detail)


# ---------------------------------------------------------------- names (§1)

ID = r'\d{8}T\d{6}Z-(?:full|incremental)-[0-9a-f]{6}'
NAMES = [(re.compile(pattern + r'\Z', re.A), kind) for pattern, kind in (
    (r'repository\.json', 'repository'),
    (r'keys/\d{8}', 'keyring'),
    (r'\d+/lineage/\d{8}', LINEAGE),
    (r'\d+/expire/\d{8}', EXPIRY),
    (rf'\d+/backup/{ID}/pack-\d{{8}}', PACK),
    (rf'\d+/backup/{ID}/manifest', MANIFEST),
    (r'\d+/wal/([0-9A-F]{8})/\1[0-9A-F]{16}', SEGMENT),
    (r'\d+/wal/([0-9A-F]{8})/\1[0-9A-F]{16}\.frontier', FRONTIER),
    (r'\d+/wal/([0-9A-F]{8})/\1[0-9A-F]{16}\.(?!0{8})[0-9A-F]{8}\.[0-9A-F]{8}', TAIL),
    (r'\d+/wal/([0-9A-F]{8})/\1[0-9A-F]{16}\.partial', PARTIAL),
    (r'\d+/wal/([0-9A-F]{8})/\1[0-9A-F]{16}\.[0-9A-F]{8}\.backup', BACKUP_HISTORY),
    (r'\d+/wal/([0-9A-F]{8})/\1\.history', HISTORY))]


def kind_of(name):
    """The kind that a name implies; None when the name is not one of ours."""
    if len(name) > 512 or re.search(r'(?:pack-|keys/|lineage/|expire/)0{8}\Z', name):
        return None
    return next((kind for pattern, kind in NAMES if pattern.match(name)), None)


# -------------------------------------------------------------- sealing (§3)

def derive(key, salt, context):
    """-> AEAD, base nonce, commitment."""
    info = b'c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0' + salt + context
    out = HKDFExpand(algorithm=SHA512(), length=76, info=info).derive(key)
    return AESGCM(out[:32]), out[32:44], out[44:]


def chunk_nonce(base, number):
    return (int.from_bytes(base, 'big') ^ number).to_bytes(12, 'big')


def unseal(key, context, data):
    need(len(data) >= 56, 'cut', 'shorter than salt and commitment')
    aead, base, commitment = derive(key, data[:24], context)
    need(data[24:56] == commitment, 'commitment', 'wrong key, name or header')
    plain, number, view = [], 0, memoryview(data)[56:]
    while True:
        chunk = bytes(view[number * (CHUNK + TAG):(number + 1) * (CHUNK + TAG)])
        need(len(chunk) >= TAG, 'cut', f'chunk {number} is the last one and too short')
        try:
            plain.append(aead.decrypt(chunk_nonce(base, number), chunk, None))
        except InvalidTag:
            raise Damaged('chunk', f'chunk {number} is not authentic') from None
        if len(chunk) < CHUNK + TAG:
            return b''.join(plain)
        number += 1


def unzstd(data, limit=None):
    """One zstd frame at the beginning of data -> its bytes, what follows it."""
    stream = zstandard.ZstdDecompressor().decompressobj()
    try:
        plain = stream.decompress(bytes(data))
    except zstandard.ZstdError as error:
        raise Damaged('codec', str(error)) from None
    need(stream.eof, 'codec', 'the zstd frame is cut')
    need(limit is None or len(plain) <= limit, 'codec', 'the zstd frame is too long')
    return plain, stream.unused_data


OBJECT_HEADER = struct.Struct('<8s BBBB I 16s QQQ Q')     # §3.1


def open_object(data, name, repository_id, epoch_key_of):
    """The plain bytes of a sealed object; epoch_key_of(key id) -> key."""
    need(len(data) >= 64, 'cut', 'shorter than a header')
    header = data[:64]
    magic, version, kind, codec, zero, crc, repository, key_id, length, _created, zeros = \
        OBJECT_HEADER.unpack(header)
    need(magic == b'PGDRSEAL', 'magic')
    need(version == 1, 'version', str(version))
    need(kind == kind_of(name), 'kind', f'{kind} under this name')
    need(codec == CODEC[kind], 'codec', f'{codec} with kind {kind}')
    need(zero == 0 and zeros == 0, 'reserved')
    need(repository == repository_id, 'repository', 'belongs to ' + repository.hex())
    plain = unseal(epoch_key_of(key_id), b'pg_dr/1 object' + header + name.encode(), data[64:])
    if codec == 1:
        plain, rest = unzstd(plain, length)
        need(not rest, 'codec', 'bytes after the zstd frame')
    need(len(plain) == length, 'length', f'{len(plain)}, not {length}')
    need(crc32c(plain) == crc, 'crc')
    return plain


# ----------------------------------------------------------------- keys (§4)

def read_key_file(path):
    """The recipient key; None for 'none'."""
    if path == 'none':
        return None
    with open(path, encoding='ascii') as file:
        lines = [line.rstrip('\n') for line in file if not line.startswith('#')]
    match = re.fullmatch(r'pgdr-key-1-([0-9a-f]{64})-([0-9a-f]{8})', lines[0]) if len(lines) == 1 else None
    need(match, 'key', f'{path} is not a key file')
    key = bytes.fromhex(match[1])
    need(hashlib.sha256(b'pg_dr/1 key file' + key).hexdigest()[:8] == match[2], 'key', f'typing error in {path}')
    return key


KEYRING_HEADER = struct.Struct('<8s B3s I 16s II Q 16s')    # §4.2


def open_keyring(data, name, repository_id, recipient_key):
    """{key id: epoch key} of one generation."""
    need(len(data) >= 64, 'cut', 'shorter than a header')
    header = data[:64]
    magic, version, zero, generation, repository, count, payload, _created, zeros = KEYRING_HEADER.unpack(header)
    need(magic == b'PGDRKEYS', 'magic')
    need(version == 1, 'version', str(version))
    need(not any(zero + zeros), 'reserved')
    need(name == f'keys/{generation:08d}', 'name', f'is generation {generation}')
    need(repository == repository_id, 'repository', 'belongs to ' + repository.hex())
    need(1 <= count <= 16, 'stanzas', str(count))
    need(len(data) == 64 + 128 * count + payload, 'length')
    stanzas = data[64:64 + 128 * count]
    file_key = None
    for stanza in (stanzas[at:at + 128] for at in range(0, len(stanzas), 128)):
        need(stanza[0] in (0, 1), 'stanza', f'type {stanza[0]}')
        need(not any(stanza[1:8] + stanza[120:]), 'reserved')
        wrapped = stanza[16:120]
        if stanza[0] == 0:
            need(not any(stanza[8:16] + wrapped[32:]), 'reserved')
            if recipient_key is None:
                file_key = wrapped[:32]
        elif recipient_key is not None and \
                stanza[8:16] == hashlib.sha256(b'pg_dr/1 recipient' + recipient_key).digest()[:8]:
            file_key = unseal(recipient_key, b'pg_dr/1 wrap' + header + stanza[:16], wrapped)
            need(len(file_key) == 32, 'length', 'file key')
    need(file_key is not None, 'recipient', 'no stanza for this key')
    epochs = unseal(file_key, b'pg_dr/1 keyring' + header + stanzas + name.encode(), data[64 + len(stanzas):])
    need(epochs and len(epochs) % 48 == 0 and len(epochs) <= 48 * 1024, 'length', 'epochs')
    keys = {key_id: key for key_id, _created, key in struct.iter_unpack('<QQ32s', epochs)}
    need(len(keys) == len(epochs) // 48, 'epochs', 'a key id twice')
    return keys


# ------------------------------------------------------------ manifests (§5)

HEADS = {'B': ('id kind label system_identifier server_version_num control_version catalog_version block_size '
               'segment_blocks wal_segment_size data_checksums timeline start_lsn started_at data_directory '
               'config_directory host parent lineage program_version'),
         'T': 'oid path',
         'E': ('stop_lsn stop_timeline stopped_at backup_label tablespace_map files directories frames bytes bytes_read '
               'bytes_changed bytes_stored packs bytes_referenced inherited_packs restore_bytes restore_requests '
               'corrupt_pages full_scan')}
# What a reader takes from E as it is: whole numbers, none of them checked.
TOLD = 'bytes_read bytes_changed restore_bytes restore_requests'
INHERITED = 1 << 31                                # the number before the first inherited pack's


class Manifest:
    """begin, end: the B and E records; files: [(path, class, mode, mtime, size, crc, frames, extents)], extents
    being None for an F record; packs: {number: (name, object size, SHA-256, frames used, bytes used)}; ..."""

    def __init__(self, data, name):
        self.tablespaces, self.directories, self.files, self.packs, self.corrupt = [], {}, [], {}, []
        self.begin = self.end = None
        self.pack_names = set()
        order = []       # of D and F records: (place, path); what comes before what is §5's
        need(data[:8] == b'PGDRMANI', 'manifest', 'magic')
        need(data[8:12] == b'\1\0\0\0', 'manifest', 'version')
        self.data, at = data, 12
        while at < len(data):
            need(self.end is None, 'manifest', 'something follows E')
            self.at, length = at + 5, int.from_bytes(data[at + 1:at + 5], 'little')
            self.stop = at = at + 5 + length
            need(at <= len(data), 'manifest', 'a record is cut')
            need(length <= RECORD_MAX, 'manifest', 'a record is longer than any can be')
            kind = chr(data[self.at - 5])
            need((kind == 'B') == (self.begin is None), 'manifest', 'B must be first, and once')
            if kind in 'BTE':
                need(kind != 'T' or not (order or self.packs), 'manifest', 'T comes too late')
                self.json(kind)
            elif kind in 'DFG':
                need(not self.packs, 'manifest', f'{kind} after P')
                order.append(self.directory() if kind == 'D' else self.file(kind == 'G'))
            elif kind == 'C':
                self.corrupt.append((self.take('<IHHQ'), self.path()))
            elif kind == 'P':
                self.pack()
            else:
                raise Damaged('manifest', f'unknown record {kind!r}')
            need(self.at == self.stop, 'manifest', f'{kind} record too long')
        need(self.end is not None, 'manifest', 'no E')
        self.check(name, order)

    def take(self, layout):
        size = struct.calcsize(layout)
        need(self.at + size <= self.stop, 'manifest', 'a record is too short')
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += size
        return values if len(values) > 1 else values[0]

    def text(self):
        text = self.take(f'{self.take("<H")}s')
        need(b'\0' not in text, 'manifest', 'NUL in a text')
        return os.fsdecode(text)

    def path(self):
        path = self.text()
        need(all(part not in ('', '.', '..') for part in path.split('/')), 'manifest', f'path {path!r}')
        return path

    def json(self, kind):
        try:
            value = json.loads(self.data[self.at:self.stop])
        except ValueError as error:
            raise Damaged('manifest', f'{kind}: {error}') from None
        self.at = self.stop
        missing = set(HEADS[kind].split()) - set(value) if isinstance(value, dict) else {'object'}
        need(not missing, 'manifest', f'{kind} lacks {missing}')
        if kind == 'T':
            self.tablespaces.append(value)
        else:
            setattr(self, 'begin' if kind == 'B' else 'end', value)
        if kind == 'B':
            self.check_parent()

    def directory(self):
        mode, path = self.take('<I'), self.path()
        self.directories[path] = mode
        return 0, os.fsencode(path).split(b'/')

    def file(self, with_extents):
        kind, mode, mtime, size, crc = self.take('<BIqQI')
        need(kind <= 6, 'manifest', f'class {kind}')
        path = self.path()
        frames, extents = self.many('<IIIII'), None
        for _pack, _offset, stored, raw, _crc in frames:
            need(stored > 0 and 0 < raw <= FRAME_MAX, 'manifest', f'a frame of {path} has {raw} bytes from {stored}')
        if not with_extents:
            need(sum(frame[3] for frame in frames) == size, 'manifest', f'frames of {path} are not its size')
        else:
            extents = self.many('<III')
            for frame, skip, length in extents:
                need(frame < len(frames), 'manifest', f'{path} has no frame {frame}')
                need(0 < length <= frames[frame][3] - skip, 'manifest', f'an extent of {path} is not in frame {frame}')
            need(extents and sum(extent[2] for extent in extents) == size, 'manifest', f'extents of {path} are not its size')
            need(crc == 0, 'manifest', f'{path} has extents and a CRC')
        need((kind == 5) == (path == 'global/pg_control' and kind != 6), 'manifest', f'{path} is of class {kind}')
        self.files.append((path, kind, mode, mtime, size, crc, frames, extents))
        return {6: 1, 5: 2}.get(kind, 0), os.fsencode(path).split(b'/')

    def many(self, layout):
        """A count, and that many."""
        count = self.take('<I')
        need(count * struct.calcsize(layout) <= self.stop - self.at, 'manifest', 'a record is too short')
        return [self.take(layout) for _ in range(count)]

    def pack(self):
        number, size, sha, frames, used = self.take('<IQ32sIQ')
        name = self.text()
        own = sum(number < INHERITED for number in self.packs)
        inherited = len(self.packs) - own
        if number < INHERITED:
            need(number == own + 1 and not inherited, 'manifest', f'pack number {number}')
            need(name == self.of_backup(self.begin['id'], f'pack-{number:08d}'), 'manifest', f'{name} is no pack of this backup')
        else:
            need(number == INHERITED + inherited + 1, 'manifest', f'pack number {number}')
            need(self.begin['parent'], 'manifest', 'an inherited pack, but no parent')
            need(kind_of(name) == PACK, 'manifest', f'{name} is no pack')
            _sysid, _, backup, rest = name.split('/')
            need(name == self.of_backup(backup, rest) and backup != self.begin['id'], 'manifest', f'{name} is no pack of another backup')
            need(name not in self.pack_names, 'manifest', f'{name} is listed twice')
        self.pack_names.add(name)
        self.packs[number] = name, size, sha, frames, used

    def of_backup(self, backup, rest):
        return f'{self.begin["system_identifier"]}/backup/{backup}/{rest}'

    def check_parent(self):
        parent, lineage = self.begin['parent'], self.begin['lineage']
        need(parent is None or isinstance(parent, str) and re.fullmatch(ID, parent, re.A), 'manifest', 'parent is no id')
        need(parent is None or self.begin['kind'] == 'incremental' and parent != self.begin['id'], 'manifest', 'a parent')
        need(type(lineage) is int and 0 < lineage < 1 << 32, 'manifest', 'lineage')

    def check(self, name, order):
        need(name.split('/')[::2] == [self.begin['system_identifier'], self.begin['id']],
             'manifest', 'is of another backup')
        for before, after in zip(order, order[1:]):
            need(before < after or before[0] == after[0] == 1, 'manifest', f'{b"/".join(after[1])} is out of order')
        need(order and order[-1][0] == 2, 'manifest', 'no pg_control')
        used = {number: [0, 0] for number in self.packs}
        for path, *_, frames, _extents in self.files:
            for number, _offset, stored, _raw, _crc in frames:
                need(number in used, 'manifest', f'{path} needs pack {number}, which is not listed')
                used[number][0] += 1
                used[number][1] += stored
        for number, (pack, _size, _sha, *said) in self.packs.items():
            need(used[number] == said, 'manifest', f'{pack}: frames and bytes used are {used[number]}, not {said}')
        own = [pack for number, pack in self.packs.items() if number < INHERITED]
        inherited = [pack for number, pack in self.packs.items() if number > INHERITED]
        counts = {'files': len(self.files), 'directories': len(self.directories),
                  'frames': sum(frames for frames, _bytes in used.values()),
                  'bytes': sum(file[4] for file in self.files), 'packs': len(own), 'inherited_packs': len(inherited),
                  'bytes_stored': sum(pack[1] for pack in own), 'bytes_referenced': sum(pack[4] for pack in inherited),
                  'corrupt_pages': len(self.corrupt)}
        for key, value in counts.items():
            need(self.end[key] == value, 'manifest', f'{key} is {value}, not {self.end[key]}')
        for key in TOLD.split():
            need(type(self.end[key]) is int and 0 <= self.end[key] < 1 << 63, 'manifest', key)
        need(isinstance(self.end['full_scan'], (str, type(None))), 'manifest', 'full_scan')

    def segments(self, names, newest):
        """The segments that must be there: from start to stop, and from the newest backup on to the frontier (§6)."""
        size, timeline = self.begin['wal_segment_size'], self.begin['timeline']
        directory = f'{self.begin["system_identifier"]}/wal/{timeline:08X}'
        present = [name.split('/')[-1][8:24] for name in names
                   if newest and name.startswith(directory) and kind_of(name) in (SEGMENT, FRONTIER)]
        lsns = [self.begin['start_lsn']] + [self.end['stop_lsn']] * (timeline == self.end['stop_timeline'])
        at = [int(high, 16) << 32 | int(low, 16) for high, low in (lsn.split('/') for lsn in lsns)]
        last = [at[-1] - 1] + [(int(max(present)[:8], 16) << 32) + int(max(present)[8:], 16) * size for _ in present[:1]]
        return [f'{directory}/{timeline:08X}%08X%08X' % divmod(number, (1 << 32) // size)
                for number in range(at[0] // size, max(last) // size + 1)]


def pack_frames(content):
    """{offset: (stored length, raw length, raw CRC)} by walking the pack from its beginning."""
    frames, at = {}, 0
    while at < len(content):
        window = content[at:at + FRAME_MAX + (1 << 16)]
        try:
            size = zstandard.get_frame_parameters(window).content_size
        except zstandard.ZstdError as error:
            raise Damaged('frame', f'at {at}: {error}') from None
        need(0 < size <= FRAME_MAX, 'frame', f'at {at}: content size {size}')
        raw, rest = unzstd(window)
        need(len(raw) == size, 'frame', f'at {at}: {len(raw)} bytes, not {size}')
        frames[at] = len(window) - len(rest), size, crc32c(raw)
        at += frames[at][0]
    return frames


# --------------------------------------------------------------- repository

class Repository:
    def __init__(self, directory, key_file):
        self.directory = directory
        self.recipient_key = read_key_file(key_file)
        match = re.fullmatch(
            rb'\{"pg_dr":"repository","format":1,"id":"([0-9a-f]{32})",'
            rb'"created":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ","check":"([0-9a-f]{16})"\}\n', self.read('repository.json'))
        need(match, 'repository', 'repository.json is not as it must be')
        checked = match[0][:match[0].index(b',"check"')]
        need(hashlib.sha256(checked).hexdigest()[:16].encode() == match[2], 'repository', 'repository.json: check')
        self.id = bytes.fromhex(match[1].decode())
        self.names, self.foreign = [], []
        for top, directories, files in os.walk(directory):
            directories[:] = sorted(entry for entry in directories if not entry.startswith('.'))
            for entry in sorted(files):
                name = os.path.relpath(os.path.join(top, entry), directory)
                (self.foreign if kind_of(name) is None else self.names).append(name)
        generations = [name for name in self.names if kind_of(name) == 'keyring']
        need(generations, 'keyring', 'there is none')
        self.keys = self.keyring(max(generations))

    def read(self, name):
        path = os.path.join(self.directory, name)
        need(os.path.isfile(path) and not os.path.islink(path), 'name', 'not a regular file')
        with open(path, 'rb') as file:
            return file.read()

    def keyring(self, name):
        return open_keyring(self.read(name), name, self.id, self.recipient_key)

    def epoch_key(self, key_id):
        need(key_id in self.keys, 'key id', f'{key_id} is not in the keyring')
        return self.keys[key_id]

    def open(self, name):
        kind = kind_of(name)
        need(kind, 'name', 'not an object of a repository')
        if kind == 'repository':
            return self.read(name)
        if kind == 'keyring':
            return b''.join(struct.pack('<Q', key_id) + key for key_id, key in self.keyring(name).items())
        data = self.read(name)
        need(kind != PACK or len(data) <= PACK_MAX, 'length', 'pack above 64 MiB')
        return open_object(data, name, self.id, self.epoch_key)

    def manifest(self, name):
        return Manifest(self.open(name), name)

    @staticmethod
    def start_of(manifest):
        high, low = manifest.begin['start_lsn'].split('/')
        return int(high, 16) << 32 | int(low, 16)

    # What a manifest says about a pack is held against the pack itself: size, SHA-256, each frame.
    def verify(self, report):
        manifests, frames, packs, segment_size, problems = [], {}, {}, {}, {}
        for name in self.names:
            try:
                plain, kind = self.open(name), kind_of(name)
                if kind == PACK:
                    sealed = self.read(name)
                    packs[name] = len(sealed), hashlib.sha256(sealed).digest()
                    frames[name] = pack_frames(plain)
                elif kind == MANIFEST:
                    manifests.append((name, Manifest(plain, name)))
                elif kind == LINEAGE:
                    lineage = json.loads(plain)
                    need(re.fullmatch('[0-9a-f]{64}', lineage['token']), 'lineage', 'token')
                    need({'host', 'data_directory'} <= set(lineage), 'lineage', 'host, data_directory')
                elif kind == EXPIRY:
                    marked = json.loads(plain)
                    need({'backups', 'wal'} <= set(marked), 'expiry', 'backups, wal')
                elif kind == SEGMENT:
                    segment_size[name] = len(plain)
            except Damaged as damage:
                # An older generation may have been written for other recipients only.
                if not (kind_of(name) == 'keyring' and damage.word == 'recipient'):
                    report(name, damage)
            except (ValueError, KeyError, TypeError) as error:
                report(name, repr(error))
        for name, manifest in manifests:
            for pack, size, sha, _frames, _bytes in manifest.packs.values():
                if pack not in self.names:
                    report(pack, f'is missing; {name} needs it')
                elif pack in packs and packs[pack] != (size, sha):
                    report(pack, f'is not the one that {name} describes')
            for path, *_, used, _extents in manifest.files:
                for number, offset, stored, raw, crc in used:
                    pack = manifest.packs[number][0]
                    if pack in frames and frames[pack].get(offset) != (stored, raw, crc):
                        report(pack, f'has no such frame at {offset} as {name} says for {path}')
            newest = all(self.start_of(manifest) >= self.start_of(other) for _, other in manifests
                         if other.begin['timeline'] == manifest.begin['timeline'])
            for segment in manifest.segments(self.names, newest):
                if segment not in self.names:
                    problems[segment] = f'is missing; {name} needs it'
                elif segment_size.get(segment, manifest.begin['wal_segment_size']) != manifest.begin['wal_segment_size']:
                    problems[segment] = 'is not a whole segment'
        for segment, problem in problems.items():
            report(segment, problem)

    def segment(self, name):
        """A segment's bytes: archived, or what the newest incarnation of its tail has (§6), without the zeros behind."""
        if name in self.names:
            return self.open(name)
        pieces = [(int(piece[-17:-9], 16), int(piece[-8:], 16), piece) for piece in self.names
                  if piece.startswith(name + '.') and kind_of(piece) == TAIL]
        newest = max((incarnation for incarnation, offset, _ in pieces if offset == 0), default=None)
        need(newest, 'absent', f'no segment {name}, nor a tail of it')
        plain = b''
        for incarnation, offset, piece in sorted(pieces):
            if incarnation == newest and offset == len(plain):
                plain += self.open(piece)
        return plain

    def frame(self, manifest, frame, opened):
        """A frame's raw bytes; opened: {backup: (pack, its content)}, one pack for each."""
        number, offset, stored, raw, crc = frame
        pack = manifest.packs[number][0]
        backup = pack.split('/')[2]
        if opened.get(backup, (None,))[0] != pack:
            opened[backup] = pack, self.open(pack)
        piece, rest = unzstd(opened[backup][1][offset:offset + stored], raw)
        need(not rest and len(piece) == raw and crc32c(piece) == crc, 'frame', f'{pack}: at {offset}')
        return piece

    def extract(self, backup, out):
        name = next((name for name in self.names if name.endswith(f'/backup/{backup}/manifest')), None)
        need(name, 'absent', f'no backup {backup}')
        manifest = self.manifest(name)
        os.makedirs(out, mode=0o700, exist_ok=True)
        for path, mode in manifest.directories.items():
            os.makedirs(os.path.join(out, path), exist_ok=True)
            os.chmod(os.path.join(out, path), mode & 0o7777)
        opened = {}                # files use packs nearly in order: keep the last one of each backup
        for path, _kind, mode, mtime, size, crc, frames, extents in manifest.files:
            pieces = [self.frame(manifest, frame, opened) for frame in frames]
            if extents is not None:
                pieces = [pieces[frame][skip:skip + length] for frame, skip, length in extents]
            whole = b''.join(pieces)
            need(len(whole) == size and (extents is not None or crc32c(whole) == crc), 'file', f'{path} is not as {name} says')
            write(os.path.join(out, path), whole, mode & 0o7777, mtime)
        for path in ('backup_label', 'tablespace_map'):
            if manifest.end[path]:
                write(os.path.join(out, path), manifest.end[path].encode(), 0o600)


def write(path, data, mode, mtime=None):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as file:
        file.write(data)
    os.chmod(path, mode)
    if mtime is not None:
        os.utime(path, (mtime, mtime))


# ----------------------------------------------------------------- commands

# SHA-256 of salt || commitment || chunks for key 00..1f, salt 00..17, context "pg_dr/1 test", n times a5.
# Two other implementations of C2SP chunked-encryption agreed on them.
SEAL_VECTORS = {
    0: '6944dde5bb3b3a93eff60a7b21f1adff59a137567674d7247915e986d09ce20f',
    1: '6b8d446f75c692bf013bdb112b338af5151ff80099de84f900a2248066c83e54',
    16383: '84eefb8c3b4a17987139eb662def556b7c11c69ae6133072e80d25067354a19e',
    16384: 'e4e421955d4810cbb74a53c7cf338b0f0be7f3cfb2df320e6f7a626bb6884200',
    16385: '8d69419c789f324abb06bbdeda9edf8722a111a00bc6261bde6a1f34c31a03cd',
    40000: '577419d5c0104a0b27a3af367c0446892bfa316c3ea8ca4e95e3ab0ef5897638'}


def seal(key, salt, context, plain):
    """What unseal() opens: for the vectors, which must not need the program."""
    aead, base, commitment = derive(key, salt, context)
    return salt + commitment + b''.join(
        aead.encrypt(chunk_nonce(base, number), plain[number * CHUNK:(number + 1) * CHUNK], None)
        for number in range(len(plain) // CHUNK + 1))


def seal_vectors():
    key, salt, context = bytes(range(32)), bytes(range(24)), b'pg_dr/1 test'
    for n, expected in SEAL_VECTORS.items():
        sealed = seal(key, salt, context, b'\xa5' * n)
        need(len(sealed) == 56 + n + 16 * (n // CHUNK + 1), 'length', f'n={n}')
        need(hashlib.sha256(sealed).hexdigest() == expected, 'vector', f'n={n}')
        need(unseal(key, context, sealed) == b'\xa5' * n, 'vector', f'n={n} does not open')
    print(f'seal vectors: {len(SEAL_VECTORS)} agree')


def main():
    parser = argparse.ArgumentParser(description='independent reader of pg_dr repositories')
    commands = parser.add_subparsers(dest='command', required=True)
    for command in ('open', 'segment', 'verify', 'extract', 'packs'):
        sub = commands.add_parser(command)
        sub.add_argument('--repository', required=True)
        sub.add_argument('--key-file', required=True)
        if command in ('open', 'segment'):
            sub.add_argument('name')
        if command == 'extract':
            sub.add_argument('--backup', required=True)
            sub.add_argument('outdir')
    commands.add_parser('seal-vectors')
    args = parser.parse_args()

    if args.command == 'seal-vectors':
        seal_vectors()
        return 0
    repository = Repository(args.repository, args.key_file)
    if args.command == 'open':
        sys.stdout.buffer.write(repository.open(args.name))
        return 0
    if args.command == 'segment':
        sys.stdout.buffer.write(repository.segment(args.name))
        return 0
    if args.command == 'packs':
        names = {pack[0] for name in repository.names if kind_of(name) == MANIFEST
                 for pack in repository.manifest(name).packs.values()}
        print('\n'.join(sorted(names)))
        return 0
    if args.command == 'extract':
        repository.extract(args.backup, args.outdir)
        return 0
    problems = []
    repository.verify(lambda name, problem: problems.append(f'{name}: {problem}'))
    for name in repository.foreign:
        print(f'{name}: not ours, left alone', file=sys.stderr)
    print('\n'.join(problems) if problems else f'{len(repository.names)} objects, no problem')
    return 1 if problems else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except (Damaged, OSError) as error:
        sys.exit(f'reader.py: {error}')
