"""`python -m scalesocket` is `scalesocket`."""

from scalesocket.cli.main import main

main()
