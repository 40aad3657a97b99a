"""Skeletons, cameras, crops, alignment and the tables of Human3.6M: nothing learned, no files."""
