"""Parts of a fit: its plan, the steps before training, and the folder that it writes."""
