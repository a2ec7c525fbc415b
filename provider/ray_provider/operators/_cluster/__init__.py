"""What SetupRayCluster and DeleteRayCluster are made of."""
