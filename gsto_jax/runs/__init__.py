"""Training runs: workdir, checkpoints, experiments, and loading of trained networks."""
