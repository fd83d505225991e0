"""Ways to damage files: of any kind, and of kinds whose structure is known, checksums put right afterwards.

A mutator takes a source of randomness and the bytes of a sound file, and gives other bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from moerl.training.statefile import dump

Mutator = Callable[[random.Random, bytes], bytes]

CANARY = "moerl-fuzz-canary"
"""Name of a file that is only ever made by running what a file says."""
DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 17, 18, 255, 2**31, 2**63, -(2**63), 2**64, 10**30, 0.5, 1e308),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "0",
        "1e999",
        "x" * 3000,
        "\n",
        "a\nb",
        "\x1b[31m",
        "\0",
        "\ud800",
        "é",
    ),
    *("../../x", "/tmp/x", "~", "$(touch x)", "`touch x`", "; touch x", "{0.__class__}", "%s", "Pong"),
    *([], {}, [[]], [0] * 50, {"a": 1}, {"": None}, DEEP),
]
BYTES = (
    b"\0",
    b"\xff",
    b"\x80",
    b"\n",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"-",
    b"9",
    b"NaN",
    b"1e999",
)


def _place(rng: random.Random, data: bytes) -> int:
    """Anywhere, but more often near the ends, where formats keep their structure."""
    length = max(len(data), 1)
    match rng.randrange(4):
        case 0:
            return min(rng.randrange(64), length - 1)
        case 1:
            return max(length - 1 - rng.randrange(256), 0)
        case _:
            return rng.randrange(length)


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    """One to eight bits."""
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        changed[_place(rng, changed)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: random.Random, data: bytes) -> bytes:
    """What a torn write leaves."""
    return data[: _place(rng, data)]


def delete(rng: random.Random, data: bytes) -> bytes:
    """A piece is gone."""
    start = _place(rng, data)
    return data[:start] + data[start + rng.choice((1, 2, 8, 64, 512)) :]


def insert(rng: random.Random, data: bytes) -> bytes:
    """Something is there that was not."""
    start = _place(rng, data)
    new = rng.choice((*BYTES, bytes(rng.randrange(256) for _ in range(8)), b"\0" * 512))
    return data[:start] + new * rng.choice((1, 1, 1, 40)) + data[start:]


def splice(rng: random.Random, data: bytes) -> bytes:
    """A piece stands in another place as well, or instead of what was there."""
    start, size, at = _place(rng, data), rng.choice((1, 4, 16, 128, 2048)), _place(rng, data)
    piece = data[start : start + size]
    return data[:at] + piece + data[at + (size if rng.random() < 0.5 else 0) :]


def numbers(rng: random.Random, data: bytes) -> bytes:
    """An integer of a header becomes an extreme one."""
    form, values = rng.choice((("<I", (0, 1, 2**31, 2**32 - 1)), ("<Q", (0, 2**40, 2**63, 2**64 - 1))))
    new, start = struct.pack(form, rng.choice(values)), _place(rng, data)
    return data[:start] + new + data[start + len(new) :]


def zero_block(rng: random.Random, data: bytes) -> bytes:
    """A block that never reached the disk."""
    start = _place(rng, data) // 512 * 512
    return data[:start] + bytes(min(512, len(data) - start)) + data[start + 512 :]


ANY: tuple[Mutator, ...] = (flip_bits, truncate, delete, insert, splice, numbers, zero_block)


def change_value(rng: random.Random, value: Any) -> Any:
    """A JSON value in which one place, however deep, is another value, gone, new or twice."""
    if isinstance(value, dict | list) and value and rng.random() < 0.8:
        changed: Any = dict(value) if isinstance(value, dict) else list(value)
        key = rng.choice(list(changed)) if isinstance(changed, dict) else rng.randrange(len(changed))
        match rng.randrange(8):
            case 0:
                del changed[key]
            case 1 if isinstance(changed, dict):
                changed[rng.choice(["", "x", f"{key}x", "__class__", "../x", "a\nb"])] = changed[key]
            case 1:
                changed.insert(key, changed[key])
            case 2 if isinstance(changed, dict):
                other = rng.choice(list(changed))
                changed[key], changed[other] = changed[other], changed[key]
            case _:
                changed[key] = change_value(rng, changed[key])
        return changed
    if isinstance(value, int | float) and rng.random() < 0.4:
        return rng.choice([value + 1, value - 1, -value, value * 2, float(value), str(value)])
    return rng.choice(VALUES)


def edit_json(rng: random.Random, data: bytes) -> bytes:
    """One or two values of a JSON file are others."""
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        value = change_value(rng, value)
    text = json.dumps(value)
    if rng.random() < 0.02:
        text = "[" * 50_000 + text
    return text.encode()


def _pieces(data: bytes) -> tuple[dict[str, np.ndarray], str]:
    """Tensors and metadata text of a state file."""
    size = struct.unpack_from("<Q", data)[0]
    meta = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["moerl"])["meta"]
    return load(data), meta


def edit_meta(rng: random.Random, data: bytes) -> bytes:
    """A state file whose metadata is other, with a checksum that fits."""
    tensors, meta = _pieces(data)
    value = json.loads(meta)
    for _ in range(rng.choice((1, 1, 2))):
        value = change_value(rng, value)
    try:
        return dump(tensors, value)
    except (ValueError, UnicodeError):  # NaN and the like, which the writer refuses; a forger would not
        header = json.dumps({"digest": "0" * 64, "meta": json.dumps(value)})
        return save(tensors, {"moerl": header})


def edit_tensors(rng: random.Random, data: bytes) -> bytes:
    """A state file one of whose tensors is gone, renamed, or of other values, type or shape."""
    tensors, meta = _pieces(data)
    small = [name for name, value in tensors.items() if value.size < 5000]
    name = rng.choice(small if small and rng.random() < 0.8 else list(tensors))
    value = tensors[name]
    match rng.randrange(7):
        case 0:
            del tensors[name]
        case 1:
            tensors[rng.choice(["x", f"{name}/x", f"{name}x", "../x", "log/"])] = tensors.pop(name)
        case 2:
            tensors[name] = value.astype(rng.choice(["u1", "i4", "i8", "f4", "f8", "u4", "?", "f2"]))
        case 3:
            tensors[name] = value[None]
        case 4:
            tensors[name] = value.reshape(-1)[: rng.randrange(value.size + 1)]
        case 5 if value.size:
            changed = value.copy().reshape(-1)
            with np.errstate(all="ignore"):
                extreme = rng.choice([0, 1, -1, 255, 2**31 - 1, 2**63 - 1, np.nan, np.inf])
                changed[rng.randrange(changed.size)] = np.float64(extreme).astype(value.dtype)
            tensors[name] = changed.reshape(value.shape)
        case _:
            tensors[name] = np.concatenate([value.reshape(-1)] * 2)
    return dump(tensors, json.loads(meta))


def edit_header(rng: random.Random, data: bytes) -> bytes:
    """A state file whose own header, of names, types, shapes and offsets, is other."""
    size = struct.unpack_from("<Q", data)[0]
    header = json.dumps(change_value(rng, json.loads(data[8 : 8 + size]))).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


STATE: tuple[Mutator, ...] = (*ANY, edit_meta, edit_meta, edit_tensors, edit_tensors, edit_header)
JSON: tuple[Mutator, ...] = (*ANY, edit_json, edit_json, edit_json)

YAML_PIECES = [
    "&a [*a]",
    "*nowhere",
    "&a [x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b]\nd: [*c, *c, *c, *c, *c]",
    f"!!python/object/apply:os.system ['touch {CANARY}']",
    f"!!python/object/new:subprocess.Popen [[touch, {CANARY}]]",
    "!!python/name:os.system ''",
    "!!timestamp x",
    "2001-99-99",
    "!!int ''",
    "!!float x",
    "!!binary '!'",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!pairs [a: 1]",
    "!x y",
    "[" * 200,
    "{a: " * 200,
    "9" * 5000,
    "0x" + "f" * 5000,
    "? [a]\n: b",
    "<<: {a: 1}",
    "<<: 3",
    "\t",
    "%YAML 9.9",
    "---",
    "...",
    "| \n  x",
    "'",
    ".nan",
    ".inf",
    "null",
    "~",
    "-1",
    "[]",
    "{}",
    "../../x",
    "'{0.__class__}'",
    "'{game}'",
    '"\\u2028\\x1b\\0"',
    "1:2:3",
    "no",
]


def edit_yaml(rng: random.Random, data: bytes) -> bytes:
    """Lines of a YAML file are gone, twice, moved, or have another value or key."""
    lines = data.decode().splitlines() or [""]
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(len(lines))
        line, piece = lines[place], rng.choice(YAML_PIECES)
        match rng.randrange(7):
            case 0:
                lines[place : place + 1] = []
            case 1:
                lines.insert(place, rng.choice(lines))
            case 2:
                lines[place] = " " * rng.randrange(6) + line.strip()
            case 3:
                lines[place] = f"{line.partition(':')[0]}: {piece}"
            case 4:
                lines[place] = f"{piece}:{line.partition(':')[2]}"
            case 5:
                lines.insert(place, piece)
            case _:
                words = line.split(" ")
                words[rng.randrange(len(words))] = piece
                lines[place] = " ".join(words)
        lines = lines or [""]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


YAML: tuple[Mutator, ...] = (flip_bits, truncate, delete, insert, splice, *[edit_yaml] * 5)


def edit_lines(rng: random.Random, data: bytes) -> bytes:
    """A text table one of whose cells, or lines, is other."""
    lines = data.decode().splitlines(keepends=True) or [""]
    place = rng.randrange(len(lines))
    separator = "\t" if "\t" in lines[place] else ","
    cells = lines[place].rstrip("\n").split(separator)
    match rng.randrange(4):
        case 0:
            lines.insert(place, rng.choice(lines))
        case 1:
            lines[place] = separator.join([*cells, "x"]) + "\n"
        case 2:
            lines[place] = separator.join(cells[1:]) + "\n"
        case _:
            cells[rng.randrange(len(cells))] = str(rng.choice(VALUES[:-7]))
            lines[place] = separator.join(cells) + "\n"
    return "".join(lines).encode("utf-8", "surrogatepass")


TABLE: tuple[Mutator, ...] = (*ANY, edit_lines, edit_lines, edit_lines)

NPY_HEADERS = [
    "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<i4', 'fortran_order': False, 'shape': (-1,), }",
    "{'descr': '<i4', 'fortran_order': False, 'shape': (99999999999999,), }",
    "{'descr': '<i4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }",
    "{'descr': '<i4', 'fortran_order': True, 'shape': (True,), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (9000, 84, 84), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (), }",
    "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': 'i' * 9, 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<i4', 'fortran_order': 0, 'shape': [3], }",
    f"__import__('os').system('touch {CANARY}')",
    "(" * 2000,
    "{[]: 1}",
    "{'descr': '<i4'",
    "\x80",
    "",
]


def edit_npy(rng: random.Random, data: bytes) -> bytes:
    """A gzip'd array whose header or content is other, compressed anew."""
    content = gzip.decompress(data)
    size = struct.unpack_from("<H", content, 8)[0]
    if rng.random() < 0.5:
        header = rng.choice(NPY_HEADERS).encode("latin1")
        version = rng.choice([b"\x01\x00"] * 5 + [b"\x02\x00", b"\x03\x00", b"\x09\x00"])
        length = struct.pack("<H" if version[0] == 1 else "<I", len(header))
        content = content[:6] + version + length + header + content[10 + size :]
    else:
        content = rng.choice(ANY)(rng, content)
    return gzip.compress(content, 1, mtime=0)


def edit_values(rng: random.Random, data: bytes) -> bytes:
    """A gzip'd array some of whose values are extreme."""
    with gzip.open(io.BytesIO(data)) as file:
        values = np.lib.format.read_array(file, allow_pickle=False)
    changed = np.atleast_1d(values).copy()
    flat = changed.reshape(-1)
    if rng.random() < 0.3:
        flat = flat.astype(rng.choice(["f4", "f8", "i8", "u1", "u8", ">i4", "f2", "c8"]))
    for _ in range(3):
        if flat.size:
            with np.errstate(all="ignore"):
                extreme = rng.choice([0, 1, 2, 17, 18, -1, 255, 2**31 - 1, 2**62, np.nan, np.inf, -np.inf])
                flat[rng.randrange(flat.size)] = np.float64(extreme).astype(flat.dtype)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, flat.reshape(values.shape), allow_pickle=False)
    return gzip.compress(buffer.getvalue(), 1, mtime=0)


NPY: tuple[Mutator, ...] = (flip_bits, truncate, delete, splice, edit_npy, edit_npy, edit_values, edit_values)


def bomb(rng: random.Random, data: bytes) -> bytes:
    """A gzip file that unpacks to a thousand times its size."""
    return gzip.compress(bytes(rng.choice((10**6, 5 * 10**7))), 9, mtime=0)


def edit_zip(rng: random.Random, data: bytes) -> bytes:
    """An archive one of whose files is other, with a manifest that fits; or of other names or a manifest."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    manifest = json.loads(files.pop("manifest.json"))
    name = rng.choice(list(files))
    compression = zipfile.ZIP_STORED
    match rng.randrange(7):
        case 0:
            manifest = change_value(rng, manifest)
        case 1:
            renamed = rng.choice(
                ["../x", "/x", "runs/../../x", "a\\b", "a\nb", "runs", "", "C:x", "./x", name + "x"]
            )
            files[renamed] = files.pop(name)
            manifest["files"][renamed] = manifest["files"].pop(name)
        case 2:
            compression = rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
        case _:
            small = [n for n in files if n.endswith(".json")]
            name = rng.choice(small) if small and rng.random() < 0.4 else name
            change: Mutator = edit_json if name.endswith(".json") and rng.random() < 0.8 else rng.choice(ANY)
            files[name] = change(rng, files[name])
            if rng.random() < 0.9:
                digest = hashlib.sha256(files[name]).hexdigest()
                manifest["files"][name] = {"bytes": len(files[name]), "sha256": digest}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as opened:
        opened.writestr("manifest.json", json.dumps(manifest))
        for entry, content in files.items():
            opened.writestr(zipfile.ZipInfo(entry), content, compression)
    return buffer.getvalue()


ZIP: tuple[Mutator, ...] = (*ANY, *[edit_zip] * 6)
