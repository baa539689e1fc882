"""What a fit does: its plan, the steps before training, and the folder that it writes."""
