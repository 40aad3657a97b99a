"""The lifting track: train, load, evaluate and draw a lifter."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import reduce
from torch import Tensor

from lifting.checkpoint import built, load_checkpoint
from lifting.command import InputError
from lifting.config import Config, PoseAugmentConfig, read_trained
from lifting.datasets.pose_batches import PoseBatches
from lifting.datasets.poses import PoseSet, load_split, trained_on
from lifting.datasets.recordings import refuse_shared, warn_of_shared
from lifting.evaluate import write_predictions
from lifting.geometry.cameras import denormalise_screen
from lifting.geometry.skeleton import JOINT_SETS, JointSet
from lifting.likelihood import build_likelihood
from lifting.likelihood.flow import Bijection, Density
from lifting.likelihood.pose_density import PoseDensity
from lifting.metrics.pose_errors import joint_errors, rare_report, rareness
from lifting.models import build_lifter
from lifting.models.cost import cost_of
from lifting.prediction import Prediction
from lifting.training import ranks
from lifting.training.engine import fit
from lifting.training.evaluation import evaluate_poses, predict
from lifting.training.objective import Objective

if TYPE_CHECKING:
    from lifting.drawing.pose_figures import DrawnPose

log = logging.getLogger(__name__)

# A test pose is rare if it is far from every 10th frame of the training subjects, whatever data.stride was in training.
RARE_STRIDE = 10


def build_objective(config: Config, joint_set: JointSet) -> Objective:
    """A new network and likelihood for these joints, as configured."""
    likelihood = build_likelihood(config.loss)
    network = build_lifter(config.model, joint_set, with_sigma=likelihood.has_sigma)
    return Objective(network, likelihood, joint_set)


def data_paths(config: Config, *, train: bool = False) -> list[str]:
    """The files of the test or of the training; ``synthetic`` is that of the embedded set, made on first use."""
    given = config.data.path if train or config.data.test_path is None else config.data.test_path
    paths = [given] if isinstance(given, str) else given
    if "synthetic" not in paths:
        return list(paths)
    from lifting.synthetic.poses import synthetic_store  # with the parts of scipy that make motion

    return [str(synthetic_store()) if path == "synthetic" else path for path in paths]


def with_data(config: Config, **changes: Any) -> Config:
    """The configuration with other values of its ``data`` section, which are not checked."""
    return config.model_copy(update={"data": config.data.model_copy(update=changes)})


def tested_on_training_file(config: Config, subjects: tuple[str, ...], **changes: Any) -> Config:
    """The configuration, tested on these subjects of the training's file, its actions and its cameras."""
    data = config.data
    places = {"test_path": None, "test_actions": data.train_actions, "test_cameras": data.train_cameras}
    return with_data(config, test_subjects=subjects, **places, **changes)


def load_poses(config: Config, *, train: bool) -> PoseSet:
    """`poses.load_split` of a configuration's data for its model."""
    return load_split(config.data, data_paths(config, train=train), train=train, model_input=config.model.input)


def train(config: Config, folder: Path) -> None:
    """Trains in ``folder``, or resumes the run that is there; every rank calls it.

    Raises:
        InputError: the data or the configuration cannot be used; a recording is in both training and test; the run in
            ``folder`` is of another model or joint set.
    """
    device = ranks.start(config.train.device)
    try:
        torch.manual_seed(config.seed)
        training = load_poses(config, train=True).to(device)
        test = load_poses(config, train=False).to(device)
        refuse_shared(trained_on(config.data, test.clips), " and ".join(data_paths(config)))
        objective = build_objective(config, test.joint_set).to(device)
        batches = PoseBatches(
            training,
            config.train.batch_size,
            flip=config.train.flip,
            noise_px=config.data.noise_px,
            missing=config.data.missing,
            augment=config.data.augment,
            rank=ranks.rank(),
            world=ranks.world(),
        )
        if ranks.rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for what, poses, subjects in (
                ("training", training, config.data.train_subjects),
                ("test", test, config.data.test_subjects),
            ):
                log.info(f"{len(poses):,} {what} poses of {', '.join(subjects)}")
            weights = sum(p.numel() for p in objective.parameters())
            log.info(f"{weights:,} parameters on {device}; writing to {folder}")
        fit(objective, batches, lambda: evaluate(objective, test, config)[0], config, folder)
    finally:
        ranks.stop()


def load(checkpoint: Path, overrides: list[str] | None = None) -> tuple[Objective, Config]:
    """Loads a trained lifter onto its device; returns it with its configuration, changed by ``overrides``.

    Its likelihood is the density of `crossfit`, if the checkpoint has one.

    Whoever names other data by ``data.path`` is tested on them, also if the training had a file of its own for the
    test. What needs the training poses too (`evaluate_rare`) wants ``data.test_path`` in its place.

    Raises:
        InputError: there is no checkpoint, or it is of the other track; `read_trained` refuses the overrides; the
            weights do not fit.
    """
    content = load_checkpoint(checkpoint)
    if any(override.startswith("data.path=") for override in overrides or []):
        overrides = ["data.test_path=null", *(overrides or [])]
    config = read_trained(Config, content["config"], overrides, f"checkpoint: {checkpoint}")
    device = ranks.start(config.train.device)
    joint_set = JOINT_SETS[content["joint_set"]]
    objective = built(lambda: build_objective(config, joint_set), content, f"checkpoint: {checkpoint}")
    if "density" in content:
        where = f"checkpoint: {checkpoint}: the density"
        objective.likelihood = PoseDensity.load(content["density"], len(objective.free_joints), where).float()
    return objective.to(device).eval(), config


def load_test(config: Config, objective: Objective) -> PoseSet:
    """The test poses of a configuration, on the objective's device.

    Raises:
        InputError: the data cannot be used, or has other joints than the lifter was trained on.
    """
    path = " and ".join(data_paths(config))
    poses = load_poses(config, train=False)
    expected, got = objective.joint_set.name, poses.joint_set.name
    if expected != got:
        raise InputError(f"{path}: expected the joints {expected}, which the lifter was trained on, got {got}")
    if ranks.rank() == 0:
        warn_of_shared(trained_on(config.data, poses.clips), path)
    return poses.to(next(objective.parameters()).device)


def evaluate(objective: Objective, poses: PoseSet, config: Config) -> tuple[dict[str, Any], Prediction]:
    """The report of `evaluation.evaluate_poses`, and the predictions that it scores."""
    prediction = predict(objective, poses, flip_test=config.train.flip)
    return evaluate_poses(objective, poses, prediction), prediction


def cost(objective: Objective, joints: int) -> dict[str, int]:
    """Parameters and multiply-adds for one pose: of the network, and of the flow that only training uses."""
    device = next(objective.parameters()).device
    channels = getattr(objective.network, "channels", 2)
    found = cost_of(objective.network, objective.network, torch.zeros(1, joints, channels, device=device))
    flow = getattr(objective.likelihood, "flow", None)
    if isinstance(flow, Density):
        density = flow.inverse if isinstance(flow, Bijection) else flow.log_prob  # as written, not its fast path
        of_flow = cost_of(flow, density, torch.zeros(joints, objective.likelihood.dim, device=device))
        found |= {f"flow_{name}": count for name, count in of_flow.items()}
    return found


def evaluate_rare(poses: PoseSet, prediction: Prediction, config: Config) -> dict[str, Any]:
    """`pose_errors.rare_report` of the test poses, ranked by their distance to the configured training poses."""
    thinned = with_data(config, stride=RARE_STRIDE, augment=PoseAugmentConfig())
    training = load_poses(thinned, train=True).to(poses.target.device)
    test, known = (some.in_camera_frame(some.target) for some in (poses, training))  # alike for every model.input
    return rare_report(joint_errors(prediction.mu, poses.target), rareness(test, known))


def save_predictions(path: Path, poses: PoseSet, prediction: Prediction) -> None:
    """Writes a prediction file that `lifting.evaluate` can score.

    Raises:
        InputError: two of the test files have a clip of the same name.
    """
    mu = poses.in_camera_frame(prediction.mu).cpu().numpy()
    clips = {(clip.subject, clip.sequence, clip.camera): mu[clip.start : clip.stop] for clip in poses.clips}
    if len(clips) < len(poses.clips):
        raise InputError(
            f"{path}: expected clips of different names, got some in two test files; evaluate one at a time"
        )
    write_predictions(path, clips, poses.stride)


def draw(path: Path, objective: Objective, poses: PoseSet, prediction: Prediction, rows: int = 4) -> None:
    """Draws some test poses, of different actions where it can, from the most to the least certain prediction.

    Without a sigma, the pose with the smallest error counts as the most certain.
    """
    from lifting.drawing.pose_figures import draw_poses  # matplotlib takes a third of a second

    deviation = None
    if prediction.sigma is None:
        doubt = (prediction.mu - poses.target).norm(dim=-1).mean(1)
    else:
        doubt = reduce(prediction.sigma, "n j d -> n", "mean")
        deviation = objective.likelihood.deviation(prediction)
    order = doubt.argsort().tolist()
    chosen: list[int] = []
    for place in torch.linspace(0.02, 0.98, min(rows, len(order))):
        taken = {int(poses.action[i]) for i in chosen}
        later = order[int(place * (len(order) - 1)) :] + order[::-1]
        nearest = next(i for i in later if i not in chosen)
        chosen.append(next((i for i in later if int(poses.action[i]) not in taken), nearest))
    draw_poses(path, [drawn_pose(i, poses, prediction.mu, deviation) for i in chosen], poses.joint_set)


def drawn_pose(row: int, poses: PoseSet, mu: Tensor, deviation: Tensor | None) -> "DrawnPose":
    """A test pose as the figures take it.

    Args:
        row: which pose.
        mu: (N, J, 3) the prediction.
        deviation: (N, J, 3) metres, or None.
    """
    from lifting.drawing.pose_figures import DrawnPose

    clip = next(clip for clip in poses.clips if clip.start <= row < clip.stop)
    width, height = poses.scene.views.size[poses.scene.camera[row]].int().tolist()
    keypoints = denormalise_screen(poses.keypoints[row, :, :2].cpu(), (width, height))
    if poses.has_mask:
        keypoints = keypoints.masked_fill(poses.keypoints[row, :, 2:].cpu() == 0, torch.nan)
    return DrawnPose(
        title=f"{clip.subject} {clip.sequence}, frame {(row - clip.start) * poses.stride}",
        keypoints=keypoints.numpy(),
        size=(width, height),
        target=poses.target[row].cpu().numpy(),
        mu=mu[row].cpu().numpy(),
        sigma=None if deviation is None else deviation[row].cpu().numpy(),
    )
