"""Training of any task: the train step, the loop, optimizers, and the watchdog."""
