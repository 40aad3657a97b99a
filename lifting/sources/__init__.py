"""What the converters (``data/prepare_*.py``) read: each layout in which people hold the data sets."""
