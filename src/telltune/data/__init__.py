"""Data: from files to examples, and from examples to the token ids that training sees."""
