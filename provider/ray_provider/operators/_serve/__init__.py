"""What the operators for applications of Ray Serve are made of."""
