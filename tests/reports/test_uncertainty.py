"""What a density is worth on test poses: against what the definitions say, and as a person asks for it."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lifting import lifter
from lifting.config import Config, load_config
from lifting.datasets.poses import PoseSet
from lifting.drawing import diagrams
from lifting.geometry.skeleton import H36M17
from lifting.likelihood import DLE, ConstantVariance, Likelihood
from lifting.likelihood.flow import Density
from lifting.likelihood.unit_densities import draw_laplace, log_gaussian
from lifting.metrics.calibration import LEVELS, Deviations, tails
from lifting.metrics.scores import crps, energy_score, expected_calibration_error, within_quantiles
from lifting.prediction import Prediction
from lifting.reports import density_scores, hypotheses, uncertainty
from lifting.training.objective import Objective
from tests.conftest import Shell, refused

pytestmark = pytest.mark.usefixtures("few_draws")

Case = tuple[Objective, PoseSet, Prediction]


def case(small: list[str], loss: str) -> tuple[Case, Config]:
    """A new network with output weights of some size, on the test poses."""
    config = load_config(overrides=[*small, f"loss.name={loss}", "data.test_stride=40"])
    torch.manual_seed(0)
    objective = lifter.build_objective(config, H36M17)
    for name, parameter in objective.network.named_parameters():
        if "head" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    if loss == "l1":
        objective.likelihood.scale.fill_(0.1)  # type: ignore[operator]
    poses = lifter.load_test(config, objective)
    return (objective, poses, lifter.evaluate(objective, poses, config)[1]), config


def exact(what: Case) -> Case:
    """The same poses with labels that are draws of what is predicted."""
    objective, poses, prediction = what
    torch.manual_seed(1)
    free, _ = objective.free(prediction, poses.target)
    drawn = poses.target.clone()
    drawn[:, 1:] = objective.likelihood.sample(free, 1)[0]
    return objective, poses.__class__(**{**vars(poses), "target": drawn}), prediction


@pytest.mark.parametrize("loss", ["rle", "laplace", "flow", "dle", "l1"])
def test_a_density_that_is_right_is_found_right(small: list[str], loss: str) -> None:
    what = exact(case(small, loss)[0])
    report = uncertainty.uncertainty_report(*what)
    for level, share in report["coverage"].items():
        assert share == pytest.approx(float(level), abs=3)
    assert report["calibration_error"] < 2
    assert report["ece"] < 0.04
    assert set(report["ranking"]) == (set() if loss == "l1" else {"joint", "pose"})
    assert len(report["coverage_per_joint"]) == 16
    assert len(report["tenths"]) == (0 if loss == "l1" else 10)
    for row in report["tenths"]:
        for level, share in row["coverage"].items():
            assert share == pytest.approx(float(level), abs=9)
    found = hypotheses.hypotheses_report(*what, 100)  # of 20, the outer tenths are a quarter off: chosen by noise
    for row in found["bins"]:
        assert row["spread_mm"] == pytest.approx(row["error_mm"], rel=0.25)


def test_the_scale_is_that_of_a_scaled_density(small: list[str]) -> None:
    """NLL after the scale is that of a prediction with a scaled sigma; the scale is the one that was planted."""
    objective, poses, prediction = exact(case(small, "rle")[0])
    assert prediction.log_sigma is not None
    sure = Prediction(prediction.mu, prediction.log_sigma - 0.7)
    held_out = {"S8": density_scores.deviations(objective.likelihood, *objective.free(sure, poses.target))}
    calibrated = uncertainty.uncertainty_report(objective, poses, sure, held_out)["calibrated"]
    assert calibrated["on"] == ["S8"]
    assert calibrated["scale"] == pytest.approx(2.01, rel=0.03)
    assert calibrated["calibration_error"] < 2
    by = torch.tensor(calibrated["scale"]).log()
    free, target = objective.free(Prediction(sure.mu, prediction.log_sigma - 0.7 + by), poses.target)
    expected = -objective.likelihood.log_prob(free, target).mean().item()
    assert calibrated["nll"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", ["laplace", "flow", "l1"])
def test_drawn_scores_equal_a_slow_twin(small: list[str], monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    """ECE, energy score and CRPS, pose by pose and joint by joint, of the draws that the report took."""
    objective, poses, prediction = case(small, loss)[0]
    free, target = objective.free(prediction, poses.target)
    found = density_scores.deviations(objective.likelihood, free, target)
    monkeypatch.setattr(density_scores, "_AT_ONCE", 50 * 200 * 48)  # several parts
    place = Recorded(objective.likelihood.unstandardise)
    monkeypatch.setattr(objective.likelihood, "unstandardise", place)
    report = density_scores.drawn_scores(objective.likelihood, free, target, found.draws)
    draws = torch.cat(place.drawn, 1)
    assert len(place.drawn) > 1
    assert draws.shape == (200, *target.shape)
    x_bar = torch.stack([objective.likelihood.standardise(free, one) for one in draws[:50]])
    different = len(set(x_bar[..., 0].flatten().tolist()))
    assert different > 0.5 * min(x_bar[..., 0].numel(), len(found.draws))  # each joint has draws of its own
    within = torch.zeros(21, 16)
    energies, ranked = [], []
    for j in range(16):
        for i in range(len(poses)):
            one, truth = draws[:, i, j].double(), target[i, j].double()
            within[:, j] += within_quantiles(draws[:, i, j], target[i, j]) / len(poses)
            energies.append(energy_score(one, truth))
            ranked.append(crps(one, truth))
    assert report["ece"] == pytest.approx(expected_calibration_error(within), abs=1e-6)
    assert report["energy_score_mm"] == pytest.approx(1000 * torch.stack(energies).mean().item(), rel=1e-4)
    assert report["crps_mm"] == pytest.approx(1000 * torch.stack(ranked).mean().item(), rel=1e-4)


def test_a_report_is_the_same_every_time_and_leaves_the_random_state(small: list[str]) -> None:
    what = case(small, "dle")[0]
    state = torch.get_rng_state()
    report = uncertainty.uncertainty_report(*what)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert report == uncertainty.uncertainty_report(*what)


def test_the_constant_sigma_is_the_likeliest_of_its_kind(small: list[str]) -> None:
    """Its NLL is 1 + log 2 b, summed over the coordinates; any other scale b has a higher one."""
    objective, poses, prediction = case(small, "gaussian")[0]
    free, target = objective.free(prediction, poses.target)
    report = uncertainty.uncertainty_report(objective, poses, prediction)["constant_sigma"]
    scale = (free.mu - target).abs().mean(0).double()
    expected = (1 + (2 * scale).log()).sum(-1).mean().item()
    assert report["nll"] == pytest.approx(expected, abs=1e-4)
    assert report["sharpness_mm"] == pytest.approx(1000 * 2**0.5 * scale.mean().item(), rel=0.01)
    likelihood, same_mu = density_scores.constant_sigma(free, target)
    assert same_mu.log_sigma is not None
    for factor in (0.9, 1.1):
        other = Prediction(same_mu.mu, same_mu.log_sigma + math.log(factor))
        assert -likelihood.log_prob(other, target).mean().item() > report["nll"]


def test_a_sigma_that_knows_the_error_has_better_scores_than_a_constant(small: list[str]) -> None:
    """Labels are drawn with sigmas that vary by a factor of two either way, which ECE does not reward."""
    objective, poses, prediction = case(small, "gaussian")[0]
    log_sigma = math.log(0.05) + 0.7 * torch.randn(len(poses), 17, 1, generator=torch.manual_seed(0)).expand(-1, -1, 3)
    what = exact((objective, poses, Prediction(prediction.mu, log_sigma)))
    report = uncertainty.uncertainty_report(*what)
    constant = report["constant_sigma"]
    assert report["nll"] < constant["nll"] - 0.1
    for score in ("energy_score_mm", "crps_mm", "sharpness_mm"):
        assert report[score] < 0.97 * constant[score], score
    lines = uncertainty.format_uncertainty(report).splitlines()
    for name, row in (("predicted", report), ("constant sigma", constant)):
        cells = next(line for line in lines if line.startswith(name)).removeprefix(name).split()
        assert cells == [
            f"{row['nll']:.3f}", f"{row['ece']:.3f}", f"{row['energy_score_mm']:.2f}", f"{row['crps_mm']:.2f}",
            f"{row['sharpness_mm']:.1f}", f"{row['calibration_error']:.2f}",
        ]  # fmt: skip


def test_tenths_show_small_sigmas_that_lie(small: list[str]) -> None:
    """The smaller half of the sigmas is halved: its coverage falls, that of the others stays."""
    objective, poses, prediction = exact(case(small, "laplace")[0])
    assert prediction.log_sigma is not None
    rank = prediction.log_sigma[:, 1:].mean(-1, keepdim=True)
    log_sigma = prediction.log_sigma.clone()
    log_sigma[:, 1:] -= math.log(2) * (rank < rank.median())
    report = uncertainty.uncertainty_report(objective, poses, Prediction(prediction.mu, log_sigma))
    sigmas = [row["sigma_mm"] for row in report["tenths"]]
    assert sigmas == sorted(sigmas)
    for number, row in enumerate(report["tenths"]):
        for level in LEVELS:
            # a Laplace density has 1 - (1 - p)^(1 / 2) of its mass in the interval of level p when it is twice as wide
            right = 1 - (1 - level) ** 0.5 if number < 5 else level
            assert row["coverage"][f"{100 * level:g}"] == pytest.approx(100 * right, abs=7)
    free, target = objective.free(prediction, poses.target)
    errors = [row["error_mm"] for row in report["tenths"]]
    assert sum(errors) / 10 == pytest.approx(1000 * (free.mu - target).norm(dim=-1).mean().item(), rel=0.01)


def test_a_loss_without_a_sigma_can_be_scaled(small: list[str]) -> None:
    """The scale of l1 is a constant of the likelihood; scaled, it is the sigma of a Laplace density."""
    objective, poses, prediction = exact(case(small, "l1")[0])
    assert isinstance(objective.likelihood, ConstantVariance)
    objective.likelihood.scale.mul_(0.5)
    free, target = objective.free(prediction, poses.target)
    held_out = {"S8": density_scores.deviations(objective.likelihood, free, target)}
    report = uncertainty.uncertainty_report(objective, poses, prediction, held_out)
    assert report["tenths"] == []
    calibrated = report["calibrated"]
    assert calibrated["scale"] == pytest.approx(2, rel=0.05)
    assert calibrated["ece"] < report["ece"] / 3
    assert calibrated["energy_score_mm"] < report["energy_score_mm"]
    assert calibrated["sharpness_mm"] == pytest.approx(calibrated["scale"] * report["sharpness_mm"], rel=0.01)
    sigma = (0.05 * calibrated["scale"] * torch.ones(())).log().expand_as(free.mu)
    expected = -Likelihood(3, "laplace").log_prob(Prediction(free.mu, sigma), target).mean().item()
    assert calibrated["nll"] == pytest.approx(expected, abs=1e-4)
    text = uncertainty.format_uncertainty(report)
    assert "least sure" not in text
    assert "constant sigma" in text


def test_hypotheses_against_a_slow_twin(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    what = objective, poses, prediction = case(small, "gaussian")[0]
    monkeypatch.setattr(hypotheses, "_AT_ONCE", 7 * 48 * 3)  # several parts
    monkeypatch.setattr(objective.likelihood, "sample", slow_draws := Recorded(objective.likelihood.sample))
    report = hypotheses.hypotheses_report(*what, 7)
    draws = torch.cat(slow_draws.drawn, 1)
    best, joints, means = [], [], []
    for i in range(len(poses)):
        errors = torch.stack([(draw[i] - poses.target[i, 1:]).norm(dim=-1) for draw in draws])  # (7, 16)
        whole = torch.cat([torch.zeros(7, 1), errors], 1)
        best.append(whole.mean(1).min())
        joints.append(whole.min(0).values.mean())
        means.append(whole.mean())
    for key, values in (("min_mpjpe_mm", best), ("min_joint_mm", joints), ("mean_mpjpe_mm", means)):
        assert report["learned"][key] == pytest.approx(1000 * torch.stack(values).mean().item(), rel=1e-4)
        # a Gaussian's peer is itself
        assert report["gaussian"][key] == pytest.approx(report["learned"][key], rel=0.05)
    mpjpe = (prediction.mu - poses.target).norm(dim=-1).mean().item()
    assert report["mpjpe_frame_mm"] == pytest.approx(1000 * mpjpe, rel=1e-4)
    assert [report == hypotheses.hypotheses_report(*what, n) for n in (7, 8)] == [True, False]


class Recorded:
    """A sampler that keeps what it drew."""

    def __init__(self, sample: Callable[..., torch.Tensor]) -> None:
        self.sample = sample
        self.drawn: list[torch.Tensor] = []

    def __call__(self, *arguments: object) -> torch.Tensor:
        self.drawn.append(self.sample(*arguments))
        return self.drawn[-1]


def test_as_a_person_asks(shell: Shell, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagrams, "_CELLS", 24)
    run, held = ([*small, f"data.train_subjects=[{names}]"] for names in ("S1, S5", "S1"))
    assert shell("train", "--output", tmp_path / "run", *run)[0] == 0
    assert shell("train", "--output", tmp_path / "held", *held)[0] == 0
    evaluate = ["evaluate", "--checkpoint", tmp_path / "run" / "last.pt"]
    code, out, err = shell(
        *evaluate, "--uncertainty", "--calibrate", tmp_path / "held" / "last.pt", "--hypotheses", 5,
        "--diagrams", tmp_path / "one_look.png", "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert code == 0, err
    for words in (
        "in central intervals",
        "sigma x",
        "constant sigma",
        "energy score",
        "(least sure)",
        "AUSE by pose",
        "best of 5",
    ):
        assert words in out
    assert (tmp_path / "one_look.png").stat().st_size > 30_000
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["uncertainty"]["calibrated"]["on"] == [f"S5, {tmp_path / 'held' / 'last.pt'}"]
    assert report["uncertainty"]["nll"] == pytest.approx(report["nll"])
    assert report["hypotheses"]["mpjpe_frame_mm"] == pytest.approx(report["mpjpe_frame_mm"], rel=1e-4)
    # what was asked amiss
    refused(shell(*evaluate, "--calibrate", tmp_path / "held" / "last.pt"), "go with --uncertainty")
    refused(shell(*evaluate, "--hypotheses", 1), "--hypotheses", "got 1")
    refused(shell(*evaluate, "--hypotheses", 10**12), "--hypotheses", "got 1,000,000,000,000")
    few = shell(*evaluate, "--uncertainty", "data.test_stride=400", "--json", tmp_path / "few.json")
    refused(few, "expected 100 test poses or more")
    for option in ("--figure", "--diagrams"):  # known before the work, not after it
        picture = [option, tmp_path / "picture.xyz", "--json", tmp_path / "few.json"]
        refused(shell(*evaluate, "--uncertainty", *picture), "expected the ending of a picture file")
    assert not (tmp_path / "few.json").exists()
    # weights fit other losses too, whose numbers these are not
    for other in ("loss.name=dle", "loss.base=gaussian", "model.dropout=0.5"):
        refused(shell(*evaluate, other), "last.pt", f"expected the {other.split('.')[0]} that it was trained with")
    refused(shell("density", "--checkpoint", evaluate[-1], "--output", tmp_path / "x.png", "loss.name=dle"), "the loss")
    calibrate = [*evaluate, "--uncertainty", "--calibrate", tmp_path / "held" / "last.pt"]
    refused(shell(*calibrate, "data.noise_px=5"), "calibrate", "5 px of noise, 0% missing, got keypoints gt with 0 px")
    assert shell("train", "--output", tmp_path / "other", *held, "loss.name=laplace", "train.epochs=1")[0] == 0
    refused(shell(*calibrate[:-1], tmp_path / "other" / "last.pt"), "calibrate", "expected the loss of the evaluated")
    refused(
        shell(*evaluate, "--uncertainty", "--calibrate", tmp_path / "run" / "last.pt"),
        "was trained on S1, S5",
        "S1, S5",
    )


@pytest.mark.parametrize("loss", ["rle", "l1", "flow"])
def test_the_density_of_any_checkpoint(
    shell: Shell,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loss: str,
) -> None:
    monkeypatch.setattr(diagrams, "_CELLS", 24)
    assert shell("train", "--output", tmp_path / "run", *small, f"loss.name={loss}", "train.epochs=1")[0] == 0
    picture = tmp_path / "density.svg"
    result = shell("density", "--checkpoint", tmp_path / "run" / "last.pt", "--output", picture)
    if loss == "flow":
        refused(result, "no unit density")
        assert not picture.exists()
    else:
        assert result[0] == 0, result[2]
        assert "learned, z (depth)" in picture.read_text()
    diagram = tmp_path / "all.svg"
    code, _, err = shell(
        "evaluate", "--checkpoint", tmp_path / "run" / "last.pt", "--uncertainty", "--diagrams", diagram
    )
    assert code == 0, err
    drawn = diagram.read_text()
    assert "reliability" in drawn
    assert ("no unit density to draw" in drawn) == (loss == "flow")
    assert ("no sigma, no ranking" in drawn) == (loss == "l1")


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_drawn_marginals_are_densities_of_their_own_width(dim: int) -> None:
    """Of a flow that is 0.4 wide in its first coordinate, 2.5 in its last."""
    widths = torch.tensor([0.4, 1.0, 2.5])[torch.arange(dim) * 2 // max(1, dim - 1)]
    likelihood = DLE(dim, flow=Stretched(widths))
    grids, density, deviation = diagrams._on_a_grid(likelihood)
    np.testing.assert_allclose(deviation, widths, rtol=0.02)
    for d in range(dim):
        found = diagrams.marginal(grids, density, d)
        expected = np.exp(-0.5 * (grids[d] / widths[d].item()) ** 2) / (widths[d].item() * math.sqrt(2 * math.pi))
        np.testing.assert_allclose(found, expected, atol=1e-3 * expected.max())


class Stretched(Density):
    """A normal density of given deviations."""

    def __init__(self, widths: torch.Tensor) -> None:
        super().__init__()
        self.widths = torch.nn.Parameter(widths)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return log_gaussian(x / self.widths) - self.widths.log().sum()

    def sample(self, shape: tuple[int, ...]) -> torch.Tensor:
        return self.widths * torch.randn(*shape, len(self.widths))


def test_tails_of_known_densities() -> None:
    torch.manual_seed(0)
    errors, draws = torch.randn(50_000, 4, 2), draw_laplace((200_000, 2), torch.zeros(()))
    for row in tails(Deviations(3 * errors, draws)):
        assert row["errors"] == pytest.approx(2.5758 / 0.6745, rel=0.02)
        assert row["density"] == pytest.approx(math.log(100) / math.log(2), rel=0.02)
