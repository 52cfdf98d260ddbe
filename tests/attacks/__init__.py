"""Attacks on a running server. Each is a program that prints its results: `python -m tests.attacks.rebinding`."""
