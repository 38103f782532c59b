"""What a command ends with, 1 apart, which is anything else."""

DONE = 0
USERS_FAULT = 2
STOPPED = 3
"""By a signal; what was done is saved, and the same command goes on."""
