"""The admin surface: a listener of its own, whose requests are authenticated, and the operations on the site over HTTP."""
