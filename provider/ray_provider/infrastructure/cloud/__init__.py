"""AWS and Google Cloud: credentials, whether a cluster exists, and the marks it bears."""
