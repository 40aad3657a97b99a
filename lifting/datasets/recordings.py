"""Recordings that are in both training and test: a training run refuses them, an evaluation warns of them."""

import logging
from collections.abc import Sequence

from lifting.command import InputError

log = logging.getLogger(__name__)


def refuse_shared(shared: Sequence[object], path: str) -> None:
    """Raises `InputError` if there are any: a test on them measures how well the network fits its training set."""
    if shared:
        raise InputError(
            f"{path}: expected test recordings that are not trained on, got {len(shared):,} that are: {shared[0]}"
            f"{', ...' * (len(shared) > 1)}"
        )


def warn_of_shared(shared: Sequence[object], path: str) -> None:
    """Logs a warning if there are any. Only names were compared, and the training may have read another file."""
    if shared:
        log.warning(
            f"{path}: {len(shared):,} of the test recordings have the same names as training recordings, such as "
            f"{shared[0]}; if they are the same recordings, these numbers are those of the training set"
        )
