"""The single-stage track: train, load, evaluate and draw a network; convert weights; count costs."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lifting.checkpoint import built, expect_joints, is_checkpoint, load_checkpoint, save_checkpoint
from lifting.chosen_pictures import (
    flat_test_set,
    index_of,
    load_index,
    refuse_trained_on,
    test_set,
    trained_on,
    training_sets,
    with_joints,
)
from lifting.command import InputError, write_json
from lifting.config import SingleStageConfig, read_config, read_trained
from lifting.datasets.coco_truth import read_truth
from lifting.datasets.image_batches import ImageBatches
from lifting.datasets.image_set import ImageSet, select
from lifting.datasets.recordings import warn_of_shared
from lifting.geometry.skeleton import COCO17, H36M18, JOINT_SETS, MPII16, JointSet
from lifting.likelihood import Likelihood, Mixed, build_likelihood
from lifting.likelihood.flow import RealNVP
from lifting.models import build_image_model
from lifting.models.cost import image_model_cost
from lifting.models.pretrained import read_weights
from lifting.models.published_weights import from_published, is_published_2d
from lifting.models.reference_weights import load_reference, save_reference
from lifting.models.regressor import Regressor
from lifting.prediction import Prediction
from lifting.reports.image_evaluation import deep_report, draw, flat_report, mean_pose_error, predict
from lifting.reports.keypoint_evaluation import draw_keypoints, keypoint_report, truth_of
from lifting.shipped import configs
from lifting.training import ranks
from lifting.training.engine import fit
from lifting.training.objective import ImageObjective

log = logging.getLogger(__name__)

CONFIGS = configs("single_stage")
# By D, what draws some test pictures with what is predicted in them, and in space by a 3D network.
DRAWINGS = {3: draw, 2: draw_keypoints}


def build_objective(config: SingleStageConfig, joint_set: JointSet = H36M18, *, start: bool = False) -> ImageObjective:
    """A new network and its likelihood, as configured; with ``start``, the backbone starts from ``model.weights``.

    Raises:
        InputError: a 3D network of other joints than Human3.6M's 18; a model and a loss that do not belong together.
    """
    loss, dims, by_heatmaps = config.loss, config.model.dims, config.loss.name == "heatmap"
    if dims == 3 and joint_set != H36M18:
        raise InputError(f"data.path: expected the joints {H36M18.name} for a 3D network, got {joint_set.name}")
    if by_heatmaps != (config.model.name == "simplepose"):
        raise InputError(
            f"config: expected loss.name heatmap with model.name simplepose, and with no other model, got "
            f"{loss.name} with {config.model.name}"
        )
    if dims == 3 and not isinstance(config.data.size, int):
        raise InputError(f"config: data.size: expected one side for a 3D network, got {list(config.data.size)}")
    likelihood: Mixed | Likelihood | None = None
    with_sigma = False
    if not by_heatmaps:
        first = build_likelihood(loss, dims)
        with_sigma = first.has_sigma
        likelihood = first if dims == 2 else Mixed(first, build_likelihood(loss, 2))
    network = build_image_model(
        config.model if start else config.model.model_copy(update={"weights": None}),
        joints=len(joint_set),
        with_sigma=with_sigma,
        heatmaps=loss.heatmap > 0,
    )
    if config.train.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    heatmap = (loss.heatmap or 1.0) if by_heatmaps else loss.heatmap
    return ImageObjective(network, likelihood, heatmap, joint_set)


def train(config: SingleStageConfig, folder: Path) -> dict[str, Any] | None:
    """Trains in ``folder`` or resumes the run there, evaluates, and draws some test pictures; every rank calls it.

    Returns:
        The report, which is also written to ``report.json``; None on all ranks but the first.

    Raises:
        InputError: the data or the configuration cannot be used; a recording is in both training and test; the run in
            ``folder`` is of another model or joint set.
    """
    device = ranks.start(config.train.device)
    try:
        torch.manual_seed(config.seed)
        with ranks.first_rank_first():
            deep, flat = training_sets(config)
            test, flat_test = test_set(config), flat_test_set(config)
        refuse_trained_on(config, test, flat_test)
        truth = truth_for(config, test)  # before hours of training
        objective = build_objective(config, deep.joint_set, start=not (folder / "last.pt").exists()).to(device)
        batches = ImageBatches(deep, flat, config, device, rank=ranks.rank(), world=ranks.world())
        if ranks.rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            depth = ["3D labels", "only 2D labels"]
            others = "" if flat is None else f", {len(flat):,} others with only 2D labels"
            log.info(f"{len(deep):,} training pictures with {depth[config.model.dims == 2]}{others}")
            log.info(f"{len(test):,} test pictures")
            weights = sum(p.numel() for p in objective.parameters())
            log.info(f"{weights:,} parameters on {device}; writing to {folder}")

        def after_epoch() -> dict[str, Any]:
            if batches.skipped:
                some = ", ".join(sorted(batches.skipped)[:3])
                log.warning(f"{len(batches.skipped):,} pictures could not be read and were skipped: {some}, ...")
            return evaluate(objective, test, config, truth)[0]

        fit(objective, batches, after_epoch, config, folder)
        report, prediction, matrix = evaluate_all(objective, test, flat_test, config)
        if ranks.rank() == 0:
            write_json(folder / "report.json", report)
            DRAWINGS[objective.dims](folder / "poses.png", objective, test, prediction, matrix, config)
            return report
        return None
    finally:
        ranks.stop()


def load(checkpoint: Path, overrides: list[str] | None = None) -> tuple[ImageObjective, SingleStageConfig]:
    """Loads a trained network onto its device; returns it with its configuration, changed by ``overrides``.

    Raises:
        InputError: there is no checkpoint, or it is of the other track or of other joints; `read_trained` refuses the
            overrides; the weights do not fit.
    """
    content = load_checkpoint(checkpoint)
    config = read_trained(SingleStageConfig, content["config"], overrides, f"checkpoint: {checkpoint}")
    joint_set = JOINT_SETS[content["joint_set"]]
    if config.model.dims == 3:
        expect_joints(content, H36M18, f"checkpoint: {checkpoint}")
    device = ranks.start(config.train.device)
    objective = built(lambda: build_objective(config, joint_set), content, f"checkpoint: {checkpoint}")
    return objective.to(device).eval(), config


def truth_for(config: SingleStageConfig, images: ImageSet) -> dict[str, Any] | None:
    """The annotations for `keypoint_report`; None for other pictures than COCO's. Raises as `truth_of` does.

    Pictures that ``data.test_stride`` and ``data.on_broken`` leave out are left out of them too. A picture on which no
    box is counts in any case: its people are missed.
    """
    if images.joint_set != COCO17:
        return None
    everybody = load_index(config.data.path)
    assert images.picture is not None and everybody.picture is not None
    there = everybody.picture[np.isin(everybody.part, config.data.test_parts)]
    untested = set(there.tolist()) - set(images.picture.tolist())
    return truth_of(images, read_truth(index_of(config.data.path)), untested)


def evaluate(
    objective: ImageObjective, images: ImageSet, config: SingleStageConfig, truth: dict[str, Any] | None = None
) -> tuple[dict[str, Any], Prediction, Tensor]:
    """The report of these pictures, and the predictions and crop matrices that `predict` returns.

    The report is `deep_report` in 3D, `keypoint_report` in 2D.

    Args:
        truth: of `truth_for`; without it there is no AP.

    Raises:
        InputError: the pictures do not have the joints of the network.
    """
    images = with_joints(images, objective.joint_set, f"data.path: {config.data.path}")
    prediction, matrix = predict(objective, images, config)
    if objective.dims == 3:
        return deep_report(objective, images, prediction, matrix, config), prediction, matrix
    return keypoint_report(objective, images, prediction, matrix, config, truth), prediction, matrix


def evaluate_all(
    objective: ImageObjective, images: ImageSet, flat: ImageSet | None, config: SingleStageConfig
) -> tuple[dict[str, Any], Prediction, Tensor]:
    """`evaluate`, plus ``mean_pose_mpjpe_mm`` in 3D if the set has the training poses, and PCKh under ``flat``.

    OKS and AP are of COCO's joints: a network of other joints has none.
    """
    if flat is not None:
        flat = with_joints(flat, objective.joint_set, f"data.flat_path: {config.data.flat_path}")
    if ranks.rank() == 0:
        for shared, path in trained_on(config, images, flat):
            warn_of_shared(shared, path)
    truth = truth_for(config, images) if objective.joint_set == COCO17 else None
    report, prediction, matrix = evaluate(objective, images, config, truth)
    if objective.dims == 3:
        known = load_index(config.data.path)
        training = select(known, np.isin(known.part, config.data.train_parts))
        if len(training):
            report["mean_pose_mpjpe_mm"] = mean_pose_error(training, images)
    if flat is not None:
        report["flat"] = flat_report(objective, flat, config)
    return report, prediction, matrix


def convert(source: Path, output: Path) -> str:
    """Converts the authors' released weights to a checkpoint, or a checkpoint to their layout; returns what it did.

    Raises:
        InputError: the source is neither, or is a network that the other layout cannot hold.
    """
    if is_checkpoint(source):
        objective, trained = load(source, ["train.device=cpu"])
        if not isinstance(objective.network, Regressor):
            raise InputError(f"convert: {source}: expected model.name regressor, got {trained.model.name}")
        if not isinstance(objective.likelihood, Mixed):
            raise InputError(f"convert: {source}: expected a 3D network, got one with model.dims 2")
        save_reference(output, objective.network, objective.likelihood)
        return f"converted {source} to the layout of the authors' code: {output}"
    state = read_weights(source)
    if is_published_2d(state):
        return _convert_2d(state, source, output)
    network, likelihood = load_reference(source)
    backbone, flow = network.backbone, likelihood.with_depth.flow
    assert isinstance(flow, RealNVP)
    if network.joints != len(H36M18):
        raise InputError(f"convert: {source}: expected weights of {len(H36M18)} joints, got {network.joints}")
    model = {"backbone": backbone.name, "width": backbone.width, "sigma": "coordinate", "input": "reference"}
    loss = {"name": "rle_reference", "flow": flow.sizes}
    data = {"drop_wrong_s9": True}  # as in every evaluation by the authors' code
    config = read_config(SingleStageConfig, base={"data": data, "model": model, "loss": loss})
    content = {"network": network.state_dict(), "likelihood": likelihood.state_dict()}
    save_checkpoint(output, {"config": config.model_dump(mode="json"), "joint_set": H36M18.name, **content})
    return f"converted {source} ({backbone.name}) to a checkpoint: {output}"


def _convert_2d(state: dict[str, Tensor], source: Path, output: Path) -> str:
    """The joints of these weights are COCO's if there are 17, and MPII's if there are 16."""
    network, likelihood, found = from_published(state, f"weights: {source}")
    backbone, flow, joint_sets = network.backbone, likelihood.flow, {len(known): known for known in (COCO17, MPII16)}
    assert isinstance(flow, RealNVP)
    if network.joints not in joint_sets:
        raise InputError(f"convert: {source}: expected weights of 16 or 17 joints, got {network.joints}")
    sizes = {"backbone": backbone.name, "width": backbone.width}
    model = {"dims": 2, "sigma": "coordinate", "input": network.input, **sizes}
    loss = {"name": "rle_reference" if likelihood.form == "authors" else "rle_mmpose", "flow": flow.sizes}
    joint_set = joint_sets[network.joints]
    data = {"train_parts": ["train"], "test_parts": ["valid"], "size": [192, 256] if joint_set == COCO17 else 256}
    config = read_config(SingleStageConfig, base={"data": data, "model": model, "loss": loss})
    content = {"network": network.state_dict(), "likelihood": likelihood.state_dict()}
    save_checkpoint(output, {"config": config.model_dump(mode="json"), "joint_set": joint_set.name, **content})
    return f"converted {source} to a checkpoint: {output}\n{found}"


# The rows of `cost_table`, with the counts of the RLE paper (3D: Tab. 8 and 9, 2D: Tab. 5).
COSTS = {
    "resnet50_l1": "",
    "resnet50_rle_paper": "23.8M, 5.4G",
    "integral": "34.3M, 14.1G",
    "coco_resnet50_rle_paper": "23.6M, 4.0G",
    "coco_simplepose": "34.0M, 9.7G",
    "coco_hrnet_w32_rle": "",
}


def cost_table(size: int) -> list[dict[str, Any]]:
    """Parameters and multiply-adds of the paper's networks, beside its counts.

    Args:
        size: side of the crops of 3D networks; those of 2D networks have the size of their configurations.
    """
    rows = []
    for leaf, published in COSTS.items():
        config = read_config(SingleStageConfig, CONFIGS / f"{leaf}.yaml")
        objective = build_objective(config, H36M18 if config.model.dims == 3 else COCO17)
        flows = sum(p.numel() for p in objective.likelihood.parameters())
        cost = image_model_cost(objective.network, size if config.model.dims == 3 else config.data.size)
        rows.append({"config": leaf, **cost, "flow_parameters": flows, "paper": published})
    return rows


def format_cost(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'':<26}{'parameters':>12}{'of flows':>10}{'multiply-adds':>15}{'as published':>14}  RLE paper"]
    for row in rows:
        cells = f"{row['parameters'] / 1e6:>11.2f}M{row['flow_parameters'] / 1e6:>9.2f}M"
        cells += f"{row['multiply_adds'] / 1e9:>14.2f}G{row['multiply_adds_as_published'] / 1e9:>13.2f}G"
        lines.append(f"{row['config']:<26}{cells}  {row['paper']}")
    return "\n".join(lines)
