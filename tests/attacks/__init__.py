"""Attacks on a running server, each a program of its own: `python -m tests.attacks.rebinding`. They print what came of it."""
