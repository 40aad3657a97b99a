"""The single-stage track: train, load, evaluate and draw a network; convert weights; count costs."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lifting.checkpoint import built, expect_joints, is_checkpoint, load_checkpoint, save_checkpoint
from lifting.command import InputError, write_json
from lifting.config import SingleStageConfig, read_config, read_trained
from lifting.datasets.decode import decode
from lifting.datasets.image_batches import ImageBatches
from lifting.datasets.image_index import read_encoded, read_index, write_index
from lifting.datasets.image_set import ImageSet, recordings_of, select
from lifting.datasets.recordings import refuse_shared, warn_of_shared
from lifting.datasets.store import checksum_of
from lifting.geometry.skeleton import H36M18
from lifting.likelihood import Mixed, build_likelihood
from lifting.likelihood.flow import RealNVP
from lifting.models import build_image_model
from lifting.models.cost import image_model_cost
from lifting.models.reference_weights import load_reference, save_reference
from lifting.models.regressor import Regressor
from lifting.prediction import Prediction
from lifting.reports.image_evaluation import deep_report, draw, flat_report, mean_pose_error, predict
from lifting.shipped import configs
from lifting.sources.image_readers import read_h36m_images, read_mpii, wrong_s9
from lifting.training import ranks
from lifting.training.engine import fit
from lifting.training.objective import ImageObjective

log = logging.getLogger(__name__)

CONFIGS = configs("single_stage")


def build_objective(config: SingleStageConfig, *, start: bool = False) -> ImageObjective:
    """A new network and its likelihoods, as configured; with ``start``, the backbone starts from ``model.weights``."""
    likelihood = Mixed(build_likelihood(config.loss, 3), build_likelihood(config.loss, 2))
    network = build_image_model(
        config.model if start else config.model.model_copy(update={"weights": None}),
        joints=len(H36M18),
        with_sigma=likelihood.with_depth.has_sigma,
        heatmaps=config.loss.heatmap > 0,
    )
    if config.train.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ImageObjective(network, likelihood, config.loss.heatmap)


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
        for shared, path in trained_on(config, test, flat_test):
            refuse_shared(shared, path)
        objective = build_objective(config, start=not (folder / "last.pt").exists()).to(device)
        batches = ImageBatches(deep, flat, config, device, rank=ranks.rank(), world=ranks.world())
        if ranks.rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            log.info(
                f"{len(deep):,} training pictures with 3D labels, {len(flat) if flat else 0:,} with only 2D labels"
            )
            log.info(f"{len(test):,} test pictures")
            weights = sum(p.numel() for p in objective.parameters())
            log.info(f"{weights:,} parameters on {device}; writing to {folder}")

        def after_epoch() -> dict[str, Any]:
            if batches.skipped:
                some = ", ".join(sorted(batches.skipped)[:3])
                log.warning(f"{len(batches.skipped):,} pictures could not be read and were skipped: {some}, ...")
            return evaluate(objective, test, config)[0]

        fit(objective, batches, after_epoch, config, folder)
        report, prediction, matrix = evaluate_all(objective, test, flat_test, config)
        if ranks.rank() == 0:
            write_json(folder / "report.json", report)
            draw(folder / "poses.png", objective, test, prediction, matrix, config)
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
    expect_joints(content, H36M18, f"checkpoint: {checkpoint}")
    device = ranks.start(config.train.device)
    objective = built(lambda: build_objective(config), content, f"checkpoint: {checkpoint}")
    return objective.to(device).eval(), config


def training_sets(config: SingleStageConfig) -> tuple[ImageSet, ImageSet | None]:
    """The configured training pictures with 3D labels, and those with only 2D labels."""
    data = config.data
    deep = deep_pictures(config, data.train_parts, data.stride)
    if data.flat_path is None:
        return deep, None
    if data.flat_path == "rendered" != data.path:
        raise InputError(f"data.flat_path: expected an index of MPII or null for {data.path}, got the rendered set")
    return deep, chosen(load_index(data.flat_path, flat=True), data.flat_train_parts, data.flat_path)


def test_set(config: SingleStageConfig) -> ImageSet:
    """The configured test pictures with 3D labels.

    Raises:
        InputError: a picture cannot be read. If ``data.on_broken`` is skip, it is left out with a warning instead.
    """
    images = deep_pictures(config, config.data.test_parts, config.data.test_stride)
    return readable(images, skip=config.data.on_broken == "skip")


def deep_pictures(config: SingleStageConfig, parts: tuple[str, ...], stride: int) -> ImageSet:
    """Every ``stride``-th picture from these parts of the set with 3D labels.

    Raises:
        InputError: the set does not have one of the parts, or has no 3D labels.
    """
    path = config.data.path
    images = chosen(load_index(path), parts, path)
    if images.points is None:
        raise InputError(f"data.path: {path}: expected pictures with 3D labels, got only 2D labels")
    if config.data.drop_wrong_s9:
        images = select(images, ~wrong_s9(images))
    return select(images, np.arange(0, len(images), stride))


def flat_test_set(config: SingleStageConfig) -> ImageSet | None:
    """The configured test pictures with 2D labels and a known head size, or None if there are none."""
    data = config.data
    if data.flat_path is None:
        return None
    images = load_index(data.flat_path, flat=True)
    images = select(images, np.isin(images.part, data.flat_test_parts) & np.isfinite(images.head_size))
    if not len(images):
        log.info(f"no PCKh: no picture of {', '.join(data.flat_test_parts)} in {data.flat_path} has a known head size")
        return None
    return readable(images, skip=data.on_broken == "skip")


def readable(images: ImageSet, *, skip: bool) -> ImageSet:
    """The pictures that can be read.

    Every epoch ends with an evaluation of the test pictures, so they are checked before hours of training, not after.

    Raises:
        InputError: a picture cannot be read; with ``skip``, only if none can.
    """

    def problem(row: int) -> str:
        name = str(images.files[row])
        try:
            decode(read_encoded(images, row), name, shrink=8)
        except InputError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor() as pool:
        problems = list(pool.map(problem, range(len(images))))
    good = np.array([not text for text in problems], dtype=np.bool_)
    if good.all():
        return images
    first = next(filter(None, problems))
    if not skip or not good.any():
        raise InputError(first)
    log.warning(f"{(~good).sum():,} of {len(images):,} test pictures cannot be read and are left out: {first}, ...")
    return select(images, good)


def trained_on(config: SingleStageConfig, test: ImageSet, flat: ImageSet | None) -> list[tuple[list[str], str]]:
    """For each test set, its recordings whose names are also among the training recordings, and its path."""
    data = config.data
    sets = [(test, data.train_parts, data.path)]
    if flat is not None and data.flat_path is not None:
        sets.append((flat, data.flat_train_parts, data.flat_path))
    return [(recordings_of(images, parts), path) for images, parts, path in sets]


def load_index(path: str, *, flat: bool = False) -> ImageSet:
    """Reads an index file, or that of the embedded rendered set, which is made on first use."""
    if path != "rendered":
        return read_index(Path(path))
    from lifting.synthetic.pictures import rendered_folder  # with the parts of scipy that make motion

    folder = rendered_folder()
    index = folder / ("mpii.h5" if flat else "h36m.h5")
    if not index.exists():
        read = read_mpii(folder / "mpii") if flat else read_h36m_images(folder / "h36m")
        write_index(index, read.images, source=read.layout, checksum=checksum_of(read.files))
    return read_index(index)


def chosen(images: ImageSet, parts: tuple[str, ...], path: str) -> ImageSet:
    """The pictures of these parts.

    Raises:
        InputError: there is no such part.
    """
    there = np.unique(images.part)
    for part in parts:
        if part not in there:
            raise InputError(f"{path}: expected parts from {', '.join(there)}, got {part!r}")
    return select(images, np.isin(images.part, parts))


def evaluate(
    objective: ImageObjective, images: ImageSet, config: SingleStageConfig
) -> tuple[dict[str, Any], Prediction, Tensor]:
    """The `deep_report` of pictures with 3D labels, and the predictions and crop matrices that `predict` returns."""
    prediction, matrix = predict(objective, images, config)
    return deep_report(objective, images, prediction, matrix, config), prediction, matrix


def evaluate_all(
    objective: ImageObjective, images: ImageSet, flat: ImageSet | None, config: SingleStageConfig
) -> tuple[dict[str, Any], Prediction, Tensor]:
    """`evaluate`, plus ``mean_pose_mpjpe_mm`` if the set has the training poses, and `flat_report` under ``flat``."""
    if ranks.rank() == 0:
        for shared, path in trained_on(config, images, flat):
            warn_of_shared(shared, path)
    report, prediction, matrix = evaluate(objective, images, config)
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
        save_reference(output, objective.network, objective.likelihood)
        return f"converted {source} to the layout of the authors' code: {output}"
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


def cost_table(size: int) -> list[dict[str, Any]]:
    """Parameters and multiply-adds of the paper's networks at this crop size, beside the counts of Tab. 8 and 9."""
    rows = []
    for leaf, published in (("resnet50_l1", ""), ("resnet50_rle_paper", "23.8M, 5.4G"), ("integral", "34.3M, 14.1G")):
        objective = build_objective(read_config(SingleStageConfig, CONFIGS / f"{leaf}.yaml"))
        flows = sum(p.numel() for p in objective.likelihood.parameters())
        cost = image_model_cost(objective.network, size)
        rows.append({"config": leaf, **cost, "flow_parameters": flows, "paper": published})
    return rows


def format_cost(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'':<20}{'parameters':>12}{'of flows':>10}{'multiply-adds':>15}{'as published':>14}  RLE paper"]
    for row in rows:
        cells = f"{row['parameters'] / 1e6:>11.2f}M{row['flow_parameters'] / 1e6:>9.2f}M"
        cells += f"{row['multiply_adds'] / 1e9:>14.2f}G{row['multiply_adds_as_published'] / 1e9:>13.2f}G"
        lines.append(f"{row['config']:<20}{cells}  {row['paper']}")
    return "\n".join(lines)
