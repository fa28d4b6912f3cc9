"""`python -m editcli`."""

from editcli.app import main

main()
