"""What commands do with a store and a model together. Imports everything below, no command."""
