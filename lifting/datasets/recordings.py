"""Recordings that are in training and in test: a training run refuses them, an evaluation says so."""

import logging
from collections.abc import Sequence

from lifting.command import InputError

log = logging.getLogger(__name__)


def refuse_shared(shared: Sequence[object], path: str) -> None:
    """`InputError` if there are any: the test would measure how well the network knows its training set."""
    if shared:
        raise InputError(
            f"{path}: expected test recordings that are not trained on, got {len(shared):,} that are: {shared[0]}"
            f"{', ...' * (len(shared) > 1)}"
        )


def warn_of_shared(shared: Sequence[object], path: str) -> None:
    """A line in the log if there are any; names are compared, whatever file the training was on."""
    if shared:
        log.warning(
            f"{path}: {len(shared):,} of the test recordings have the names of training recordings, such as "
            f"{shared[0]}; if they are the same, these numbers are of the training set"
        )
