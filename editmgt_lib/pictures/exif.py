"""Minimal, tolerant reading of EXIF blocks and TIFF directories.

An EXIF block is laid out like a TIFF file. Only the entries asked for are parsed, so no other
entry can make a picture unreadable.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

ORIENTATION = 274
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
_MOST_PAGES = 10_000
_DESCRIPTION = (270, 271, 272, ORIENTATION, 305, 306, 315, 33432)  # what, who, when, with what
_CHILDREN = (34665, 34853)  # EXIF proper and GPS
_MOST_DESCRIPTION = 2**20  # bytes; values of a hostile file may overlap
# Tags of a TIFF that decide its pixels: size, layout, compression and colour model.
_STRUCTURE = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324),
    *(325, 332, 334, 338, 339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521),
    *(529, 530, 531, 532),
}


@dataclass(frozen=True)
class Entry:
    """One tag. at: offset of its entry; start: offset of its value."""

    tag: int
    kind: int
    count: int
    at: int
    start: int


@dataclass(frozen=True)
class Directory:
    """One directory (IFD). link: offset of the pointer to the next one."""

    data: bytes
    order: str
    big: bool
    entries: tuple[Entry, ...]
    link: int

    def whole(self, tag: int) -> int | None:
        """First integer of a tag."""
        for entry in self.entries:
            if entry.tag == tag and entry.kind in _WHOLE:
                return _number(self.data, self.order + _WHOLE[entry.kind], entry.start)
        return None

    def raw(self, tag: int) -> bytes | None:
        """Bytes of a tag; None if it is missing or cut off."""
        for entry in self.entries:
            size = entry.count * _SIZES.get(entry.kind, 0)
            if entry.tag == tag and 0 < size <= len(self.data) - entry.start:
                return bytes(self.data[entry.start : entry.start + size])
        return None

    def ratio(self, tag: int) -> float | None:
        """A positive rational number."""
        raw = self.raw(tag)
        if raw is None or len(raw) != 8:
            return None
        above, below = struct.unpack(self.order + "II", raw)
        return above / below if above and below else None

    def child(self, tag: int) -> Directory | None:
        """Follow a tag that points to a directory."""
        at = self.whole(tag)
        return _directory(self.data, self.order, self.big, at) if at else None

    def next(self) -> Directory | None:
        """Follow the link to the next directory."""
        at = _number(self.data, self.order + ("Q" if self.big else "I"), self.link)
        return _directory(self.data, self.order, self.big, at) if at else None


def first_directory(data: bytes) -> Directory | None:
    """Parse the first directory of a TIFF file or an EXIF block."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    magic = order and _number(data, order + "H", 2)
    if magic not in (42, 43):
        return None
    big = magic == 43
    at = _number(data, order + ("Q" if big else "I"), 8 if big else 4)
    return _directory(data, order, big, at) if at else None


def orientation_of(block: bytes) -> int | None:
    """Orientation of an EXIF block, 1..8, or None."""
    directory = first_directory(block)
    value = directory.whole(ORIENTATION) if directory else None
    return value if value in range(1, 9) else None


def upright(block: bytes) -> bytes | None:
    """Set the orientation to 1 and remove the thumbnail, which shows the picture before editing.

    None if the block is damaged.
    """
    directory = first_directory(block)
    width = 8 if directory and directory.big else 4
    if directory is None or directory.link + width > len(block):
        return None
    result, end = bytearray(block), len(block)
    thumbnail = directory.next()
    for start_tag, size_tag in ((513, 514), (273, 279)) if thumbnail else ():
        start, size = thumbnail.whole(start_tag), thumbnail.whole(size_tag)
        if start and size and start > directory.link and start + size <= len(block):
            result[start : start + size] = bytes(size)
            end = start if start + size == len(block) else end
    result[directory.link : directory.link + width] = bytes(width)
    for entry in directory.entries:
        if entry.tag == ORIENTATION and not directory.big:
            struct.pack_into(directory.order + "HIHH", result, entry.at + 2, 3, 1, 1, 0)
    return bytes(result[:end])


def description_of(tiff: Directory) -> bytes | None:
    """Copy the description, EXIF and GPS of a TIFF file to an EXIF block."""
    own = [entry for entry in tiff.entries if entry.tag in (*_DESCRIPTION, *_CHILDREN)]
    head = b"II*\0" if tiff.order == "<" else b"MM\0*"
    return head + struct.pack(tiff.order + "I", 8) + _packed(tiff, own, 8) if own else None


def _packed(directory: Directory, entries: Sequence[Entry], at: int) -> bytes:
    """Write these entries as a directory for offset `at` of a new block."""
    table, values, count = b"", b"", 0
    start = at + 2 + 12 * len(entries) + 4
    for entry in entries:
        kind, number, raw = entry.kind, entry.count, directory.raw(entry.tag)
        if child := directory.child(entry.tag) if entry.tag in _CHILDREN else None:
            inner = [e for e in child.entries if e.tag not in (*_CHILDREN, 40965)]
            kind, number, raw = 4, 1, struct.pack(directory.order + "I", start + len(values))
            values += _packed(child, inner, start + len(values))
        elif raw is None or kind > 13 or len(values) + len(raw) > _MOST_DESCRIPTION:
            continue
        elif len(raw) > 4:
            offset = start + len(values)
            values += raw + bytes(len(raw) % 2)
            raw = struct.pack(directory.order + "I", offset)
        table += struct.pack(directory.order + "HHI", entry.tag, kind, number) + raw.ljust(4, b"\0")
        count += 1
    padding = bytes(start - at - 2 - len(table))  # no further directory, and what was left out
    return struct.pack(directory.order + "H", count) + table + padding + values


def structure_only(data: bytes, directory: Directory) -> bytes:
    """Replace the directories of a TIFF file by one with only the tags that decide its pixels.

    It is appended, so offsets stay valid. Pillow then finds no orientation, no further page and
    no odd tag.
    """
    size, count, offset = (20, "Q", "Q") if directory.big else (12, "H", "I")
    kept = [e.at for e in directory.entries if e.tag in _STRUCTURE]
    padding = -len(data) % 8
    header = 8 if directory.big else 4
    body = data[header + struct.calcsize(offset) :]
    parts = [
        data[:header],
        struct.pack(directory.order + offset, len(data) + padding),
        body,
        bytes(padding),
        struct.pack(directory.order + count, len(kept)),
        *(data[at : at + size] for at in kept),
        bytes(struct.calcsize(offset)),
    ]
    return b"".join(parts)


def pages(directory: Directory) -> int:
    """Count the directories from this one on."""
    seen = {directory.link}
    while (found := directory.next()) and found.link not in seen and len(seen) < _MOST_PAGES:
        seen.add(found.link)
        directory = found
    return len(seen)


def _directory(data: bytes, order: str, big: bool, at: int) -> Directory | None:
    count = _number(data, order + ("Q" if big else "H"), at)
    head, size = (8, 20) if big else (2, 12)
    if not count:
        return None
    entries = []
    for place in range(at + head, min(at + head + count * size, len(data) - size + 1), size):
        tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, place)
        start = place + (12 if big else 8)
        if number * _SIZES.get(kind, 0) > (8 if big else 4):
            (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, start)
        entries.append(Entry(tag, kind, number, place, start))
    return Directory(data, order, big, tuple(entries), at + head + count * size)


def _number(data: bytes, layout: str, at: int) -> int | None:
    size = struct.calcsize(layout)
    return struct.unpack_from(layout, data, at)[0] if 0 <= at <= len(data) - size else None
