"""The wire formats of the switches, without any I/O."""
