"""`embedfit diagnose`: where tuning did not help, which part is to blame, by the run's own files."""
