"""From a job's description to a job on Ray: packaging, runtime environments, identity, one submit."""
