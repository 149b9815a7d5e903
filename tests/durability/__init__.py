"""What survives: the real product under crashes, with an oracle of what its hosts were told."""
