"""Job folders, submission through submitit, job records."""
