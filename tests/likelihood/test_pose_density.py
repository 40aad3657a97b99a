"""The density of whole poses: integrals, marginals, planted densities, axes, draws against probabilities."""

import math

import pytest
import torch
from scipy.special import gammainc, gammaincinv
from scipy.stats import kstest
from torch import Tensor

from lifting.command import InputError
from lifting.geometry.views import rotation_to_ray
from lifting.likelihood.pose_density import _KEPT, _STATURES, PoseDensity, _common, viewing_turn
from lifting.likelihood.radial_mixture import fit_mixture, log_parts, with_length
from lifting.prediction import Prediction

JOINTS, DIM = 4, 3


def correlation(joints: int, dim: int, seed: int = 0) -> Tensor:
    """A correlation whose blocks on the diagonal are identities."""
    maker = torch.Generator().manual_seed(seed)
    common = torch.randn(joints * dim, dim, generator=maker, dtype=torch.float64)
    blocks = torch.linalg.qr(common.view(joints, dim, dim))[0] * 0.8  # orthogonal: C_jj = 0.64 I + 0.36 I
    flat = blocks.reshape(joints * dim, dim)
    whole: Tensor = flat @ flat.T + 0.36 * torch.eye(joints * dim).double()
    return whole


def density(joints: int = JOINTS, dim: int = DIM, focal: float | None = None, stature: float = 0.0) -> PoseDensity:
    maker = torch.Generator().manual_seed(1)
    scale = 0.5 + torch.rand(joints, dim, generator=maker, dtype=torch.float64)
    weights, widths = torch.tensor([0.3, 0.6, 0.1]).double(), torch.tensor([0.4, 1.0, 3.0]).double()
    at = None if focal is None else torch.tensor(focal, dtype=torch.float64)
    return PoseDensity(scale, weights, widths, correlation(joints, dim), at, torch.tensor(stature).double())


def correlation_of(of: PoseDensity, one: Prediction) -> Tensor:
    """C' of each pose as the docstring has it, (B, J D, J D)."""
    assert one.log_sigma is not None
    spread = float((of.weights * of.widths.square()).sum() ** 0.5)
    v = of.stature * one.mu / (one.log_sigma.exp() * of.scale * spread)
    eye = torch.eye(v.shape[2], dtype=v.dtype)
    half = v.new_zeros(*v.shape, *v.shape[1:])
    for j in range(v.shape[1]):
        values, vectors = torch.linalg.eigh(eye + v[:, j, :, None] * v[:, j, None])
        half[:, j, :, j] = (vectors * values.rsqrt()[:, None]) @ vectors.mT
    half = half.flatten(1, 2).flatten(2)
    flat = v.flatten(1)
    return half @ (of.correlation + flat[:, :, None] * flat[:, None]) @ half


def prediction(poses: int, joints: int = JOINTS, dim: int = DIM) -> Prediction:
    maker = torch.Generator().manual_seed(2)
    mu = torch.randn(poses, joints, dim, generator=maker, dtype=torch.float64)
    sigma = 0.05 + 0.1 * torch.rand(poses, joints, 1, generator=maker, dtype=torch.float64)
    return Prediction(mu, sigma.log().expand_as(mu))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_unit_density_integrates_to_one(dim: int) -> None:
    lengths = torch.linspace(0, 40, 200_001, dtype=torch.float64)
    sphere = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2)
    x = torch.zeros(len(lengths), dim, dtype=torch.float64)
    x[:, 0] = lengths
    values = density(2, dim).log_unit(x).exp() * sphere * lengths ** (dim - 1)
    assert torch.trapezoid(values, lengths) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("stature", [0.0, 0.2])
def test_two_joints_integrate_to_one_and_keep_their_marginals(stature: float) -> None:
    """In one coordinate for each of two joints, by plain quadrature."""
    of, one = density(2, 1, stature=stature), prediction(1, 2, 1)
    steps = torch.linspace(-3, 3, 751, dtype=torch.float64)
    a, b = torch.meshgrid(steps + one.mu[0, 0], steps + one.mu[0, 1], indexing="ij")
    x = torch.stack([a, b], -1).view(-1, 2, 1)
    many = Prediction(one.mu.expand_as(x), one.log_sigma.expand_as(x))  # type: ignore[union-attr]
    table = of.log_prob_pose(many, x).exp().view(751, 751)
    assert torch.trapezoid(torch.trapezoid(table, steps), steps) == pytest.approx(1, abs=1e-4)
    alone = of.log_prob(many, x).view(751, 751, 2)[:, 0, 0].exp()
    kept = torch.trapezoid(table, steps)
    middle = slice(150, 600)
    torch.testing.assert_close(kept[middle], alone[middle], rtol=2e-3, atol=1e-4)
    assert (table / (alone[:, None] * table.sum(0) / table.sum())).std() > 0.1  # yet they are not independent


def test_lengths_become_those_of_a_normal_density_and_come_back() -> None:
    of = density()
    torch.manual_seed(0)
    x = of.draw_unit((20_000,), torch.zeros(1, dtype=torch.float64))
    g = of.to_normal(x)
    for d in range(DIM):
        assert kstest(g[:, d].numpy(), "norm").pvalue > 0.01
    torch.testing.assert_close(of.from_normal(g), x, rtol=1e-4, atol=1e-7)
    far = torch.tensor([[0.0, 0.0, 500.0], [1e-9, 0.0, 0.0], [0.0, 0.0, 0.0]]).double()
    assert of.to_normal(far).isfinite().all()
    torch.testing.assert_close(of.from_normal(of.to_normal(far)), far)


def test_short_lengths_have_the_rank_of_their_own() -> None:
    """The share of U within a length is that of the normal density within the length that it is mapped to."""
    of = density()
    lengths = of.widths.min() * torch.tensor([0.01, 0.1, 0.3, 0.6, 0.9]).double()
    mapped = of.to_normal(lengths[:, None] * torch.tensor([0.6, 0, 0.8]).double()).norm(dim=1)
    within = (of.weights * torch.from_numpy(gammainc(1.5, ((lengths[:, None] / of.widths) ** 2 / 2).numpy()))).sum(1)
    torch.testing.assert_close(
        mapped, (2 * torch.from_numpy(gammaincinv(1.5, within.numpy()))).sqrt(), rtol=1e-4, atol=0
    )


def test_whole_poses_against_a_slow_twin() -> None:
    of, some = density(stature=0.06), prediction(6)
    c = correlation_of(of, some)
    blocks = c.view(6, JOINTS, DIM, JOINTS, DIM).diagonal(dim1=1, dim2=3).movedim(-1, 1)
    torch.testing.assert_close(blocks, torch.eye(DIM).double().expand_as(blocks))
    assert (c - of.correlation).abs().max() > 0.1
    x = some.mu + 0.1 * torch.randn(6, JOINTS, DIM, dtype=torch.float64)
    g = of.to_normal(of.standardise(some, x)).flatten(1)
    quadratic = torch.einsum("bi,bij,bj->b", g, torch.eye(JOINTS * DIM) - torch.linalg.inv(c), g)
    expected = of.log_prob(some, x).sum(1) + 0.5 * (quadratic - torch.logdet(c))
    torch.testing.assert_close(of.log_prob_pose(some, x), expected)


@pytest.mark.parametrize("stature", [0.0, 0.06])
def test_draws_follow_the_density_of_whole_poses(stature: float) -> None:
    """E[q / p] = 1 over draws from p, for the q of independent joints; and -E[log p] is below that of independent."""
    of, one = density(stature=stature), prediction(1)
    c = correlation_of(of, one)[0]
    torch.manual_seed(0)
    drawn = of.sample(one, 40_000)[:, 0]
    many = Prediction(one.mu.expand_as(drawn), one.log_sigma.expand_as(drawn))  # type: ignore[union-attr]
    pose, joints = of.log_prob_pose(many, drawn), of.log_prob(many, drawn).sum(1)
    ratio = (joints - pose).exp()
    assert ratio.mean() == pytest.approx(1, abs=5 * float(ratio.std()) / 200)
    g = of.to_normal(of.standardise(many, drawn)).flatten(1)
    torch.testing.assert_close(g.T @ g / len(g), c, rtol=0, atol=0.03)
    assert (pose - joints).mean() == pytest.approx(-0.5 * float(torch.logdet(c)), rel=0.02)
    off = (drawn - one.mu[0]).square().mean(0).sqrt()
    torch.testing.assert_close(off, of.deviation(one)[0], rtol=0.03, atol=0)


@pytest.mark.parametrize("first", [0, 2_000])
def test_a_planted_density_is_recovered(first: int) -> None:
    """Scales by joint and axis, tails and correlation, of one person, or of two of whom one has ten times the poses."""
    of, some = density(), prediction(22_000)
    of.scale.mul_(torch.tensor([8.0, 1, 0.2]))
    torch.manual_seed(0)
    target = of.sample(some, 1)[0]
    person = (torch.arange(22_000) < first).long()
    found = PoseDensity.fit(some, target.requires_grad_(), person)
    assert not any(x.requires_grad for x in found.state_dict(keep_vars=True).values())
    assert not found.deviation(Prediction(target, target)).requires_grad
    assert found.stature == 0
    target = target.detach()
    torch.testing.assert_close(
        found.deviation(some.rows(slice(10))), of.deviation(some.rows(slice(10))), rtol=0.05, atol=0
    )
    torch.testing.assert_close(found.scale / found.scale.mean(), of.scale / of.scale.mean(), rtol=0.05, atol=0)
    torch.testing.assert_close(found.correlation, of.correlation, rtol=0, atol=0.06)
    gap = (of.log_prob(some, target) - found.log_prob(some, target)).mean()
    assert 0 <= float(gap) + 1e-3 < 0.01
    blocks = found.correlation.view(JOINTS, DIM, JOINTS, DIM).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    torch.testing.assert_close(blocks, torch.eye(DIM).double().expand_as(blocks))


@pytest.mark.parametrize(("joints", "dim"), [(5, 2), (7, 3)])
def test_a_mixture_is_fitted_in_its_own_number_of_coordinates(joints: int, dim: int) -> None:
    """Its likelihood is that of the planted one, a narrow and a wide component, for each joint."""
    weights, widths = torch.tensor([0.7, 0.3]).double(), torch.tensor([0.3, 2.0]).double()
    wide = torch.multinomial(weights, 20_000 * joints, replacement=True).view(20_000, joints, 1)
    z = widths[wide] * torch.randn(20_000, joints, dim, dtype=torch.float64)

    def mean_log(scale: Tensor, weights: Tensor, widths: Tensor) -> float:
        parts = log_parts((z / scale).norm(dim=-1), weights, widths, dim)
        return float((parts.logsumexp(-1) - scale.log().sum(-1)).mean())

    found = fit_mixture(z, torch.full((20_000,), 1 / 20_000).double())
    assert mean_log(*found) == pytest.approx(mean_log(torch.ones(joints, dim).double(), weights, widths), abs=0.002)


def test_every_person_counts_alike() -> None:
    """One person's errors are three times the other's: the scale is that of an even mixture, whoever moved longer."""
    of = density()
    torch.manual_seed(0)
    some = prediction(4_400)
    error = of.sample(some, 1)[0] - some.mu
    error[:400] *= 3
    weighed = PoseDensity.fit(some, some.mu + error, (torch.arange(4_400) >= 400).long())
    again = torch.cat([torch.arange(400).repeat(10), torch.arange(400, 4_400)])
    assert some.log_sigma is not None
    each = Prediction(some.mu[again], some.log_sigma[again])
    repeated = PoseDensity.fit(each, (some.mu + error)[again], torch.zeros(len(again)).long())
    torch.testing.assert_close(weighed.deviation(some), repeated.deviation(some), rtol=0.05, atol=0)


def test_a_stature_that_people_differ_by_is_found() -> None:
    torch.manual_seed(0)
    some = prediction(3_000)
    target = density(stature=0.03).sample(some, 1)[0]
    found = PoseDensity.fit(some, target, (torch.arange(3_000) >= 1_000).long())
    assert float(found.stature) == pytest.approx(0.03, abs=0.011)


def test_what_the_others_errors_share_is_not_taken_for_stature() -> None:
    """All poses are one, so errors of a stature are correlated alike in everybody: the correlation explains them."""
    torch.manual_seed(0)
    taller = 20 * torch.randn(JOINTS, DIM).double()
    g = torch.randn(4_000, JOINTS, DIM).double() + 0.06 * taller * torch.randn(4_000, 1, 1).double()
    for joint in g.unbind(1):
        joint.copy_(torch.linalg.solve_triangular(torch.linalg.cholesky(joint.T.cov()), joint.T, upper=False).T)
    found, stature = _common([(part, taller.expand_as(part)) for part in torch.split(g, 2_000)])
    assert stature == 0
    torch.testing.assert_close(found, g.flatten(1).T.cov(), rtol=0, atol=0.05)


def test_a_stature_that_one_person_alone_errs_by_is_found() -> None:
    """The correlation of the others, who judge, does not explain it. The person's own would."""
    torch.manual_seed(0)
    taller, shared = 20 * torch.randn(JOINTS, 2).double(), torch.randn(JOINTS, 2).double()
    people = []
    for share in (0.025, 0.0, 0.0):
        g = torch.randn(2_000, JOINTS, 2).double() + 0.8 * shared * torch.randn(2_000, 1, 1).double()
        people.append((g + share * taller * torch.randn(2_000, 1, 1).double(), taller.expand_as(g)))
    assert _common(people)[1] > 0


def test_what_people_share_is_looked_for_from_nothing_up() -> None:
    for grid, limit in ((_KEPT, 1), (_STATURES, 0.1)):
        assert grid[0] == 0 and grid[-1] < limit
        assert list(grid) == sorted(set(grid))


def test_axes_turn_with_the_viewing_ray() -> None:
    """A pose at the border of the picture has its large deviation along its own ray, not along the camera's axis."""
    of = density(focal=2.3, stature=0.05)
    of.scale[:] = torch.tensor([1.0, 1.0, 4.0])
    keypoints = torch.zeros(2, JOINTS, 2, dtype=torch.float64)
    keypoints[1, 0] = torch.tensor([0.9, -0.3])
    turn = of.axes(keypoints)
    assert turn is not None
    ray = torch.tensor([0.9, -0.3, 2.3], dtype=torch.float64)
    torch.testing.assert_close(turn[1] @ (ray / ray.norm()), torch.tensor([0.0, 0, 1]).double())
    torch.testing.assert_close(turn[0], torch.eye(3).double())
    torch.testing.assert_close(turn[1], rotation_to_ray(ray))
    assert viewing_turn(torch.zeros(5, 17, 3), torch.tensor(2.0)).shape == (5, 3, 3)
    some = prediction(2)
    turned = Prediction(some.mu, some.log_sigma, turn)
    x = some.mu + 0.1
    plain = Prediction(some.mu @ turn.mT, some.log_sigma)
    torch.testing.assert_close(of.log_prob_pose(turned, x), of.log_prob_pose(plain, x @ turn.mT))
    torch.testing.assert_close(of.unstandardise(turned, of.standardise(turned, x)), x)
    torch.manual_seed(0)
    off = (of.sample(turned, 20_000) - some.mu).square().mean(0).sqrt()
    torch.testing.assert_close(off, of.deviation(turned), rtol=0.06, atol=0)
    assert density().axes(keypoints) is None


def test_what_is_no_density_is_refused() -> None:
    state = {name: x.clone() for name, x in density(focal=2.0, stature=0.02).state_dict().items()}
    again = PoseDensity.load(state, JOINTS, "here")
    torch.testing.assert_close(again.lengths, density().lengths)
    assert again.stature == state["stature"]
    assert PoseDensity.load({name: x for name, x in state.items() if name != "stature"}, JOINTS, "here").stature == 0
    for name, x in [
        ("scale", torch.ones(3, 3)),
        ("scale", torch.tensor(1.0)),
        ("weights", torch.tensor(1.0)),
        ("widths", torch.ones(2)),
        ("scale", torch.zeros(4, 3)),
        ("stature", torch.tensor(-0.01)),
        ("stature", torch.ones(2)),
    ]:
        with pytest.raises(InputError, match="here: expected scale"):
            PoseDensity.load(state | {name: x}, JOINTS, "here")
    with pytest.raises(InputError, match="here: expected scale"):
        PoseDensity.load({"scale": torch.ones(4, 3)}, JOINTS, "here")
    with pytest.raises(InputError, match="here: expected scale"):
        PoseDensity.load(state | {"scale": state["scale"] * math.nan}, JOINTS, "here")
    with pytest.raises(InputError, match="here: expected scale"):
        PoseDensity.load(state | {"correlation": -state["correlation"]}, JOINTS, "here")
    flat = {"scale": torch.ones(4, 2), "correlation": torch.eye(8)}
    with pytest.raises(InputError, match="here: expected scale"):  # of a lifter, which is in 3D
        PoseDensity.load(state | flat, JOINTS, "here")
    with pytest.raises(InputError, match=r"here: expected scale.* for 5 joints"):
        PoseDensity.load(state, JOINTS + 1, "here")
    with pytest.raises(ValueError, match="with sigma"):
        PoseDensity.fit(Prediction(torch.zeros(5, 4, 3)), torch.zeros(5, 4, 3), torch.zeros(5).long())


def test_a_correlation_is_kept_as_far_as_people_share_it() -> None:
    """The first and the last of eight coordinates: alike in everybody, or alike in one and opposed in the other."""
    z = torch.randn(4, 2000, 8, dtype=torch.float64)

    def found(signs: list[int]) -> float:
        people = [
            torch.cat([x[:, :-1], sign * 0.8 * x[:, :1] + 0.6 * x[:, -1:]], 1)
            for x, sign in zip(z, signs, strict=False)
        ]
        poses = [person.view(2000, 4, 2) for person in people]
        return float(_common([(g, torch.zeros_like(g)) for g in poses])[0][0, -1])

    assert found([1]) == pytest.approx(0.8, abs=0.03)
    assert found([1, 1]) == pytest.approx(0.8, abs=0.05)
    assert found([1, 1, 1, 1]) == pytest.approx(0.8, abs=0.05)
    assert found([1, -1]) == 0


def test_lengths_follow_the_table_and_go_on_in_proportion_beyond_it() -> None:
    here, there = torch.tensor([1.0, 2, 4]), torch.tensor([2.0, 2, 6])
    lengths = torch.tensor([0.5, 1, 1.5, 2, 3, 4, 10])
    ratio = torch.tensor([2, 2, 1.5, 1, 1.25, 1.5, 1.5])
    x = lengths[:, None] * torch.tensor([0.6, 0, -0.8])
    torch.testing.assert_close(with_length(x, here, there), ratio[:, None] * x)


def test_the_correlation_is_a_mean_over_people_however_many_poses_each_has() -> None:
    def found(few: float, many: float) -> float:
        """Of 500 poses of one person and 5,000 of another, with these correlations of two joints."""
        torch.manual_seed(0)
        z = torch.randn(5_500, 2, 3, dtype=torch.float64)
        r = torch.full((5_500, 1), many).double()
        r[:500] = few
        z[:, 1] = r * z[:, 0] + (1 - r * r).sqrt() * z[:, 1]
        person = (torch.arange(5_500) < 500).long()
        fitted = PoseDensity.fit(Prediction(0 * z, 0 * z), z, person)
        return float(fitted.correlation[0, 3])

    assert found(0.8, 0.4) == pytest.approx(found(0.4, 0.8), abs=0.03)
    assert found(0.6, 0.6) == pytest.approx(0.6, abs=0.03)
