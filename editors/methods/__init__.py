"""One module per editing method; the module's name is the method's name."""
