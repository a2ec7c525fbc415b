"""A cluster's life: set-up, use by several tasks, removal, and what is left behind."""
