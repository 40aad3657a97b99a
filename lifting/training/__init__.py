"""One training loop for both tracks: objective, engine, ranks, the options of a run."""
