"""Scripts for the people of the embedded set: postures, and the fifteen actions of Human3.6M composed of them.

A posture gives the offsets of some degrees of freedom of `motion.RANGES` from standing upright with hanging arms. An
action is a sequence of postures, from which `poses` makes random motion.
"""

from dataclasses import dataclass

# Trunk and legs; angles in degrees, lengths over that of the leg (see `motion.RANGES`).
POSTURES: dict[str, dict[str, float]] = {
    "upright": {},
    "shifted": {"sway": 0.07, "pelvis_side": 5, "spine_side": -7, "neck_side": 3},
    "look_left": {"neck_twist": 38, "spine_twist": 12},
    "look_right": {"neck_twist": -38, "spine_twist": -12},
    "look_down": {"neck_flex": 22, "spine_flex": 8},
    "look_up": {"neck_flex": -18, "spine_flex": -6},
    "turn_left": {"spine_twist": 24, "pelvis_twist": 18, "neck_twist": 15},
    "turn_right": {"spine_twist": -24, "pelvis_twist": -18, "neck_twist": -15},
    "arch": {"spine_flex": -14, "neck_flex": -14, "back": -0.04},
    "lean": {"pelvis_flex": 12, "spine_flex": 14},
    "hunch": {"pelvis_flex": 22, "spine_flex": 32, "neck_flex": -12},
    "slouch": {"pelvis_flex": -12, "spine_flex": 10, "neck_flex": 6},
    "bow": {"pelvis_flex": 28, "spine_flex": 26, "neck_flex": 8, "back": 0.09},
    "bend": {"height": -0.1, "back": 0.18, "pelvis_flex": 48, "spine_flex": 42, "neck_flex": -12},
    "crouch": {"height": -0.42, "back": 0.1, "pelvis_flex": 26, "spine_flex": 32, "neck_flex": -22},
    "dip": {"height": -0.14, "back": 0.07, "pelvis_flex": 14, "spine_flex": 12, "neck_flex": -10},
    "squat": {"height": -0.52, "back": 0.17, "pelvis_flex": 6, "spine_flex": 36, "neck_flex": -18},
    "floor": {"height": -0.85, "back": 0.62, "pelvis_flex": -12, "spine_flex": 26, "neck_flex": -4},
    "crossed": {"right_foot_up": 0.26, "right_foot_out": -0.34, "right_foot_forward": 0.16, "right_knee_out": -12},
    "ankle_on_knee": {"right_foot_up": 0.5, "right_foot_out": -0.26, "right_foot_forward": 0.02, "right_knee_out": 48},
    "legs_out": {"left_foot_forward": 0.26, "right_foot_forward": 0.3},
    "one_leg_out": {"left_foot_forward": 0.28, "right_foot_forward": -0.1},
    "tucked": {"left_foot_forward": -0.2, "right_foot_forward": -0.2},
    "apart": {"left_knee_out": 18, "right_knee_out": 18, "left_foot_out": 0.06, "right_foot_out": 0.06},
    "tailor": {
        "left_foot_forward": -0.2, "left_foot_out": -0.2, "left_knee_out": 52, "height": -0.02,
        "right_foot_forward": -0.28, "right_foot_out": -0.2, "right_knee_out": 52,
    },
}  # fmt: skip

# Angles in degrees, and the share of its swing that the arm keeps in a walk. A positive twist turns a bent forearm
# towards the middle of the body.
ARM_NAMES = ("arm_flex", "arm_out", "arm_twist", "elbow", "arm_swing")
ARMS = {
    "hang": (0, 11, 10, 16, 1),
    "hip": (-17, 44, 50, 80, 0),
    "pocket": (-17, 27, 22, 56, 0.1),
    "phone": (68, 46, -4, 146, 0.2),
    "mouth": (48, 20, 33, 136, 0),
    "table": (30, 16, 31, 66, 0),
    "chest": (23, 24, 35, 98, 0.2),
    "open": (19, 29, -21, 77, 0.2),
    "point_front": (73, 18, 30, 30, 0),
    "point_side": (17, 80, -49, 19, 0),
    "point_up": (88, 86, -23, 44, 0),
    "wave_in": (38, 88, -52, 102, 0),
    "wave_out": (31, 84, -72, 66, 0),
    "shake": (37, 11, 24, 60, 0),
    "camera": (62, 26, 28, 120, 0),
    "fold": (38, 10, 56, 84, 0),
    "watch": (46, 21, 47, 114, 0),
    "lap": (27, 14, 38, 60, 0),
    "knee": (38, 9, 28, 34, 0),
    "behind_head": (52, 126, -80, 142, 0),
    "leash": (23, 17, 8, 48, 0.2),
    "reach_up": (103, 28, 9, 50, 0),
    "reach_down": (52, 8, 34, 26, 0),
    "prop": (-32, 20, 20, 10, 0),
    "cigarette": (19, 26, -2, 100, 0.2),
    "bag": (0, 15, 14, 10, 0.4),
    "high": (48, 126, -68, 48, 0),
    "wide": (6, 82, -22, 12, 0),
}
# Added to every posture on a chair.
SEATED = {"height": -0.43, "back": 0.48, "pelvis_flex": -8, "spine_flex": 10}


@dataclass(frozen=True)
class Action:
    """The script of one action.

    Phrases are drawn at random. Each lists the postures that follow one another: "trunk right-arm left-arm, trunk
    right-arm left-arm". "a|b" draws one of the two, "a+b" adds both.
    """

    grounds: tuple[str, str]  # of the first and the second sequence: stand, stay (no steps), walk, chair
    phrases: tuple[str, ...]
    hold: tuple[float, float] = (0.3, 1.2)  # seconds in a posture
    move: tuple[float, float] = (0.5, 0.9)  # seconds from one posture to the next
    speed: tuple[float, float] = (1.0, 1.35)  # walking speed, m/s
    legs: tuple[str, ...] = ("upright", "tucked", "apart", "one_leg_out", "crossed")  # for sequences on a chair


ANY_SEAT = "upright|slouch|slouch+crossed|upright+tucked|slouch+legs_out|lean|upright+apart|upright+ankle_on_knee"
ACTIONS = {
    "Directions": Action(("stand", "stand"), (
        "upright|look_right|turn_right point_front|point_side|point_up hang|hip|pocket, upright|lean open|hang hang",
        "upright|look_left|turn_left hang|hip point_front|point_side, look_down|upright chest|open open|hang",
        "turn_right|look_right point_side|open point_front|hang",
    )),
    "Discussion": Action(("stand", "stand"), (
        "upright|shifted|lean chest|open|hang chest|open|hang, upright|shifted|look_left open|chest open|chest|hip",
        "shifted|upright|look_right fold|hip|hang fold|open|hang, lean|upright open|point_front|chest chest|hang|open",
    ), hold=(0.1, 0.7), move=(0.35, 0.7)),
    "Eating": Action(("chair", "chair"), (
        "lean|upright|look_down table table|lap, upright|lean mouth table|lap",
        "lean|look_down table table, lean|look_down mouth mouth|table",
        "slouch|look_left|look_right table|lap table|lap",
    ), hold=(0.2, 0.7)),
    "Greeting": Action(("stand", "stand"), (
        "upright|look_right wave_in hang|hip, upright wave_out hang, upright wave_in hang, upright wave_out hang|open",
        "upright|bow shake|hang hang, lean shake hang|chest, lean shake|chest hang",
        "upright|arch wide|high wide|high|hang, upright hang|open hang|open",
    ), hold=(0.05, 0.4), move=(0.4, 0.65)),
    "Phoning": Action(("stand", "chair"), (
        "upright|look_left|look_right|look_down phone hang|pocket|chest|hip, lean|upright phone open|hang|chest",
    ), hold=(0.4, 1.4)),
    "Photo": Action(("stand", "stand"), (
        "upright|lean|dip camera camera, upright|dip|crouch|look_up camera camera",
        "upright|look_down chest chest|hang, turn_left|turn_right|lean|crouch camera camera",
    ), hold=(0.5, 1.3)),
    "Posing": Action(("stand", "stand"), (
        "shifted|arch|turn_left hip hip|hang, turn_right|upright|arch behind_head hip|behind_head",
        "shifted|look_right high|wide|point_up hip|high|wide, upright|look_left fold|pocket fold|pocket",
        "dip|arch|lean knee|hip|high wide|point_side|hip",
    ), hold=(0.6, 1.5)),
    "Purchases": Action(("stand", "stand"), (
        "bend|bend|crouch reach_down reach_down|hang|knee, upright|look_down chest chest|hang",
        "upright|look_up reach_up hang|bag, upright|look_down chest|table bag|chest|table",
        "lean|turn_left|turn_right point_front|reach_up bag|hang, look_down|bow table|chest table|bag",
    ), hold=(0.2, 0.8), move=(0.6, 1.0)),
    "Sitting": Action(("chair", "chair"), (
        f"{ANY_SEAT} lap|knee|fold lap|knee|fold, {ANY_SEAT} lap|open|chest lap|knee",
        "hunch|hunch+apart|lean knee|reach_down knee|lap, look_left|look_right|slouch+crossed lap|hip lap|knee",
        f"{ANY_SEAT} mouth|behind_head|open lap|fold, {ANY_SEAT} lap|knee lap|knee",
    ), hold=(0.5, 1.8), move=(0.6, 1.1), legs=("upright",)),
    "SittingDown": Action(("stay", "stay"), (
        "upright|lean hang hang, squat reach_down reach_down|prop, floor|floor+legs_out prop|knee|lap prop|knee|lap,"
        "floor+tailor|floor|floor+one_leg_out lap|knee|prop lap|knee|prop, squat reach_down reach_down",
        "squat knee|reach_down knee|reach_down, floor+tailor|floor lap|knee|prop lap|knee,"
        "floor+look_left|floor+look_right lap|open|point_front prop|knee, squat reach_down reach_down,"
        "upright hang hang",
    ), hold=(0.1, 0.7), move=(0.9, 1.3)),
    "Smoking": Action(("stand", "chair"), (
        "upright|shifted|look_left cigarette|hang hang|pocket|chest, upright|look_up mouth hang|pocket|fold",
        "look_down|upright|look_right cigarette hang|hip, lean|upright mouth hang|chest",
    )),
    "Waiting": Action(("stand", "chair"), (
        "shifted|look_left|look_right fold|hang|hip fold|pocket, shifted|upright|lean hang|pocket hang|pocket",
        "look_down|upright hang|hip watch, turn_left|turn_right|look_up hang|hip|behind_head hang|hip|pocket",
        "lean|bow|upright knee|lap|hang knee|lap|hang",
    ), hold=(0.4, 1.6)),
    "WalkDog": Action(("walk", "walk"), (
        "lean|look_down|look_right leash|shake hang, upright|look_left leash|point_front hang|pocket|bag",
    ), speed=(0.75, 1.15)),
    "Walking": Action(("walk", "walk"), (
        "upright|look_down|look_left|look_right|lean hang hang",
    ), hold=(0.6, 2.0)),
    "WalkTogether": Action(("walk", "walk"), (
        "look_left|look_left|upright hang|open|chest hang|bag, look_right|look_down|upright hang|pocket hang|open",
    ), hold=(0.4, 1.2), speed=(0.85, 1.2)),
}  # fmt: skip
