"""A first recipe for data: columns, kind of task, split and anchor, guessed without a model."""
