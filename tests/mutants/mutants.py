"""Small faults put into the core, one at a time: which there are, by cosmic-ray."""

import ast
import random
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).parents[2]
# Likelihood, geometry with the crops, metrics, the smoother and the posterior of the root, the steps of a training.
CORE = ["likelihood", "geometry", "metrics", "inference/rts.py", "inference/smoothing.py", "inference/root.py",
        "datasets/augment.py", "training/engine.py", "training/steps.py", "training/recorded.py",
        "training/objective.py", "training/norms.py", "training/health.py", "training/evaluation.py"]  # fmt: skip
LEFT_OUT = ["__init__.py", "flow_kernels.py"]  # the kernels run on a GPU, or interpreted in a process of their own
_EASY = re.compile(r"_(Mod|FloorDiv|Pow|LShift|RShift|BitOr|BitAnd|BitXor|Invert|Not|UAdd)$")

At = tuple[int, int]  # line and column
Place = tuple[At, str, str, int]  # where, family of operators, operator, occurrence


class Mutant(NamedTuple):
    """A module with one fault; ``line`` is the first that differs."""

    path: str
    line: int
    before: str
    after: str
    source: str


def modules() -> list[str]:
    """The files of the core, relative to the repository's root."""
    found = []
    for name in CORE:
        path = ROOT / "lifting" / name
        found += sorted(path.glob("*.py")) if path.is_dir() else [path]
    return [str(path.relative_to(ROOT)) for path in found if path.name not in LEFT_OUT]


def mutants(path: str, seed: int = 0) -> Iterator[Mutant]:
    """The mutants of a module, in a random order.

    One of an operator's replacements, drawn at random, stands for all of them. Those that make a TypeError of nearly
    everything, as shifts and `not` do, are left out, and so are annotations, with which nothing computes.
    """
    rng = random.Random(f"{path} {seed}")
    source = (ROOT / path).read_text()
    annotated = _annotations(source)
    places = sorted(place for place in _places(source) if not any(a <= place[0] < b for a, b in annotated))
    groups = [list(group) for _, group in groupby(places, key=lambda place: place[:2])]
    seen = {source}
    for group in rng.sample(groups, len(groups)):
        _, _, operator, occurrence = rng.choice(group)
        changed = mutate_code(source, plugins.get_operator(operator)(), occurrence)
        if changed is not None and changed not in seen:
            seen.add(changed)
            mutant = _mutant(path, source, changed)
            checks = mutant.before.replace("strict=True", "strict=False").replace("frozen=True", "frozen=False")
            if mutant.after != checks:  # they only guard what holds
                yield mutant


def _places(source: str) -> Iterator[Place]:
    nodes = list(ast_nodes(get_ast(source)))
    for name in plugins.operator_names():
        kind = plugins.get_operator(name)
        if not kind.arguments() and not _EASY.search(name):
            positions = (start for node in nodes for start, _ in kind().mutation_positions(node))
            for occurrence, start in enumerate(positions):
                yield tuple(start), name.partition("Operator_")[0], name, occurrence


def _annotations(source: str) -> list[tuple[At, At]]:
    """Where each annotation begins and ends."""
    kinds = [getattr(node, name, None) for node in ast.walk(ast.parse(source)) for name in ("annotation", "returns")]
    return [
        ((kind.lineno, kind.col_offset), (kind.end_lineno or 0, kind.end_col_offset or 0))
        for kind in kinds
        if isinstance(kind, ast.expr)
    ]


def _mutant(path: str, source: str, changed: str) -> Mutant:
    one, two = source.splitlines(), changed.splitlines()
    line = next(number for number, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1])
    return Mutant(path, line + 1, one[line].strip(), two[line].strip(), changed)
