"""Proportions of the human body."""

# Bone lengths over stature. Limbs: Drillis and Contini (1966), as in Winter's "Biomechanics and Motor Control of Human
# Movement", table 4.1. Hips, shoulders, trunk and head: the outer dimensions there, shortened to joint centres.
RATIOS = {
    "hip": 0.074, "thigh": 0.245, "shank": 0.246, "ankle": 0.047, "lumbar": 0.136, "thorax": 0.146,
    "neck": 0.070, "head": 0.072, "shoulder": 0.088, "upper_arm": 0.166, "forearm": 0.146,
}  # fmt: skip
