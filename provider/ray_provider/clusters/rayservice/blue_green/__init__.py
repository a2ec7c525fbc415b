"""Two RayServices behind a Service of ours: a new version beside the one that serves, and which has the traffic."""
