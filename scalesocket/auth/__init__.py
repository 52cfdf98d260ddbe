"""Authentication: who a client is, and what it may do. One module for each way; `authenticator.py` tries them in order."""
