"""Tables of Human3.6M: subjects, joints, sequence names, cameras.

The camera parameters are those of the data set's own ``metadata.xml``, as VideoPose3D and Martinez et al. publish them:
translations in millimetres (the camera's centre in the world), orientations as unit quaternions (w, x, y, z) that
rotate camera axes into world axes, and four sets of intrinsics shared by all subjects.
"""

import re

import torch

from lifting.geometry.cameras import Camera, matrix_from_quaternion

SUBJECTS = ("S1", "S5", "S6", "S7", "S8", "S9", "S11")
TRAIN_SUBJECTS = ("S1", "S5", "S6", "S7", "S8")
TEST_SUBJECTS = ("S9", "S11")
FRAME_RATE = 50.0

# The usual 17 joints among the 32 of the release; the other 15 repeat a neighbour or are end sites.
KEEP_17_OF_32 = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)

# Actions whose official names differ from the usual ones.
RENAMED_ACTIONS = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog"}

# In the order of the release, which counts its acts from 2.
FIRST_ACTION = 2
ACTIONS = (
    *("Directions", "Discussion", "Eating", "Greeting", "Phoning", "Posing", "Purchases", "Sitting", "SittingDown"),
    *("Smoking", "Photo", "Waiting", "Walking", "WalkDog", "WalkTogether"),
)

# Sequences of S9 whose 3D is wrong, because it is shifted relative to the pictures. Officially they are act 5
# sub-action 2, act 10 sub-action 2 and act 13 sub-action 1; their usual names are Greeting (1447 frames), SittingDown 1
# (1554) and Waiting 1 (1612), which public code that selects by name also leaves out. The number in a name is not that
# of the sub-action.
WRONG_S9 = ("Greeting", "SittingDown 1", "Waiting 1")

# camera: resolution (w, h), focal length (x, y), centre (x, y), radial k1 k2 k3, tangential in VideoPose3D's order
_INTRINSICS = {
    "54138969": (
        (1000, 1002),
        (1145.0494384765625, 1143.7811279296875),
        (512.54150390625, 515.4514770507812),
        (-0.20709891617298126, 0.24777518212795258, -0.0030751503072679043),
        (-0.0009756988729350269, -0.00142447161488235),
    ),
    "55011271": (
        (1000, 1000),
        (1149.6756591796875, 1147.5916748046875),
        (508.8486328125, 508.0649108886719),
        (-0.1942136287689209, 0.2404085397720337, 0.006819975562393665),
        (-0.0016190266469493508, -0.0027408944442868233),
    ),
    "58860488": (
        (1000, 1000),
        (1149.1407470703125, 1148.7989501953125),
        (519.8158569335938, 501.40264892578125),
        (-0.2083381861448288, 0.25548800826072693, -0.0024604974314570427),
        (0.0014843869721516967, -0.0007599993259645998),
    ),
    "60457274": (
        (1000, 1002),
        (1145.5113525390625, 1144.77392578125),
        (514.9682006835938, 501.88201904296875),
        (-0.198384091258049, 0.21832367777824402, -0.008947807364165783),
        (-0.0005872055771760643, -0.0018133620033040643),
    ),
}
CAMERA_NAMES = tuple(_INTRINSICS)

# subject: for each camera in the order above, (orientation w x y z), (centre x y z)
_EXTRINSICS = {
    "S1": (
        ((0.140705645, -0.150070176, -0.755240798, 0.622328043), (1841.10706, 4955.28467, 1563.44543)),
        ((0.615718782, -0.764836311, -0.148338258, 0.117947407), (1761.27856, -5078.00684, 1606.26501)),
        ((0.146514729, -0.146478519, 0.76530236, -0.609417558), (-1846.77771, 5215.04639, 1491.97241)),
        ((0.583400846, -0.785316229, 0.145488232, -0.14749594), (-1794.78967, -3722.69897, 1574.8927)),
    ),
    "S5": (
        ((0.146737725, -0.162370965, -0.7551893, 0.617893875), (2097.3916, 4880.94482, 1605.73242)),
        ((0.615975857, -0.762679219, -0.15728192, 0.118981503), (2031.70081, -5167.93311, 1612.9231)),
        ((0.142913714, -0.129078418, 0.767838478, -0.611014307), (-1620.59485, 5171.65869, 1496.43701)),
        ((0.592047989, -0.781421781, 0.127474859, -0.150364175), (-1637.17371, -3867.31738, 1547.0332)),
    ),
    "S6": (
        ((0.133789778, -0.156923965, -0.757109046, 0.619887948), (1935.45178, 4950.24561, 1618.08386)),
        ((0.614719748, -0.762881279, -0.161747679, 0.118192449), (1969.80396, -5128.73877, 1632.77881)),
        ((0.152994812, -0.135291308, 0.764609635, -0.611278117), (-1769.59644, 5185.36133, 1476.99341)),
        ((0.591610134, -0.780477405, 0.128322706, -0.156159386), (-1721.6687, -3884.13135, 1540.48792)),
    ),
    "S7": (
        ((0.143524185, -0.163133681, -0.754832864, 0.618882477), (1974.51294, 4926.35449, 1597.83264)),
        ((0.614167273, -0.763826251, -0.159664556, 0.117792994), (1937.05847, -5119.79004, 1631.56653)),
        ((0.1455006, -0.128748164, 0.76605165, -0.612713933), (-1741.81116, 5208.24951, 1464.82458)),
        ((0.591284811, -0.782176435, 0.124454737, -0.151964873), (-1734.71057, -3832.42139, 1548.58301)),
    ),
    "S8": (
        ((0.141105875, -0.155898675, -0.75619173, 0.619644046), (2150.65186, 4896.16113, 1611.90466)),
        ((0.616960168, -0.764766812, -0.148463503, 0.111581579), (2219.96558, -5148.45312, 1613.04407)),
        ((0.147144407, -0.133771196, 0.767012835, -0.610036969), (-1571.22156, 5137.01855, 1498.17615)),
        ((0.592782438, -0.782587051, 0.121478163, -0.146319956), (-1476.91333, -3896.74121, 1547.97217)),
    ),
    "S9": (
        ((0.155405879, -0.155482158, -0.753209531, 0.619959474), (2044.4585, 4935.11719, 1481.22754)),
        ((0.618784487, -0.763473511, -0.141322389, 0.119339682), (1990.95972, -5123.81055, 1568.80481)),
        ((0.133578271, -0.136710048, 0.768945456, -0.610073864), (-1670.99219, 5211.98584, 1528.38794)),
        ((0.587939918, -0.782340705, 0.142761439, -0.147948697), (-1696.04346, -3827.09985, 1591.41272)),
    ),
    "S11": (
        ((0.152324721, -0.154423207, -0.754756331, 0.619107008), (2098.44019, 4926.55469, 1500.27856)),
        ((0.618944943, -0.760091722, -0.15300633, 0.125525832), (2083.18237, -4912.17285, 1561.07861)),
        ((0.149432287, -0.156502277, 0.768123388, -0.602630436), (-1609.81531, 5177.33594, 1537.89673)),
        ((0.589425147, -0.78188771, 0.139912114, -0.147153616), (-1590.73804, -3854.16895, 1578.01758)),
    ),
}


def cameras(subject: str) -> dict[str, Camera]:
    """The four cameras of one subject, by name, in file order; lengths in metres.

    Raises:
        KeyError: Human3.6M publishes no extrinsics for this subject.
    """
    table = {}
    for (name, (size, focal, centre, radial, tangential)), (orientation, position_mm) in zip(
        _INTRINSICS.items(), _EXTRINSICS[subject], strict=True
    ):
        R = matrix_from_quaternion(torch.tensor(orientation, dtype=torch.float64)).T
        position = torch.tensor(position_mm, dtype=torch.float64) / 1000
        table[name] = Camera(
            size=size,
            focal=torch.tensor(focal, dtype=torch.float64),
            center=torch.tensor(centre, dtype=torch.float64),
            radial=torch.tensor(radial, dtype=torch.float64),
            tangential=torch.tensor(tangential, dtype=torch.float64),
            R=R,
            t=-R @ position,
        )
    return table


def action_of(sequence: str) -> str:
    """The action that a sequence belongs to: ``"Walking 1"`` -> ``"Walking"``, ``"TakingPhoto"`` -> ``"Photo"``."""
    action = re.sub(r"[ _]\d+$", "", sequence)
    return RENAMED_ACTIONS.get(action, action)
