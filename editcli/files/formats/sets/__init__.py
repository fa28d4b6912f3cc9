"""The formats that ship with editcli, a module for each family of sets."""
