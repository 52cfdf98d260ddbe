"""The operations on a running site: one table, for the control socket and the admin API alike."""
