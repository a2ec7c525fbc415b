"""What operators are made of whose job runs in a cluster of its own by a RayJob."""
