"""From a job on Ray to its end: status, log, why it waits, why it failed."""
