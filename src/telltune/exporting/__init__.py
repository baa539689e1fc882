"""Exports of an adapter to the formats of other programs."""
