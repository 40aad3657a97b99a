"""The sections of a configuration, with their defaults and ranges."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from lifting.geometry.h36m import TEST_SUBJECTS, TRAIN_SUBJECTS

PositiveInt = Annotated[int, Field(ge=1)]
# Human3.6M's cameras are called by numbers, which YAML takes for numbers.
CameraName = Annotated[str, BeforeValidator(lambda name: str(name) if isinstance(name, int) else name)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Section):
    path: str = Field("synthetic", description="a prepared HDF5 file, or the embedded synthetic set")
    train_subjects: tuple[str, ...] = Field(TRAIN_SUBJECTS, min_length=1)
    test_subjects: tuple[str, ...] = Field(TEST_SUBJECTS, min_length=1)
    train_actions: tuple[str, ...] = Field((), description="names without numbers, or -name to leave out; none for all")
    test_actions: tuple[str, ...] = ()
    train_cameras: tuple[CameraName, ...] = Field((), description="as the actions")
    test_cameras: tuple[CameraName, ...] = ()
    drop_wrong_s9: bool = Field(False, description="leave out S9's recordings of wrong 3D: h36m.WRONG_S9")
    keypoints: str = Field("gt", description="gt projects the 3D; any other name is a detector of the file")
    stride: PositiveInt = Field(1, description="every how many frames to train on")
    test_stride: PositiveInt = Field(1, description="every how many frames to test on")
    noise_px: float = Field(
        0.0, ge=0, le=100, description="Gaussian noise on keypoints: fresh in training, fixed in test"
    )


class FCConfig(_Section):
    name: Literal["fc"] = "fc"
    width: PositiveInt = 1024
    blocks: int = Field(2, ge=0)
    dropout: float = Field(0.25, ge=0, lt=1)
    sigma: Literal["coordinate", "joint"] = Field("joint", description="one sigma per coordinate, or one per joint")


class SRNetConfig(_Section):
    name: Literal["srnet"] = "srnet"
    width: int = Field(1024, ge=8, description="features of a hidden layer, all groups together")
    groups: Literal[5, 3, 2] = 5
    layers: Literal[6, 8] = 6
    recombine: Literal["multiply", "add", "concat"] = Field("multiply", description="see srnet.GroupLayer")
    dropout: float = Field(0.0, ge=0, lt=1)
    sigma: Literal["coordinate", "joint"] = Field("joint", description="one sigma per coordinate, or one per joint")


LifterConfig = FCConfig | SRNetConfig


class AugmentConfig(_Section):
    scale: float = Field(0.3, ge=0, lt=1, description="the crop's side is multiplied by 1 +- this")
    rotation: float = Field(30.0, ge=0, le=180, description="degrees, either way")
    colour: float = Field(0.2, ge=0, lt=1, description="each channel is multiplied by 1 +- this")
    occlude: float = Field(0.5, ge=0, le=1, description="probability of a noisy rectangle over a part of the person")


class ImageDataConfig(_Section):
    path: str = Field("rendered", description="a prepared index of images with 3D labels, or the embedded rendered set")
    flat_path: str | None = Field(None, description="one with 2D labels that is mixed in; rendered is the embedded one")
    train_parts: tuple[str, ...] = Field(TRAIN_SUBJECTS, min_length=1, description="subjects of path")
    test_parts: tuple[str, ...] = Field(TEST_SUBJECTS, min_length=1)
    flat_train_parts: tuple[str, ...] = Field(("train",), min_length=1, description="splits of flat_path")
    flat_test_parts: tuple[str, ...] = Field(("valid",), min_length=1)
    stride: PositiveInt = Field(1, description="every how many images of path to train on")
    test_stride: PositiveInt = Field(1, description="every how many images of path to test on")
    drop_wrong_s9: bool = Field(False, description="leave out S9's recordings of wrong 3D: h36m.WRONG_S9")
    size: int = Field(256, ge=32, le=1024, multiple_of=32, description="side of the crop that the network sees, pixels")
    augment: AugmentConfig = AugmentConfig()
    on_broken: Literal["stop", "skip"] = Field("stop", description="what to do about an image that cannot be read")
    workers: int = Field(0, ge=0, description="processes that read images, for each rank; 0 reads in the main one")


class _ImageModelConfig(_Section):
    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50"
    width: int = Field(64, ge=8, description="features of the first stage; torchvision's is 64")
    weights: str | None = Field(
        None, description="a file of weights that the backbone starts from: torchvision's, ours"
    )


class RegressorConfig(_ImageModelConfig):
    name: Literal["regressor"] = "regressor"
    sigma: Literal["coordinate", "joint"] = Field("joint", description="one sigma per coordinate, or one per joint")
    input: Literal["imagenet", "reference"] = Field(
        "imagenet", description="how pixels are normalised; reference is the authors' released weights' way"
    )


class IntegralConfig(_ImageModelConfig):
    name: Literal["integral"] = "integral"


ImageModelConfig = RegressorConfig | IntegralConfig


def _named(default: str) -> Discriminator:
    """Which keys a ``model`` section has: those of the name it gives, of the default if it gives none."""
    return Discriminator(lambda m: str(m.get("name", default) if isinstance(m, dict) else getattr(m, "name", default)))


class FlowConfig(_Section):
    kind: Literal["realnvp", "nsf", "maf"] = Field("realnvp", description="nsf and maf are zuko's, an extra")
    couplings: PositiveInt = 6
    layers: int = Field(3, ge=2)
    width: PositiveInt = 64


class LossConfig(_Section):
    """The defaults are the recommended form of RLE, those of configs/lifting/fc_rle.yaml."""

    name: Literal["rle", "dle", "flow", "rle_reference", "laplace", "gaussian", "radial", "l1", "l2", "mpjpe"] = "rle"
    base: Literal["laplace", "gaussian", "radial"] = "radial"
    beta: float = Field(1.0, ge=0, le=4, description="0 is the paper's; see likelihood.Likelihood")
    normalise: bool = Field(True, description="log s in the training loss of rle; the paper leaves it out")
    flow_steers_mu: bool = Field(
        False, description="whether the gradient of rle's flow reaches mu; it does in the paper"
    )
    flow: FlowConfig = FlowConfig()


class ImageLossConfig(LossConfig):
    heatmap: float = Field(0.0, ge=0, description="weight of an auxiliary heatmap loss on the backbone (Tab. 14)")


class TrainConfig(_Section):
    epochs: PositiveInt = 80
    batch_size: int = Field(1024, ge=2, description="over all ranks")
    lr: float = Field(1e-3, gt=0, le=1)
    lr_decay: float = Field(0.95, gt=0, le=1, description="factor an epoch, or at each of lr_steps where there are any")
    lr_steps: tuple[PositiveInt, ...] = Field((), description="epochs after which the learning rate falls")
    warmup_steps: int = Field(200, ge=0, description="steps over which the learning rate rises from zero")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the whole gradient")
    bn_batches: int = Field(
        32, ge=0, description="batches over which batch norm's statistics are taken, every epoch; 0: running means"
    )
    flip: bool = Field(True, description="mirror half of each batch, and average over the mirror image at test")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the machine has units for it"
    )
    compile: bool = False
    device: str = Field("auto", description="auto: a GPU if there is one")


class ImageTrainConfig(TrainConfig):
    """The recipe of the RLE paper's single-stage model."""

    epochs: PositiveInt = 140
    batch_size: int = Field(256, ge=2, description="over all ranks; half of it of flat_path where that is given")
    lr_decay: float = Field(0.1, gt=0, le=1, description="factor at each of lr_steps; an epoch where there are none")
    lr_steps: tuple[PositiveInt, ...] = (90, 120)
    channels_last: bool = Field(True, description="keep the channels of a pixel together in memory")


class RunConfig(_Section):
    """What the engine asks of a configuration, whichever track it is of."""

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
        Annotated[RegressorConfig, Tag("regressor")] | Annotated[IntegralConfig, Tag("integral")], _named("regressor")
    ] = RegressorConfig()
    loss: ImageLossConfig = ImageLossConfig()
    train: ImageTrainConfig = ImageTrainConfig()


# What stands under ``model``, by its name; names are unique over the tracks.
MODELS: dict[str, type[_Section]] = {
    "fc": FCConfig,
    "srnet": SRNetConfig,
    "regressor": RegressorConfig,
    "integral": IntegralConfig,
}
