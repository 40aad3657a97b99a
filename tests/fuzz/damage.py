"""Damage to a file: to its bytes, to the bytes inside of a zip, to the words of a text, and to the values it holds.

Every kind of file is taken apart into a tree of dicts, lists, arrays and numbers (`KINDS`), changed at one or two
places, and written again. So a damaged file is often valid for the library that reads it and wrong for us alone.
"""

import copy
import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from scipy.io import loadmat, savemat

_WORDS = ("nan", "inf", "-1", "0", "1e308", "9" * 30, "x", "", "{", "}", "[" * 300, ":", "!!python/name:os.system ''",
          "&a [*a]", "None", "-", "1e999", "S1", "\0", "ä", "10 ** 9")  # fmt: skip
_JUNK: tuple[Any, ...] = (
    *(None, True, 0, -1, 0.5, 10**9, 1e308, float("nan"), float("inf"), 10**400),
    *("", "x", "x" * 2000, "\0/", "../..", {"a": [1]}, {}, [], [[]], [[1, 2], [3]], [None] * 3, [0.5] * 17),
)
_TYPES = ("f2", "f4", "f8", ">f4", "i1", "i8", "u1", "u8", "?", "c16", "S3", "U3")


class Kind(NamedTuple):
    """How a kind of file is taken apart and put together."""

    load: Callable[[bytes], Any]
    dump: Callable[[Any], bytes]


def damaged(content: bytes, ending: str, rng: random.Random) -> bytes:
    """The content of a file with this ending, damaged in one way that ``rng`` chooses."""
    way = rng.random()
    try:
        if ending in KINDS and way < 0.6:
            return KINDS[ending].dump(changed(KINDS[ending].load(content), rng))
        if ending in ZIPS and way < 0.8:
            return _member(content, rng)
    except Exception:
        pass  # the file cannot express what was put into it
    if ending in TEXTS and way < 0.75:
        return _text(content.decode("latin1"), rng).encode("latin1", "replace")
    return _bytes(content, rng)


# ---- bytes and texts


def _bytes(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        # Headers are where most of a format is, so half of the damage is there.
        end = len(data) if rng.random() < 0.5 else min(len(data), 600)
        at, size = rng.randrange(max(end, 1)), rng.choice((1, 2, 4, 8, 16, rng.randrange(1, 400)))
        match rng.randrange(8):
            case 0:
                del data[at:]
            case 1 | 2:
                for place in [at, *(rng.randrange(max(end, 1)) for _ in range(rng.randrange(8)))]:
                    if place < len(data):
                        data[place] ^= 1 << rng.randrange(8)
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = data[at : at + size]
            case 5:
                data[at : at + size] = rng.choice((b"\0", b"\xff", b"\x7f")) * len(data[at : at + size])
            case 6:
                data[at : at + 4] = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 10**6)).to_bytes(4, "little")
            case 7:
                data[at : at + size] = rng.randbytes(size)
    return bytes(data)


def _text(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(7):
            case 0:
                del lines[at : at + rng.randrange(1, 4)]
            case 1:
                lines.insert(at, lines[other])
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                lines[at] = lines[at].lstrip() if rng.random() < 0.5 else "   " + lines[at]
            case _:
                words = re.split(r"(\s+|[:,\[\]{}])", lines[at])
                words[rng.randrange(len(words))] = rng.choice((*_WORDS, rng.choice(words)))
                lines[at] = "".join(words)
        lines = lines or [""]
    return "\n".join(lines)


def _member(content: bytes, rng: random.Random) -> bytes:
    """A zip with one of its files damaged and its checksum right, or with its list of files changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    name = rng.choice(list(files))
    match rng.randrange(8):
        case 0:
            del files[name]
        case 1:
            files[rng.choice(_WORDS) + ".npy"] = files.pop(name)
        case 2:
            files[name] = files[rng.choice(list(files))]
        case _:
            files[name] = _bytes(files[name], rng)
    image = io.BytesIO()
    with zipfile.ZipFile(image, "w", zipfile.ZIP_DEFLATED if rng.random() < 0.3 else zipfile.ZIP_STORED) as archive:
        for member, data in files.items():
            archive.writestr(member, data)
    return image.getvalue()


# ---- trees


def changed(tree: Any, rng: random.Random) -> Any:
    """The tree with one to three of its nodes replaced, left out, doubled or exchanged."""
    root = {"": tree}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        node: Any = root
        key: Any = ""
        while isinstance(below := node[key], (dict, list)) and below and rng.random() < 0.85:
            node, key = below, rng.choice(list(below) if isinstance(below, dict) else range(len(below)))
        match rng.randrange(8):
            case 0 if node is not root:
                del node[key]
            case 1 if isinstance(node, dict) and node is not root:
                node[rng.choice((f"{key}2", "x", "../x", "a/b", "0", "S1"))] = copy.deepcopy(node[key])
            case 1 if isinstance(node, list):
                node.extend([copy.deepcopy(node[key])] * rng.choice((1, 3, 50)))
            case 2 if node is not root:
                other = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
                node[key], node[other] = node[other], node[key]
            case 3:
                node[key] = [node[key]] if rng.random() < 0.5 else {"x": node[key]}
            case 4 if isinstance(node[key], list):
                node[key] = node[key][: rng.randrange(len(node[key]) + 1)]
            case _:
                node[key] = _value(node[key], rng)
    return root[""]


def _value(value: Any, rng: random.Random) -> Any:
    if isinstance(value, torch.Tensor) and rng.random() < 0.8:
        return torch.from_numpy(np.array(_array(value.float().numpy(), rng)))
    if isinstance(value, np.ndarray) and value.dtype != object and rng.random() < 0.8:
        return _array(value, rng)
    if isinstance(value, (int, float)) and rng.random() < 0.5:
        return value * rng.choice((-1, 1000, 0, 1e30, 0.001)) + rng.choice((0, 1, 0.5))
    return copy.deepcopy(rng.choice(_JUNK))


def _array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    made = np.array(array)
    match rng.randrange(9):
        case 0:
            return made.reshape(-1)
        case 1:
            return made.T
        case 2:
            return made[..., : rng.randrange(made.shape[-1] + 1)] if made.ndim else made.reshape(1)
        case 3:
            return made[: rng.randrange(len(made) + 1)] if made.ndim else made.reshape(1, 1)
        case 4 | 5 if made.size and made.dtype.kind == "f":
            made.reshape(-1)[rng.randrange(made.size)] = rng.choice((np.nan, np.inf, -np.inf, 1e30, -1e5))
            return made
        case 6:
            return made[None] if rng.random() < 0.5 else made[..., None]
        case 7:
            return np.repeat(made, rng.choice((2, 17)), axis=0) if made.ndim else made
    with np.errstate(all="ignore"):
        return made.astype(rng.choice(_TYPES)) if rng.random() < 0.6 else made * made.dtype.type(rng.choice((-1, 0)))


# ---- kinds


def _load_npz(content: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(content), allow_pickle=True) as file:
        return {name: file[name].item() if file[name].dtype == object and not file[name].shape else file[name]
                for name in file.files}  # fmt: skip


def _dump_npz(tree: Any) -> bytes:
    image = io.BytesIO()
    np.savez(image, **tree)
    return image.getvalue()


def _load_h5(content: bytes) -> dict[str, Any]:
    def tree(group: h5py.Group) -> dict[str, Any]:
        made = {f"@{name}": value for name, value in group.attrs.items()}
        for name, item in group.items():
            made[name] = tree(item) if isinstance(item, h5py.Group) else item[()]
        return made

    with h5py.File(io.BytesIO(content)) as file:
        return tree(file)


def _dump_h5(tree: Any) -> bytes:
    def put(group: h5py.Group, tree: dict[str, Any]) -> None:
        for name, value in tree.items():
            if name.startswith("@"):
                group.attrs[name[1:]] = value
            elif isinstance(value, dict):
                put(group.create_group(name, track_order=True), value)
            elif value is None:
                group[name] = h5py.Empty("f4") if len(tree) % 2 else h5py.SoftLink("/nowhere")
            elif isinstance(value, int) and value == 10**9:
                group.create_dataset(name, (value, 17, 3), np.float32, chunks=(100, 17, 3))  # holds nothing
            else:
                group[name] = value

    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        put(file, tree)
    return image.getvalue()


def _dump_pt(tree: Any) -> bytes:
    image = io.BytesIO()
    torch.save(tree, image)
    return image.getvalue()


def _dump_mat(tree: Any) -> bytes:
    image = io.BytesIO()
    savemat(image, tree, do_compression=len(tree) % 2 == 0)
    return image.getvalue()


def _dump_npy(tree: Any) -> bytes:
    image = io.BytesIO()
    np.save(image, tree)
    return image.getvalue()


_PT = Kind(lambda content: torch.load(io.BytesIO(content), weights_only=True), _dump_pt)
KINDS = {
    ".json": Kind(json.loads, lambda tree: json.dumps(tree).encode()),
    ".npz": Kind(_load_npz, _dump_npz),
    ".npy": Kind(lambda content: np.load(io.BytesIO(content)), _dump_npy),
    ".h5": Kind(_load_h5, _dump_h5),
    ".pt": _PT,
    ".pth": _PT,
    ".mat": Kind(lambda content: loadmat(io.BytesIO(content)), _dump_mat),
}
ZIPS = (".npz", ".pt", ".pth", ".zip")
TEXTS = (".json", ".yaml", ".asf", ".amc", ".bvh")


def files_of(source: Path) -> list[Path]:
    """The files that a reader reads from a source; its pictures are only there."""
    found = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    return [path for path in found if len(found) == 1 or path.suffix not in (".jpg", ".png", ".h5h5")]
