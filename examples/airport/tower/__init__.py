"""The control tower: what `./demo` runs. Gets the data, starts everything, watches, and reconciles."""
