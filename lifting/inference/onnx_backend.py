"""Lifters as ONNX files, run by ONNX Runtime, and what every lifter says about itself. Nothing here needs torch."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from lifting.command import InputError, existing_file, needing
from lifting.geometry.skeleton import H36M17

if TYPE_CHECKING:
    import onnxruntime

Arrays = NDArray[Any]

FORMAT = "lifting-lifter"  # the kind of network that an ONNX file holds, in its metadata
VERSION = "1"
INPUTS = {"keypoints": (len(H36M17), 2), "confidence": (len(H36M17),), "image_size": (2,)}
OUTPUTS = ("joints", "sigma", "deviation")

# What marks a tensor as stored in another file: an entry with the key "location", in protobuf's encoding.
_ELSEWHERE = re.compile(rb"[\x00\x08]location")


@dataclass(frozen=True)
class About:
    """What a lifter says about itself.

    Attributes:
        names: the joints.
        axes: "ray" or "camera", see `lifting.lifted.Lifted`.
        takes_missing: whether joints may be missing.
        licence: of the weights.
        checkpoint: file name and the first 12 digits of the SHA-256 of the weights.
    """

    names: tuple[str, ...]
    axes: str
    takes_missing: bool
    licence: str
    checkpoint: str


class OnnxBackend:
    """Runs an ONNX file of `export.export_lifter` on the CPU; safe to call from threads.

    Args:
        path: the file.
        threads: threads of one call; None for one per core.

    Raises:
        InputError: ONNX Runtime is not installed; there is no file, it is not ONNX, its weights are in other files, or
            it was not written by this package's ``export``.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        content = existing_file(path, "checkpoint").read_bytes()
        if _ELSEWHERE.search(content):
            raise InputError(f"checkpoint: {path}: expected one file with its weights inside, got weights elsewhere")
        self._session = _session(content, path, threads)
        self.about = _about(self._session, path, hashlib.sha256(content).hexdigest()[:12])

    def __call__(self, keypoints: Arrays, confidence: Arrays, image_size: Arrays) -> tuple[Arrays, Arrays, Arrays]:
        """`pixel_lifter.PixelLifter.forward` on float32 arrays."""
        feed = {"keypoints": keypoints, "confidence": confidence, "image_size": image_size}
        joints, sigma, deviation = self._session.run(OUTPUTS, feed)
        return joints, sigma, deviation


def _session(content: bytes, path: Path, threads: int | None) -> "onnxruntime.InferenceSession":
    with needing(f"checkpoint: {path}"):
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.enable_mem_pattern = False  # a plan of memory for each new shape: no faster, and they add up
    options.log_severity_level = 4  # its errors are raised; it need not write them on stderr too
    # Between two calls, idle threads would otherwise keep their cores busy, which a detector beside this one needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a class for each of its status codes, all of them plain Exceptions
        reason = str(error).splitlines()[0]
        raise InputError(f"checkpoint: {path}: expected an ONNX file, got one that cannot be run: {reason}") from None


def _about(session: "onnxruntime.InferenceSession", path: Path, digest: str) -> About:
    """Reads the metadata, and checks inputs and outputs.

    Raises:
        InputError: they are not those of an exported lifter.
    """
    metadata = session.get_modelmeta().custom_metadata_map
    kind = metadata.get("format", "none")
    if kind != FORMAT:
        raise InputError(
            f"checkpoint: {path}: expected a file of run_lifting.py export, got an ONNX file of format {kind}"
        )
    if metadata.get("format_version") != VERSION:
        found = metadata.get("format_version", "none")
        raise InputError(f"checkpoint: {path}: expected version {VERSION} of {FORMAT}, got {found}")
    inputs = {one.name: tuple(one.shape[1:]) for one in session.get_inputs()}
    outputs = [one.name for one in session.get_outputs()]
    if inputs != INPUTS or set(outputs) != set(OUTPUTS):
        raise InputError(f"checkpoint: {path}: expected inputs {INPUTS} and outputs {OUTPUTS}, got {inputs}, {outputs}")
    try:
        names = tuple(json.loads(metadata["joint_names"]))
        axes, takes_missing = metadata["axes"], json.loads(metadata["takes_missing"])
        if names != H36M17.joints or axes not in ("ray", "camera") or not isinstance(takes_missing, bool):
            raise ValueError
        return About(names, axes, takes_missing, metadata["licence"], f"{path.name} {digest}")
    except (KeyError, ValueError, TypeError):
        raise InputError(
            f"checkpoint: {path}: expected joint_names, axes, takes_missing and licence in its metadata, got {metadata}"
        ) from None
