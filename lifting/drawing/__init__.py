"""Figures: poses in 3D, diagrams of uncertainty."""
