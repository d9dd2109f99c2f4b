"""Virtual actors: where they live, whose turn it is, what they keep."""
