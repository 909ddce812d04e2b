"""What the evaluation of any task shares: the loop, the results folder, PNGs."""
