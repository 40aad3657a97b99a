"""2D keypoints of any detector, brought to Human3.6M's joints. It needs no torch."""
