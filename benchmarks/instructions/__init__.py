"""What the compiled walks cost, in instructions: the one figure that a busy machine does not change."""
