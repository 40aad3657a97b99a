"""Silent wrong numbers are refused in one line: other joints, the training set as test set, the other track."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lifting import lifter, single_stage
from lifting.checkpoint import load_checkpoint, save_checkpoint
from lifting.config import SingleStageConfig, load_config, read_config
from lifting.datasets.poses import load_split
from lifting.datasets.store import PoseStore, Sequence, write_store
from lifting.evaluate import main as score
from lifting.geometry import h36m
from lifting.geometry.joint_maps import h36m17_to_h36m18, h36m18_to_mpii16
from lifting.geometry.skeleton import COCO17, H36M17, H36M18, JOINT_SETS, MPII16, JointSet
from lifting.likelihood import RLE
from lifting.models.fc import FCBaseline
from lifting.models.srnet import SRNet
from lifting.prediction import Batch
from lifting.training.objective import Objective
from tests.conftest import COCO_OF_H36M, SMALL, SUBJECTS, Shell, refused

pytestmark = pytest.mark.usefixtures("few_draws")

FAST = [*SMALL, "data.stride=20", "train.epochs=1", "loss.name=radial"]


def converted(positions: np.ndarray, joint_set: JointSet) -> np.ndarray:
    """(T, 17, 3) of Human3.6M -> (T, J, 3)."""
    if joint_set == COCO17:
        return positions[:, COCO_OF_H36M]
    points = h36m17_to_h36m18(torch.from_numpy(positions))
    return (h36m18_to_mpii16(points) if joint_set == MPII16 else points).numpy()


@pytest.fixture(scope="module")
def stores(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small store, and copies of it with the joints of the other joint sets."""
    folder, paths = tmp_path_factory.mktemp("joints"), {H36M17.name: small_store}
    cameras = {subject: h36m.cameras(subject) for subject in SUBJECTS}
    with PoseStore(small_store) as store:
        for joint_set in (COCO17, MPII16, H36M18):
            paths[joint_set.name] = folder / f"{joint_set.name}.h5"
            sequences = (
                Sequence(subject, name, converted(store.positions(subject, name), joint_set))
                for subject in store.subjects
                for name in store.sequences(subject)
            )
            write_store(paths[joint_set.name], sequences, cameras, frame_rate=50, source="test", checksum="",
                        joint_set=joint_set)  # fmt: skip
    return paths


@pytest.fixture(scope="module")
def runs(stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each of the stores, the folder of a run of one epoch on it."""
    folder = tmp_path_factory.mktemp("runs")
    for name, store in stores.items():
        lifter.train(load_config(overrides=[*FAST, f"data.path={store}"]), folder / name)
    return {name: folder / name for name in stores}


# -- joint sets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", JOINT_SETS)
def test_a_lifter_for_any_joint_set_is_trained_loaded_evaluated_and_drawn(
    shell: Shell, runs: dict[str, Path], tmp_path: Path, name: str
) -> None:
    joint_set, checkpoint = JOINT_SETS[name], runs[name] / "last.pt"
    assert load_checkpoint(checkpoint)["joint_set"] == name
    code, _, err = shell(
        "evaluate", "--checkpoint", checkpoint, "--uncertainty", "--figure", tmp_path / "a.png",
        "--json", tmp_path / "a.json",
    )  # fmt: skip
    assert code == 0, err
    assert (tmp_path / "a.png").stat().st_size > 10_000
    report = json.loads((tmp_path / "a.json").read_text())
    assert math.isfinite(report["mpjpe_mm"]) and math.isfinite(report["nll"])
    free = [joint for i, joint in enumerate(joint_set.joints) if i != joint_set.root]
    assert list(report["uncertainty"]["coverage_per_joint"]) == free
    objective, config = lifter.load(checkpoint)
    poses = lifter.load_test(config, objective)
    prediction = lifter.evaluate(objective, poses, config)[1]
    for points in (poses.target, prediction.mu):
        assert points.shape[1:] == (len(joint_set), 3)
        assert (points[:, joint_set.root] == 0).all()
        assert (points[:, free_joint(joint_set)] != 0).any()


def free_joint(joint_set: JointSet) -> int:
    """A joint that is not the root: joint 0, or joint 1 if joint 0 is the root."""
    return 0 if joint_set.root else 1


@pytest.mark.parametrize(("trained", "tested"), [("h36m17", "coco17"), ("coco17", "h36m17"), ("h36m17", "mpii16")])
def test_a_checkpoint_is_refused_on_data_with_other_joints(
    shell: Shell, runs: dict[str, Path], stores: dict[str, Path], trained: str, tested: str
) -> None:
    wrong = ["--data", stores[tested]]
    evaluate = ["evaluate", "--checkpoint", runs[trained] / "last.pt"]
    expected = f"{stores[tested]}: expected the joints {trained}, which the lifter was trained on, got {tested}"
    refused(shell(*evaluate, *wrong), expected)
    refused(
        shell("evaluate", "--checkpoint", runs[tested] / "last.pt", "--uncertainty", "--calibrate", evaluate[-1]),
        f"calibrate: {runs[trained] / 'last.pt'}: expected the joints {tested}, got {trained}",
    )
    refused(
        shell("train", "--resume", runs[trained], f"data.path={stores[tested]}", "train.epochs=2"),
        f"{runs[trained] / 'last.pt'}: expected a network for the joints {tested}, got {trained}",
    )


@pytest.mark.parametrize("name", ["coco17", "mpii16", "h36m18"])
def test_srnet_refuses_joints_that_its_groups_are_not_made_of(
    shell: Shell, stores: dict[str, Path], tmp_path: Path, name: str
) -> None:
    small = [override for override in SMALL if "blocks" not in override]
    run = ["train", "--output", tmp_path / "run", f"data.path={stores[name]}", "model.name=srnet", *small]
    refused(shell(*run), f"model.name srnet: expected the joints h36m17, which its groups are made of, got {name}")
    assert not (tmp_path / "run").exists()


def test_an_old_checkpoint_without_a_joint_set_gets_that_of_its_track(
    shell: Shell, runs: dict[str, Path], stores: dict[str, Path], tmp_path: Path
) -> None:
    content = load_checkpoint(runs["h36m17"] / "last.pt")
    del content["joint_set"]
    save_checkpoint(tmp_path / "last.pt", content)
    assert shell("evaluate", "--checkpoint", tmp_path / "last.pt")[0] == 0
    refused(shell("evaluate", "--checkpoint", tmp_path / "last.pt", "--data", stores["coco17"]), "h36m17", "coco17")
    (tmp_path / "config.yaml").write_bytes((runs["h36m17"] / "config.yaml").read_bytes())
    refused(shell("train", "--resume", tmp_path, f"data.path={stores['coco17']}"), "coco17, got h36m17")
    save_checkpoint(tmp_path / "last.pt", {**content, "joint_set": "h36m99"})
    refused(shell("evaluate", "--checkpoint", tmp_path / "last.pt"), "last.pt", "h36m17, h36m18", "got 'h36m99'")


def test_predictions_with_another_number_of_joints_are_refused(
    shell: Shell, runs: dict[str, Path], stores: dict[str, Path], tmp_path: Path
) -> None:
    saved = tmp_path / "poses.h5"
    assert shell("evaluate", "--checkpoint", runs["mpii16"] / "last.pt", "--save", saved)[0] == 0
    assert shell(saved, "--data", stores["mpii16"], main=score)[0] == 0
    refused(shell(saved, "--data", stores["h36m17"], main=score), "poses.h5", ", 17, 3)", ", 16, 3)")


@pytest.mark.parametrize("network", [FCBaseline(width=8), FCBaseline(width=8, root=6), SRNet(width=50)])
def test_an_objective_leaves_out_the_joints_whose_position_is_known(network: FCBaseline | SRNet) -> None:
    """The loss of `Objective(network, likelihood)` was NaN, because the root's log sigma is -inf."""
    objective = Objective(network, RLE())
    assert objective.known == network.known == ((6,) if getattr(network, "root", 0) else (0,))
    loss, sigma = objective(Batch(torch.randn(8, 17, 2), torch.randn(8, 17, 3)))
    loss.backward()
    assert loss.isfinite() and sigma > 0
    prediction, target = network(torch.randn(8, 17, 2)), torch.randn(8, 17, 3)
    free, free_target = objective.free(prediction, target)
    joints = [joint for joint in range(17) if joint not in network.known]
    assert torch.equal(free.mu, prediction.mu[:, joints])
    assert torch.equal(free_target, target[:, joints])
    assert (objective.predict(torch.randn(8, 17, 2)).mu[:, list(network.known)] == 0).all()


def test_all_joints_are_scored_if_none_is_known() -> None:
    network = FCBaseline(width=8, root=None)
    objective = Objective(network, RLE())
    prediction, target = network(torch.randn(8, 17, 2)), torch.randn(8, 17, 3)
    assert torch.equal(objective.free(prediction, target)[0].mu, prediction.mu)
    assert Objective(torch.nn.Identity(), RLE()).known == ()
    with pytest.raises(ValueError, match="expected 16 joints, as the network has, got 17"):
        Objective(FCBaseline(joints=16, width=8), RLE())


# -- the training set as test set --------------------------------------------------------------------------------------


def test_a_recording_in_both_training_and_test_is_refused(shell: Shell, small: list[str], tmp_path: Path) -> None:
    run = ["train", "--output", tmp_path / "run", *small]
    subjects = ["data.train_subjects=[S1, S9]", "data.test_subjects=[S5, S9]"]
    refused(shell(*run, *subjects), small[0].split("=")[1], "16 that are: S9 Greeting, camera 54138969")
    one = [*subjects, "data.train_actions=[Walking]", "data.train_cameras=[-54138969, -55011271, -58860488]"]
    refused(shell(*run, *one), "2 that are: S9 Walking, camera 60457274")
    assert not (tmp_path / "run").exists()


def test_an_evaluation_on_the_training_set_warns(
    shell: Shell, runs: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    evaluate = ["evaluate", "--checkpoint", runs["h36m17"] / "last.pt"]
    assert shell(*evaluate)[0] == 0
    assert not caplog.messages
    code, out, err = shell(*evaluate, "data.test_subjects=[S1, S9]")
    assert code == 0, err
    assert "MPJPE" in out
    (line,) = caplog.messages
    assert "of the test recordings have the same names as training recordings, such as S1 Greeting" in line


# -- the other track --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a single-stage run with an untrained network."""
    folder = tmp_path_factory.mktemp("image_run")
    config = read_config(SingleStageConfig, overrides=["model.backbone=resnet18", "model.width=8"])
    objective = single_stage.build_objective(config)
    states = {"network": objective.network.state_dict(), "likelihood": objective.likelihood.state_dict()}
    save_checkpoint(folder / "last.pt", {"config": config.model_dump(mode="json"), **states})
    (folder / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    return folder


def test_a_checkpoint_of_the_other_track_is_refused_and_says_its_track(
    shell: Shell, runs: dict[str, Path], image_run: Path, tmp_path: Path
) -> None:
    from run_single_stage import main

    checkpoint, ours = image_run / "last.pt", runs["h36m17"] / "last.pt"
    words = "expected a run of the lifting track, got one of the single_stage track, which run_single_stage.py reads"
    refused(shell("evaluate", "--checkpoint", checkpoint), f"checkpoint: {checkpoint}: {words}")
    refused(shell("density", "--checkpoint", checkpoint, "--output", tmp_path / "a.png"), words)
    refused(shell("evaluate", "--checkpoint", ours, "--uncertainty", "--calibrate", checkpoint), str(checkpoint), words)
    refused(shell("train", "--resume", image_run), f"config: {image_run / 'config.yaml'}: {words}")

    words = "expected a run of the single_stage track, got one of the lifting track, which run_lifting.py reads"
    output = ["--output", tmp_path / "out.json"]
    refused(shell("evaluate", "--checkpoint", ours, main=main), f"checkpoint: {ours}: {words}")
    refused(shell("estimate", "--checkpoint", ours, "--input", tmp_path, *output, main=main), str(ours), words)
    refused(shell("convert", "--input", ours, "--output", tmp_path / "x.pth", main=main), str(ours), words)
    refused(shell("train", "--resume", runs["h36m17"], main=main), "config.yaml", words)
    small = ["model.backbone=resnet18", "model.width=8"]
    with pytest.raises(Exception, match=words):
        single_stage.build_objective(
            read_config(SingleStageConfig, overrides=[*small, f"model.weights={ours}"]), start=True
        )


def test_an_old_single_stage_checkpoint_gets_its_18_joints(shell: Shell, image_run: Path, tmp_path: Path) -> None:
    from run_single_stage import main

    content = load_checkpoint(image_run / "last.pt")
    assert content["joint_set"] == "h36m18"
    assert single_stage.load(image_run / "last.pt")[0].joint_set == H36M18
    save_checkpoint(tmp_path / "a.pt", {**content, "joint_set": "h36m17"})
    refused(shell("evaluate", "--checkpoint", tmp_path / "a.pt", main=main), "a.pt", "joints h36m18, got h36m17")


@pytest.mark.parametrize("name", JOINT_SETS)
def test_the_root_of_a_store_is_at_zero(stores: dict[str, Path], name: str) -> None:
    config = load_config(overrides=SMALL).data
    poses = load_split(config, str(stores[name]), train=True)
    assert poses.joint_set == JOINT_SETS[name]
    assert (poses.target[:, poses.joint_set.root] == 0).all()
    assert (poses.target.norm(dim=-1) > 0).sum(1).min() >= len(poses.joint_set) - 1
