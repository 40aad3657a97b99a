"""Reads JSON without trusting it: of a size that memory holds, and not nested so deeply that the stack ends."""

import json
from pathlib import Path
from typing import Any

from lifting.command import InputError, existing_file

_LARGEST = 1 << 30  # bytes of one file
_DEEPEST = 64  # containers within each other; the deepest layout that is read has ten


def read_json(path: Path, what: str) -> Any:
    """The content of a file.

    Raises:
        InputError: the file is absent or empty, which says ``what`` it was to be; it is no JSON, larger than 1 GiB or
            nested more deeply than any layout.
    """
    size = existing_file(path, what).stat().st_size
    if size > _LARGEST:
        raise InputError(f"{path}: expected at most 1 GiB of JSON, got {size / _LARGEST:.1f} GiB")
    return parse_json(path.read_bytes(), str(path))


def parse_json(text: bytes, where: str) -> Any:
    """The content of a text; raises `InputError` as `read_json` does."""
    too_deep = f"{where}: expected at most {_DEEPEST} levels of JSON, it is nested too deeply"
    try:
        content = json.loads(text)
        if b"\\ud" in text or b"\\uD" in text:  # halves of letters, which nobody could print or write
            json.dumps(content, ensure_ascii=False).encode()
    except ValueError as error:  # broken JSON, broken UTF-8, numbers with thousands of digits
        raise InputError(f"{where} is not JSON, or only a part of it ({error})") from error
    except RecursionError:
        raise InputError(too_deep) from None
    if _is_deep(content):
        raise InputError(too_deep)
    return content


def _is_deep(content: Any) -> bool:
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True
