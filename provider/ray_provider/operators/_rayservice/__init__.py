"""What the operators for RayServices are made of."""
