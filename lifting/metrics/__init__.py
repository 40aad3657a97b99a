"""Pose errors and calibration as pure functions of arrays."""
