"""The sections of a configuration, with their defaults and ranges."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from lifting.geometry.h36m import TEST_SUBJECTS, TRAIN_SUBJECTS

PositiveInt = Annotated[int, Field(ge=1)]
# Human3.6M's cameras are named by numbers, which YAML reads as integers.
CameraName = Annotated[str, BeforeValidator(lambda name: str(name) if isinstance(name, int) else name)]


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("expected the lower limit first")
    return limits


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Positive = Annotated[float, Field(gt=0)]
Elevation = Annotated[float, Field(ge=-90, le=90)]
Range = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]


class PoseAugmentConfig(_Section):
    """How training poses are changed, anew in each batch (`datasets.pose_augment`); the defaults change nothing."""

    bones: float = Field(0.0, ge=0, lt=1, description="each bone's length is multiplied by 1 +- this, left as right")
    stature: float = Field(0.0, ge=0, lt=1, description="the whole person is multiplied by 1 +- this")
    cameras: bool = Field(False, description="a new camera for each pose, drawn from the ranges below")
    distance: Range = Field((2.0, 12.0), description="from the camera to the pelvis, metres")
    height: Range = Field((0.15, 1.0), description="of a standing person over the shorter side of the picture")
    focal: Range = Field((0.5, 4.0), description="limits of the focal length over the width of the picture")
    elevation: Annotated[tuple[Elevation, Elevation], AfterValidator(_rising)] = Field(
        (-15.0, 35.0), description="degrees by which the camera looks down"
    )
    anywhere: float = Field(0.05, ge=0, le=1, description="share of poses seen from any elevation, -85 to 85 degrees")
    roll: float = Field(5.0, ge=0, le=180, description="degrees, either way")
    distortion: float = Field(0.1, ge=0, lt=0.3, description="largest first radial term, either way")
    noise: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="largest sigma of a pose's noise over the stature; a joint has 0.5 to 1.5 times its pose's",
    )
    misses: float = Field(0.0, ge=0, le=1, description="share of joints that the detector puts somewhere else")
    swaps: float = Field(0.0, ge=0, le=1, description="share of poses with left and right exchanged, of arms or legs")
    missing: float = Field(0.0, ge=0, lt=1, description="largest share of a pose's joints that are missing")
    scores: float = Field(0.0, ge=0, le=1, description="share of poses whose joints have scores below one")
    unchanged: float = Field(0.0, ge=0, lt=1, description="share of poses that none of these changes")

    @property
    def changes(self) -> bool:
        """Whether anything is changed."""
        shares = (self.bones, self.stature, self.noise, self.misses, self.swaps, self.missing, self.scores)
        return self.cameras or any(share > 0 for share in shares)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("expected each once")
    return names


Names = Annotated[tuple[str, ...], AfterValidator(_distinct)]
Stride = Annotated[int, Field(ge=1, le=10**9)]


class DataConfig(_Section):
    path: str | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "synthetic", description="a prepared HDF5 file, or several, or the embedded synthetic set"
    )
    test_path: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="the files of the test subjects, if not path"
    )
    train_subjects: Names = Field(TRAIN_SUBJECTS, min_length=1)
    test_subjects: Names = Field(TEST_SUBJECTS, min_length=1)
    train_actions: tuple[str, ...] = Field(
        (), description="names with or without sequence numbers; -name leaves one out; empty takes all"
    )
    test_actions: tuple[str, ...] = ()
    train_cameras: tuple[CameraName, ...] = Field((), description="names, or -name, like the actions")
    test_cameras: tuple[CameraName, ...] = ()
    drop_wrong_s9: bool = Field(False, description="leave out S9's recordings whose 3D is wrong: h36m.WRONG_S9")
    keypoints: str = Field("gt", description="gt projects the 3D joints; any other name is a detector in the file")
    stride: Stride = Field(1, description="train on every n-th frame")
    test_stride: Stride = Field(1, description="test on every n-th frame")
    noise_px: float = Field(
        0.0, ge=0, le=100, description="sigma of Gaussian noise on keypoints, pixels: new in each epoch, fixed at test"
    )
    missing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of keypoints that are missing, for model.input person; drawn like the noise",
    )
    augment: PoseAugmentConfig = PoseAugmentConfig()


LifterInput = Literal["screen", "both", "person"]
INPUT: LifterInput = Field(
    "screen",
    description="screen: a joint's place on the screen, and the camera frame as output; both: that place and the one "
    "relative to the person, with the same output; person: its place relative to the person, with a mask of missing "
    "joints, and the frame about the viewing ray of the pelvis",
)


class FCConfig(_Section):
    name: Literal["fc"] = "fc"
    width: int = Field(1024, ge=1, le=65536)
    blocks: int = Field(2, ge=0, le=1000)
    dropout: float = Field(0.25, ge=0, lt=1)
    sigma: Literal["coordinate", "joint"] = Field("joint", description="one sigma per coordinate, or one per joint")
    input: LifterInput = INPUT


class SRNetConfig(_Section):
    name: Literal["srnet"] = "srnet"
    width: int = Field(1024, ge=8, le=65536, description="features of a hidden layer, over all groups")
    groups: Literal[5, 3, 2] = 5
    layers: Literal[6, 8] = 6
    recombine: Literal["multiply", "add", "concat"] = Field("multiply", description="see srnet.GroupLayer")
    dropout: float = Field(0.0, ge=0, lt=1)
    sigma: Literal["coordinate", "joint"] = Field("joint", description="one sigma per coordinate, or one per joint")
    input: LifterInput = INPUT


LifterConfig = FCConfig | SRNetConfig


class AugmentConfig(_Section):
    scale: float = Field(0.3, ge=0, lt=1, description="the crop's side is multiplied by 1 +- this")
    rotation: float = Field(30.0, ge=0, le=180, description="degrees, either way")
    colour: float = Field(0.2, ge=0, lt=1, description="each channel is multiplied by 1 +- this")
    occlude: float = Field(0.5, ge=0, le=1, description="probability of a noise rectangle over part of the person")


def _sides(size: int | tuple[int, int]) -> int | tuple[int, int]:
    for side in (size,) if isinstance(size, int) else size:
        if not 32 <= side <= 1024 or side % 32:
            raise ValueError("expected multiples of 32 from 32 to 1024")
    return size


CropSize = Annotated[int | tuple[int, int], AfterValidator(_sides)]


class ImageDataConfig(_Section):
    path: str = Field(
        "rendered",
        description="a prepared index of images, with 3D labels for a 3D network; or an embedded set: rendered has 3D "
        "labels, rendered_mpii is like MPII, rendered_coco like COCO",
    )
    flat_path: str | None = Field(
        None, description="an index of images with 2D labels to mix in; rendered and rendered_coco are embedded ones"
    )
    train_parts: Names = Field(TRAIN_SUBJECTS, min_length=1, description="subjects or splits in path")
    test_parts: Names = Field(TEST_SUBJECTS, min_length=1)
    flat_train_parts: Names = Field(("train",), min_length=1, description="splits in flat_path")
    flat_test_parts: Names = Field(("valid",), min_length=1)
    stride: Stride = Field(1, description="train on every n-th image of path")
    test_stride: Stride = Field(1, description="test on every n-th image of path")
    drop_wrong_s9: bool = Field(False, description="leave out S9's recordings whose 3D is wrong: h36m.WRONG_S9")
    size: CropSize = Field(
        256,
        description="side of the network's input crop, pixels; width and height for 2D networks, such as [192, 256]",
    )
    augment: AugmentConfig = AugmentConfig()
    overfit: bool = Field(
        False, description="allow test pictures among the training pictures, to see whether a network can fit a few"
    )
    on_broken: Literal["stop", "skip"] = Field("stop", description="what to do about an image that cannot be read")
    workers: int = Field(0, ge=0, description="processes per rank that read images; 0 reads in the main process")


BackboneName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
HRNetName = Literal["hrnet_w32", "hrnet_w48"]


class _ImageModelConfig(_Section):
    backbone: BackboneName = "resnet50"
    width: int = Field(
        64, ge=8, le=4096, multiple_of=4, description="features of the first stage; 64 in the published networks"
    )
    weights: str | None = Field(
        None, description="file of weights that initialise the backbone; see models.pretrained.load_backbone"
    )


DIMS: Literal[2, 3] = Field(3, description="3: joints in space, of Human3.6M; 2: joints in the picture, of any set")


class RegressorConfig(_ImageModelConfig):
    name: Literal["regressor"] = "regressor"
    dims: Literal[2, 3] = DIMS
    sigma: Literal["coordinate", "joint"] = Field("joint", description="one sigma per coordinate, or one per joint")
    input: Literal["imagenet", "reference", "reference_2d", "mmpose"] = Field(
        "imagenet",
        description="normalisation of pixels; the others are those of released weights, of the authors (3D and 2D) and "
        "of mmpose",
    )


class IntegralConfig(_ImageModelConfig):
    name: Literal["integral"] = "integral"
    dims: Literal[2, 3] = DIMS


class SimplePoseConfig(_ImageModelConfig):
    name: Literal["simplepose"] = "simplepose"
    dims: Literal[2] = 2
    backbone: BackboneName | HRNetName = Field(  # type: ignore[assignment]
        "resnet50", description="an HRNet needs no deconvolutions and starts with its authors' weights for poses"
    )


class HRNetPoseConfig(_ImageModelConfig):
    name: Literal["hrnet"] = "hrnet"
    dims: Literal[2] = 2
    backbone: HRNetName = "hrnet_w32"  # type: ignore[assignment]
    sigma: Literal["coordinate", "joint"] = Field("joint", description="one sigma per coordinate, or one per joint")


ImageModelConfig = RegressorConfig | IntegralConfig | SimplePoseConfig | HRNetPoseConfig


def _named(default: str) -> Discriminator:
    """Selects the keys of a ``model`` section by the name it gives, or by the default if it gives none."""
    return Discriminator(lambda m: str(m.get("name", default) if isinstance(m, dict) else getattr(m, "name", default)))


class FlowConfig(_Section):
    kind: Literal["realnvp", "nsf", "maf"] = Field("realnvp", description="nsf and maf need the extra zuko")
    couplings: int = Field(6, ge=1, le=100)
    layers: int = Field(3, ge=2, le=100)
    width: int = Field(64, ge=1, le=4096)


LossName = Literal[
    "rle", "dle", "flow", "rle_reference", "rle_mmpose", "laplace", "gaussian", "radial", "l1", "l2", "mpjpe"
]


class LossConfig(_Section):
    """The defaults are the recommended form of RLE, as in configs/lifting/fc_rle.yaml."""

    name: LossName = "rle"
    base: Literal["laplace", "gaussian", "radial"] = "radial"
    beta: float = Field(
        1.0, ge=0, le=4, description="power of sigma on mu's gradient, 0 in the paper; see likelihood.Likelihood"
    )
    normalise: bool = Field(True, description="include log s in the training loss of rle; the paper leaves it out")
    flow_steers_mu: bool = Field(
        False, description="whether the gradient of rle's flow reaches mu, as it does in the paper"
    )
    flow_share: float = Field(
        1.0, gt=0, le=1, description="share of the joints whose log G a step of rle computes; see likelihood.RLE"
    )
    flow: FlowConfig = FlowConfig()


class ImageLossConfig(LossConfig):
    name: LossName | Literal["heatmap"] = Field(  # type: ignore[assignment]
        "rle", description="heatmap is that of model.name simplepose, and of no other"
    )
    heatmap: float = Field(0.0, ge=0, description="weight of an auxiliary heatmap loss on the backbone (Tab. 14)")


class TrainConfig(_Section):
    epochs: PositiveInt = 80
    batch_size: int = Field(1024, ge=2, description="over all ranks")
    lr: float = Field(1e-3, gt=0, le=1)
    lr_decay: float = Field(
        0.95, gt=0, le=1, description="factor on the learning rate after every epoch, or at lr_steps if there are any"
    )
    lr_steps: tuple[PositiveInt, ...] = Field((), description="epochs after which the learning rate falls")
    warmup_steps: int = Field(200, ge=0, description="steps over which the learning rate rises from zero")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the whole gradient")
    amsgrad: bool = Field(
        False, description="Adam divides by the largest mean of squared gradients so far, not by the latest"
    )
    bn_batches: int = Field(
        32, ge=0, description="batches from which batch norm's statistics are taken after every epoch; 0: running means"
    )
    flip: bool = Field(True, description="mirror half of each batch, and average over the mirror image at test")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 if the machine computes in it natively"
    )
    compile: bool = False
    cuda_graph: bool = Field(True, description="on one CUDA GPU: record a step, and replay it for every batch")
    device: str = Field("auto", description="auto: a GPU if there is one")
    save_minutes: float = Field(
        10.0, ge=0, description="minutes between two checkpoints in the middle of an epoch; 0: only after epochs"
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop", description="what to do about a step whose loss or gradient is not finite; skipped ones are counted"
    )


class ImageTrainConfig(TrainConfig):
    """The recipe of the RLE paper's single-stage model."""

    epochs: PositiveInt = 140
    batch_size: int = Field(256, ge=2, description="over all ranks; half of it from flat_path if that is given")
    lr_decay: float = Field(
        0.1, gt=0, le=1, description="factor on the learning rate at lr_steps, or after every epoch if there are none"
    )
    lr_steps: tuple[PositiveInt, ...] = (90, 120)
    channels_last: bool = Field(True, description="store the channels of a pixel next to each other in memory")


class RunConfig(_Section):
    """The sections that the training engine needs, in either track."""

    loss: LossConfig
    train: TrainConfig
    seed: int = Field(0, ge=0, le=10**9)


class Config(RunConfig):
    """The lifting track."""

    track: ClassVar[str] = "lifting"
    data: DataConfig = DataConfig()
    model: Annotated[Annotated[FCConfig, Tag("fc")] | Annotated[SRNetConfig, Tag("srnet")], _named("fc")] = FCConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()


class SingleStageConfig(RunConfig):
    """The single-stage track."""

    track: ClassVar[str] = "single_stage"
    data: ImageDataConfig = ImageDataConfig()
    model: Annotated[
        Annotated[RegressorConfig, Tag("regressor")]
        | Annotated[IntegralConfig, Tag("integral")]
        | Annotated[SimplePoseConfig, Tag("simplepose")]
        | Annotated[HRNetPoseConfig, Tag("hrnet")],
        _named("regressor"),
    ] = RegressorConfig()
    loss: ImageLossConfig = ImageLossConfig()
    train: ImageTrainConfig = ImageTrainConfig()


# The ``model`` sections by name; names are unique across both tracks.
MODELS: dict[str, type[_Section]] = {
    "fc": FCConfig,
    "srnet": SRNetConfig,
    "regressor": RegressorConfig,
    "integral": IntegralConfig,
    "simplepose": SimplePoseConfig,
    "hrnet": HRNetPoseConfig,
}
