"""How submitted jobs are found and reached."""
