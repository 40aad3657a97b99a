"""The density of a lifter's errors, fitted anew to people whom the network was not trained on.

On the people it was trained on, a network's errors are smaller than on others, and differently distributed; dropout
changes them again. So this trains one more network for each training person, with that person left out, and fits a
`PoseDensity` to the errors of these networks on the people left out. The lifter itself stays as it is: mu and sigma do
not change, only the density around them.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lifting import lifter
from lifting.checkpoint import load_checkpoint, save_checkpoint
from lifting.command import InputError
from lifting.config import Config, expect_run_of
from lifting.likelihood import BasicFlow, Likelihood
from lifting.likelihood.pose_density import PoseDensity, viewing_turn
from lifting.likelihood.unit_densities import fixed_draws
from lifting.prediction import Prediction
from lifting.training.evaluation import predict

log = logging.getLogger(__name__)

FEWEST = 48  # poses of a person: as many as a pose has coordinates


def crossfit(checkpoint: Path, folder: Path) -> Path:
    """Trains the networks in ``folder``, fits the density, and returns the checkpoint that has it: last.pt there.

    What an earlier call has trained in ``folder`` is kept; a run that was stopped goes on.

    Args:
        checkpoint: a trained lifter with a sigma.
        folder: one run for each training person, and the new checkpoint.

    Raises:
        InputError: the lifter has no sigma, needs its flow to predict, was trained on one person, or has such a density
            already; ``folder`` holds a training run, or some of another configuration; there are too few poses of a
            person.
    """
    content = load_checkpoint(checkpoint)
    objective, config = lifter.load(checkpoint)
    if "density" in content:
        raise InputError(f"crossfit: {checkpoint}: expected a lifter as it was trained, got one with a density already")
    people = config.data.train_subjects
    if isinstance(objective.likelihood, BasicFlow):
        raise InputError(f"crossfit: {checkpoint}: expected a loss whose flow is for training only, got loss.name flow")
    if not objective.likelihood.has_sigma:
        raise InputError(f"crossfit: {checkpoint}: expected a lifter with a sigma, got loss.name {config.loss.name}")
    if len(people) < 2:
        raise InputError(f"crossfit: {checkpoint}: expected two or more people in training, got {', '.join(people)}")
    if (folder / "config.yaml").exists():
        raise InputError(f"crossfit: {folder} holds a training run, whose last.pt would be lost; name another --output")
    runs = [folder / f"without_{person}" for person in people]
    trainings = [_without(config, person) for person in people]
    for training, run in zip(trainings, runs, strict=True):
        expect_run_of(training, run, "crossfit")
    for person, training, run in zip(people, trainings, runs, strict=True):
        log.info(f"training without {person}")
        lifter.train(training, run)
    density = fitted([run / "last.pt" for run in runs])
    density.scale *= _usual_length(objective.likelihood)
    save_checkpoint(folder / "last.pt", {**content, "density": density.state_dict()})
    return folder / "last.pt"


def fitted(checkpoints: Sequence[Path]) -> PoseDensity:
    """The density of the errors of each lifter on its own test people; every person counts the same.

    Sigma is measured in `_usual_length`, because in its own units it says nothing: a network may predict half the sigma
    if its flow learns a density of twice the width. To use the density with a network, multiply its scale by that
    network's.
    """
    parts: list[tuple[Prediction, Tensor, Tensor]] = []
    focal = None
    for checkpoint in checkpoints:
        objective, config = lifter.load(checkpoint)
        poses = lifter.load_test(config, objective)
        if len(poses) < FEWEST:
            raise InputError(f"crossfit: {checkpoint}: expected {FEWEST} or more poses to fit to, got {len(poses)}")
        prediction = predict(objective, poses, flip_test=config.train.flip)
        if not poses.has_mask:
            views, camera = poses.scene.views, poses.scene.camera
            focal = (2 * views.focal[:, 0] / views.size[:, 0])[camera].mean() if focal is None else focal
            prediction = Prediction(prediction.mu, prediction.log_sigma, viewing_turn(poses.keypoints, focal))
        free, target = objective.free(prediction, poses.target)
        assert free.log_sigma is not None
        free = replace(free, log_sigma=free.log_sigma + _usual_length(objective.likelihood).log())
        parts.append((free, target, torch.full((len(target),), len(parts), device=target.device)))
    predictions, targets, person = zip(*parts, strict=True)
    return PoseDensity.fit(Prediction.cat(predictions), torch.cat(targets), torch.cat(person), focal).cpu()


def _usual_length(likelihood: Likelihood) -> Tensor:
    """The median length of a deviation for sigma = 1, ()."""
    like = next(likelihood.parameters(), torch.zeros(()))
    with fixed_draws(like.device):
        length: Tensor = likelihood.draw_unit((2**15,), like).norm(dim=-1).median()
    return length.cpu()


def _without(config: Config, person: str) -> Config:
    """The configuration with this person left out of training, as the only one of the test."""
    others = tuple(other for other in config.data.train_subjects if other != person)
    return lifter.tested_on_training_file(config, (person,), train_subjects=others)
