"""Small pieces that every folder may use: they know nothing of Ray, Kubernetes, Terraform or Airflow."""
