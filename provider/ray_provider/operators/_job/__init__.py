"""What SubmitRayJob and @task.ray are made of."""
