"""What is true of a job: observations, the verdict, the loop."""
